"""The proxy in front of Prefect's API: what a silo may ask, and nothing else.

    python -m infra.proxy HOME

Prefect's own API has one password for everything: whoever has it can run, read and change all
there is. A silo therefore never gets it. It comes here over TLS 1.3, says who it is by a pass that
its own key signed, and may make the calls that its worker makes, on its own work pool: look at the
pool, beat, fetch its runs, look at a run's flow and deployment, label it, and say its state. For a
run, a deployment and a flow the proxy asks the server first which pool it belongs to.

The address that is asked is built from a rule, never from the caller's; a body is read by a strict
model and written anew. Events, WebSockets, queries and every other call are refused: `tacit.*` is
the coordinator's to tell, and a worker whose channel is refused goes on by plain requests.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import httpx
import uvicorn
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from federation.errors import TacitError
from federation.home import Home
from flows import passes
from flows.pools import pool_of
from infra.exchange import host_of, listens_at
from infra.prefect_site import Site, members

log = logging.getLogger("tacit.proxy")

BODY = 64 << 10
"""The largest body that is read, in bytes; a worker's are far smaller."""

KNOWN = 30.0
"""Seconds for which it is known that a run, a deployment or a flow is on a pool."""

_ID = r"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_Text = Annotated[str, Field(max_length=256)]


class _Body(BaseModel):
    """A body: these fields and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scheduled(_Body):
    """What a worker asks of its pool; it has no queues but the pool's own."""

    work_queue_names: Annotated[list[_Text], Field(max_length=0)] = []
    scheduled_before: AwareDatetime | None = None
    scheduled_after: None = None


class Heartbeat(_Body):
    """A worker's sign of life."""

    name: _Text
    heartbeat_interval_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    return_id: bool = False


class Details(BaseModel):
    """Of a state's details only what tells a repeated request from a new one is passed on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    transition_id: UUID | None = None


class SaidState(_Body):
    """A state of a run: a word and a code, without data."""

    type: Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED"]
    name: _Text | None = None
    message: _Text | None = None
    data: None = None
    state_details: Details = Details()


class SetState(_Body):
    """A state, never by force."""

    state: SaidState
    force: Literal[False] = False


class Labels(_Body):
    """Who runs it."""

    worker: _Text = Field(alias="prefect.worker.name")
    worker_type: _Text = Field(alias="prefect.worker.type")
    pool: _Text = Field(alias="prefect.work-pool.name")
    pool_id: UUID = Field(alias="prefect.work-pool.id")


Check = Callable[["Proxy", str, str], Awaitable[bool]]


async def _run_is_of(proxy: Proxy, pool: str, id: str) -> bool:
    return await proxy.pool_at(f"/flow_runs/{id}") == pool


async def _deployment_is_of(proxy: Proxy, pool: str, id: str) -> bool:
    return await proxy.pool_at(f"/deployments/{id}") == pool


async def _flow_is_of(proxy: Proxy, pool: str, id: str) -> bool:
    asked = {
        "flows": {"id": {"any_": [id]}},
        "work_pools": {"name": {"any_": [pool]}},
        "limit": 1,
    }
    answer = await proxy.server.post("/deployments/filter", json=asked)
    return answer.status_code == 200 and len(answer.json()) == 1


@dataclass(frozen=True)
class Rule:
    """One call that a silo may make; `{pool}` is its own, and an id has to pass the check."""

    method: str
    path: str
    body: type[_Body] | None = None
    check: Check | None = None

    def match(self, method: str, path: str, pool: str) -> dict[str, str] | None:
        """The parts of a path that this rule is about, or None."""
        if method != self.method:
            return None
        pattern = re.escape(self.path).replace(r"\{pool\}", re.escape(pool)).replace(r"\{id\}", _ID)
        found = re.fullmatch(pattern, path)
        return None if found is None else found.groupdict()


RULES = (
    Rule("GET", "/work_pools/{pool}"),
    Rule("POST", "/work_pools/{pool}/get_scheduled_flow_runs", Scheduled),
    Rule("POST", "/work_pools/{pool}/workers/heartbeat", Heartbeat),
    Rule("POST", "/flow_runs/{id}/set_state", SetState, _run_is_of),
    Rule("PATCH", "/flow_runs/{id}/labels", Labels, _run_is_of),
    Rule("GET", "/deployments/{id}", check=_deployment_is_of),
    Rule("GET", "/flows/{id}", check=_flow_is_of),
)


class Proxy:
    """The rules between a federation's silos and one Prefect server.

    `keys` tells the public keys of those who may ask, now.
    """

    def __init__(
        self, server: httpx.AsyncClient, federation: str, keys: Callable[[], Mapping[str, str]]
    ) -> None:
        self.server = server
        self._federation = federation
        self._keys = keys
        self._owned: dict[tuple[str, str], float] = {}
        self.app: ASGIApp = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "PATCH"])]
        )

    async def pool_at(self, path: str) -> str | None:
        """The work pool of what the server has at a path."""
        answer = await self.server.get(path)
        found = answer.json().get("work_pool_name") if answer.status_code == 200 else None
        return None if found is None else str(found)

    async def _answer(self, request: Request) -> Response:
        silo = self._silo(request.headers.get("authorization", ""))
        if silo is None:
            return _refusal(401, "say who you are")
        try:
            allowed = await self._allowed(request, silo)
            if allowed is None:
                asked = ascii(request.url.path[:200])
                log.warning("silo %s is refused: %s %s", silo, request.method, asked)
                return _refusal(403, "not one of the calls that a silo's worker makes")
            path, body = allowed
            answer = await self.server.request(
                request.method,
                path,
                content=body,
                headers={} if body is None else {"Content-Type": "application/json"},
            )
        except httpx.HTTPError:
            return _refusal(503, "Prefect does not answer", {"Retry-After": "2"})
        kept = {k: v for k, v in answer.headers.items() if k in ("content-type", "retry-after")}
        return Response(answer.content, answer.status_code, kept)

    async def _is_of(self, check: Check, pool: str, id: str) -> bool:
        """Whether an id passes the check of a pool; that it did is known for a moment."""
        now = time.monotonic()
        if self._owned.get((pool, id), 0.0) < now:
            self._owned = {known: until for known, until in self._owned.items() if until >= now}
            if not await check(self, pool, id):
                return False
            self._owned[pool, id] = now + KNOWN
        return True

    def _silo(self, authorization: str) -> str | None:
        """Who asks, by the pass: `Basic` of `silo:pass`, as Prefect's client sends it."""
        scheme, _, coded = authorization.partition(" ")
        try:
            said = base64.b64decode(coded, validate=True).decode()
            silo, _, word = said.partition(":")
            good = scheme == "Basic" and passes.read(word, self._federation, self._keys()) == silo
        except (binascii.Error, UnicodeDecodeError, *TacitError):
            return None
        return silo if good else None

    async def _allowed(self, request: Request, silo: str) -> tuple[str, bytes | None] | None:
        """The path and body to send on, or None where no rule allows the call."""
        path = request.scope["raw_path"].decode("ascii", "replace")
        if request.url.query or not path.startswith("/api/"):
            return None
        pool = pool_of(silo)
        for rule in RULES:
            parts = rule.match(request.method, path.removeprefix("/api"), pool)
            if parts is None:
                continue
            body = await _read(request, rule.body)
            if (body is None) != (rule.body is None):
                return None
            if rule.check is not None and not await self._is_of(rule.check, pool, parts["id"]):
                return None
            return rule.path.format(pool=pool, **parts), body
        return None


async def _read(request: Request, model: type[_Body] | None) -> bytes | None:
    """The body, written anew from what its model read; None where there is to be none or it is bad.

    What the caller left out stays out.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY:
            return None
    if model is None:
        return None
    try:
        read = model.model_validate_json(body)
    except ValidationError:
        return None
    return read.model_dump_json(by_alias=True, exclude_unset=True).encode()


def _refusal(status: int, why: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": why}, status, headers)


def proxy_of(home: Home) -> Proxy:
    """The proxy between a home's silos and its Prefect server."""
    site = Site.make(home)
    client = httpx.AsyncClient(
        base_url=site.url,
        auth=httpx.BasicAuth(*site.auth.split(":", 1)),
        timeout=30,
        trust_env=False,
    )
    return Proxy(client, home.federation().name, lambda: members(home))


def listening(home: Home, proxy: Proxy) -> uvicorn.Server:
    """A server for the proxy, with the certificate of the coordinator's site; TLS 1.3 only."""
    config = uvicorn.Config(
        proxy.app,
        host=listens_at(host_of(home)),
        port=Site.make(home).proxy,
        ws="none",
        ssl_keyfile=str(home.exchange / "server.key"),
        ssl_certfile=str(home.exchange / "server.pem"),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=1000,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of every socket asked for
    config.load()
    if config.ssl is None:
        raise TypeError("a server without TLS")
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return uvicorn.Server(config)


def main() -> None:
    """Serve the proxy of a home until a TERM signal."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    home = Home(Path(sys.argv[1]))
    listening(home, proxy_of(home)).run()


if __name__ == "__main__":
    main()

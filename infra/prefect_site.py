"""Prefect at a coordinator's site: what was chosen for it once, and who may ask it what.

    coordinator/prefect/site.json     ports, passwords, the database      mode 0600

The server listens on loopback and asks for a password that only the coordinator has. A silo gets
to it through the proxy (`infra.proxy`), whose address `exchange.yaml` says, by a pass that its own
key has signed.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from federation.access import ExchangeConfig
from federation.documents import load_yaml
from federation.errors import Missing
from federation.home import Home
from federation.membership import Membership
from infra import exchange, postgres
from infra.prefect_server import QUIET, migrated, server_environment, sqlite_url
from infra.process import free_port
from privacy.ledger.durable import write_durably

Database = Literal["postgresql", "sqlite"]

POLL = 1.0
"""Seconds between two looks of a worker for work; faster ones made dispatch slower."""

BUSY = 15.0
"""Seconds for which a server that says that it is busy, as one on SQLite may, is asked again."""


class Site(BaseModel):
    """What was chosen for a home: it stays, so that addresses and history stay."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    database: Database
    server: int
    proxy: int
    postgres: int
    password: str
    postgres_password: str

    @classmethod
    def of(cls, home: Home) -> Site | None:
        """The site of a home, or None."""
        try:
            return cls.model_validate_json(_place(home).joinpath("site.json").read_bytes())
        except FileNotFoundError:
            return None

    @classmethod
    def make(cls, home: Home, database: Database | None = None) -> Site:
        """Choose, once: the database, PostgreSQL where it is installed; free ports, passwords."""
        site = cls.of(home)
        if site is None:
            server, proxy, third = (free_port() for _ in range(3))
            site = cls(
                database=database or ("postgresql" if postgres.installed() else "sqlite"),
                server=server,
                proxy=proxy,
                postgres=third,
                password=secrets.token_urlsafe(24),
                postgres_password=secrets.token_urlsafe(24),
            )
            _place(home).mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(_place(home) / "site.json", site.model_dump_json(indent=1).encode())
        return site

    @property
    def url(self) -> str:
        """The server's API, for the coordinator."""
        return f"http://127.0.0.1:{self.server}/api"

    @property
    def auth(self) -> str:
        """What the server asks of the coordinator."""
        return f"coordinator:{self.password}"

    def environment(self, home: Home) -> dict[str, str]:
        """What the server's process needs."""
        if self.database == "postgresql":
            database = postgres.url(self.postgres, self.postgres_password)
        else:
            database = sqlite_url(migrated(_place(home) / "prefect.db"))
        own = server_environment(_place(home) / "server", database)
        return own | {"PREFECT_SERVER_API_AUTH_STRING": self.auth}

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask the server: a GET, or a POST where there is a body; `Missing` where none answers."""
        return ask(self.url, path, body, auth=self.auth)


def silo_environment(home: Home, silo: str) -> dict[str, str] | None:
    """What a silo's worker needs before Prefect is imported; None where the site has no Prefect."""
    proxy = load_yaml(home.exchange_file, ExchangeConfig).prefect
    if proxy is None:
        return None
    return QUIET | {
        "PREFECT_API_URL": proxy,
        "PREFECT_API_SSL_CERT_FILE": str(home.authority),
        "PREFECT_HOME": str(home.silo(silo).directory / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": str(POLL),
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",  # no browser asks here
    }


def make_prefect(home: Home) -> Site:
    """Make what Prefect needs at this home, and say in `exchange.yaml` where silos find it."""
    site = Site.make(home)
    said = load_yaml(home.exchange_file, ExchangeConfig)
    proxy = f"https://{exchange.host_of(home)}:{site.proxy}/api"
    if said.prefect != proxy:
        document = said.model_dump(mode="json") | {"prefect": proxy}
        write_durably(home.exchange_file, yaml.safe_dump(document).encode(), 0o644)
    return site


def members(home: Home) -> dict[str, str]:
    """The public keys of the silos that may ask: members that the exchange knows now.

    A silo that is revoked is neither from that moment on.
    """
    known = {path.stem for path in (home.exchange / "users").glob("*.json")}
    silos = Membership.load(home).terms.silos
    return {silo: key for silo, key in silos.items() if silo in known}


def ask(url: str, path: str, body: Any = None, *, auth: str | None = None) -> Any:
    """Ask a Prefect API without Prefect's client, which takes seconds to import."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if auth is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    request = urllib.request.Request(f"{url}{path}", data, headers)  # noqa: S310
    until = time.monotonic() + BUSY
    try:
        while True:
            try:
                # Only ever our own loopback address, or the one that the operator configured.
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > until:
                    raise Missing(
                        f"the Prefect server at {url} answers {path} with {error.code}",
                        field="prefect",
                        value=error.code,
                    ) from None
            time.sleep(0.5)
    except (OSError, ValueError) as error:
        raise Missing(
            f"no Prefect server answers at {url} ({type(error).__name__}); is the stack up?",
            field="prefect",
            value=url,
        ) from None


def _place(home: Home) -> Path:
    return home.coordinator / "prefect"

"""A silo's worker and the proxy before Prefect: its real calls pass, and nothing else does.

A real server, a real worker in a process of its own, the real proxy over TLS between them.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import websockets

from federation import lifecycle
from federation.books import open_mirror
from federation.documents import parse
from federation.embedded import Embedded
from federation.home import Home
from federation.init import init_example
from federation.record import Job
from federation.spec import digest
from federation.training.specs import Spec
from flows import passes
from infra import exchange
from infra.prefect_server import client_environment, prefect_server
from infra.prefect_site import Site, ask, make_prefect
from infra.process import free_port, start, stop
from infra.proxy import RULES, listening, proxy_of
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "dispatched",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"noise_multiplier": 8.0},
}
OWN, OTHER = "silo-1", "silo-2"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def set_up(home: Home, site: Site) -> list[str]:
    """Run the set-up flow as the coordinator does; what it says it changed."""
    words = "import asyncio, json, sys; from flows.setup import setup; "
    words += "print(json.dumps(asyncio.run(setup(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", words, str(home.root)],
        env=dict(os.environ) | client_environment(site.url, home.root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    changed: list[str] = json.loads(done.stdout)
    return changed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server, the proxy before it, a home with two silos, and the worker of one of them."""
    root = tmp_path_factory.mktemp("proxy")
    home = init_example(root / "fed", "breast-cancer", silos=2)
    exchange.make_exchange(home)
    with prefect_server(root) as server:
        site = Site(
            database="sqlite",
            server=int(server.wait().split(":")[2].split("/")[0]),
            proxy=free_port(),
            postgres=0,
            password="the coordinator's",
            postgres_password="",
        )
        (home.coordinator / "prefect").mkdir()
        kept = site.model_dump_json().encode()
        write_durably(home.coordinator / "prefect" / "site.json", kept)
        make_prefect(home)
        changed = set_up(home, site)
        calls: list[str] = []
        proxy = proxy_of(home)
        passed = proxy.app

        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                calls.append(f"{scope['method']} {scope['raw_path'].decode()}")
            await passed(scope, receive, send)

        proxy.app = recorded
        listener = listening(home, proxy)
        listener.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        notes, log = root / "notes", root / "worker.log"
        notes.touch()
        script = Path(__file__).with_name("worker_here.py")
        child = start(
            [sys.executable, str(script), str(home.root), OWN, str(notes)],
            environment=dict(os.environ),
            log=log,
            speak=True,
        )
        yield SimpleNamespace(
            home=home, site=site, changed=changed, calls=calls, notes=notes, log=log, child=child
        )
        stop(child)
        listener.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def started(place: Any) -> dict[str, str]:
    """A job that both silos have started, as an order would name it."""
    job = Job.create(place.home, parse(SPEC, Spec, "job"))
    with Embedded(place.home) as parties, open_mirror(place.home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
    manifest = job.document("manifest")
    assert manifest is not None
    return {"job": job.id, "manifest": digest(manifest["body"])}


def heads(home: Home) -> list[str]:
    return [path.read_text() for path in sorted(home.root.glob("silos/*/ledger.head"))]


def deployment(place: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = place.site.ask(f"/deployments/name/{name}")
    return found


def asked(place: Any, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a run of `participate` at the silo, and wait for its end."""
    id = deployment(place, f"participate/{OWN}")["id"]
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}} | more
    return ended(place, place.site.ask(f"/deployments/{id}/create_flow_run", body))


def ended(place: Any, run: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 25
    while run["state_type"] not in FINAL:
        assert time.monotonic() < deadline, place.log.read_text()
        time.sleep(0.3)
        run = place.site.ask(f"/flow_runs/{run['id']}")
    return run


def changed(url: str, body: dict[str, Any]) -> None:
    """Change what the server has, which it may be too busy for at first."""
    for _ in range(30):
        answer = httpx.patch(url, json=body, timeout=30)
        if answer.status_code != 503:
            break
        time.sleep(0.5)
    answer.raise_for_status()


def joined(place: Any) -> list[str]:
    noted: list[str] = place.notes.read_text().split()
    return noted


def snapshot(place: Any) -> Any:
    """All that the set-up flow makes; of what a worker polls, without what that changes."""
    pools = place.site.ask("/work_pools/filter", {})
    deployments = place.site.ask("/deployments/filter", {"sort": "NAME_ASC"})
    for made in deployments:
        if made["name"] == OWN:
            for changing in ("last_polled", "status", "updated"):
                del made[changing]
    return [
        [(p["name"], p["base_job_template"], p["type"]) for p in pools],
        deployments,
        place.site.ask("/automations/filter", {"sort": "NAME_ASC"}),
    ]


def test_the_set_up_flow_makes_all_and_twice_changes_nothing(place: Any) -> None:
    assert {f"pool tacit-{p}" for p in ("coordinator", OWN, OTHER)} <= set(place.changed)
    assert f"deployment participate/{OWN}" in place.changed
    assert len([c for c in place.changed if c.startswith("automation")]) == 4
    train = deployment(place, "train/train")
    assert train["work_pool_name"] == "tacit-coordinator" and train["enforce_parameter_schema"]
    assert train["parameters"]["home"] == str(place.home.root)
    assert train["parameters"]["engine"] == "exchange"
    assert train["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    before = snapshot(place)
    assert set_up(place.home, place.site) == []
    assert snapshot(place) == before


def test_what_a_person_changed_on_the_server_stays(place: Any) -> None:
    train = deployment(place, "train/train")
    (schedule,) = train["schedules"]
    url = f"{place.site.url}/deployments/{train['id']}/schedules/{schedule['id']}"
    changed(url, {"active": True})
    assert set_up(place.home, place.site) == []
    assert deployment(place, "train/train")["schedules"][0]["active"] is True


def test_an_order_for_a_started_job_is_handed_to_its_sessions(
    place: Any, started: dict[str, str]
) -> None:
    hostile = {"command": "touch /tmp/owned", "env": {"PATH": "/nowhere"}}
    run = asked(place, started, job_variables=hostile)
    assert joined(place) == [started["job"]]
    # No session has taken part, so there is no word of how it ended: the worker says just that.
    assert (run["state_type"], run["state"]["message"]) == ("FAILED", "own_fault")
    assert run["start_time"] is not None and run["infrastructure_pid"] is None
    logs = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    assert place.site.ask("/logs/filter", logs) == []


FORGERIES: dict[str, dict[str, Any]] = {
    "unknown job": {"job": "nobody-20200101-000000"},
    "no job": {"job": "../../etc"},
    "other manifest": {"manifest": "0" * 64},
    "more than is asked": {"entrypoint": "os:system"},
}


@pytest.mark.parametrize("forgery", [*FORGERIES, "reserved only", "foreign flow", "no deployment"])
def test_a_forged_run_does_nothing_and_is_logged(
    place: Any, started: dict[str, str], forgery: str
) -> None:
    url, code = place.site.url, "FED-001"
    before, noted = heads(place.home), joined(place)
    id = deployment(place, f"participate/{OWN}")["id"]
    if forgery in FORGERIES:  # past the form, as somebody who writes to the database could
        patch = {"enforce_parameter_schema": False}
        changed(f"{url}/deployments/{id}", patch)
        run = asked(place, started | FORGERIES[forgery])
        code = "FED-004" if forgery == "other manifest" else code
    elif forgery == "reserved only":
        run = asked(place, reserved(place))
        before = heads(place.home)
    else:
        flow = place.site.ask("/flows/", {"name": forgery})["id"]
        body = {"flow_id": flow, "name": "foreign", "work_pool_name": f"tacit-{OWN}"}
        order = {"parameters": started, "state": {"type": "SCHEDULED"}}
        if forgery == "foreign flow":
            made = place.site.ask("/deployments/", body)["id"]
            run = place.site.ask(f"/deployments/{made}/create_flow_run", order)
        else:
            run, code = place.site.ask("/flow_runs/", body | order), "SILO-FAULT"
        run = ended(place, run)
    assert (run["state_type"], run["state"]["message"]) == ("FAILED", code)
    assert f"flow run {run['id']} is refused: {code}" in place.log.read_text()
    assert (heads(place.home), joined(place)) == (before, noted)


def reserved(place: Any) -> dict[str, str]:
    """A job that is reserved and not started: nothing may be read for it."""
    job = Job.create(place.home, parse(SPEC, Spec, "job"))
    with Embedded(place.home) as parties, open_mirror(place.home) as mirror:
        lifecycle.reserve(job, parties, mirror)
    manifest = job.document("manifest")
    assert manifest is not None
    return {"job": job.id, "manifest": digest(manifest["body"])}


def test_the_worker_makes_these_calls_and_no_other(place: Any, started: dict[str, str]) -> None:
    asked(place, started)
    made, own = set(), f"tacit-{OWN}"
    for call in place.calls:
        method, path = call.replace("/api/", "/").split(" ")
        rules = [rule for rule in RULES if rule.match(method, path, own) is not None]
        made.add(f"{method} {rules[0].path}" if rules else f"{method} {path}")
    # Its channel for pushed snapshots is refused: it beats by plain requests instead.
    channel = f"GET /work_pools/{own}/workers/connect"
    assert made == {f"{rule.method} {rule.path}" for rule in RULES} | {channel}


class Caller:
    """Somebody who asks the proxy as a silo, by that silo's pass or any other word."""

    def __init__(self, place: Any, silo: str, word: str | None = None) -> None:
        key = SigningKey.load(place.home.silo(silo).key)
        self.url = f"https://127.0.0.1:{place.site.proxy}/api"
        self.context = ssl.create_default_context(cafile=place.home.authority)
        federation = place.home.federation().name
        self.auth = (silo, passes.make(federation, silo, key) if word is None else word)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        with httpx.Client(verify=self.context) as client:
            return client.request(method, f"{self.url}{path}", json=body, auth=self.auth, **more)


@pytest.fixture
def caller(place: Any) -> Caller:
    return Caller(place, OWN)


@pytest.fixture(scope="module")
def others(place: Any, started: dict[str, str]) -> dict[str, str]:
    """What belongs to the other silo: its deployment, a run on its pool."""
    other = deployment(place, f"participate/{OTHER}")
    run = place.site.ask(f"/deployments/{other['id']}/create_flow_run", {"parameters": started})
    mine = deployment(place, f"participate/{OWN}")
    own = asked(place, started | {"manifest": "1" * 64})
    train = deployment(place, "train/train")
    return {
        "deployment": other["id"],
        "run": run["id"],
        "own_run": own["id"],
        "own_deployment": mine["id"],
        "train": train["id"],
        "train_flow": train["flow_id"],
    }


STRANGER = "6f1c1f5e-2f0e-4f0e-9d4a-0b8a2f1d9c11"  # the id of nothing here
RUNNING = {"state": {"type": "RUNNING", "name": "Running"}}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/work_pools/tacit-silo-2", None),
        ("GET", "/work_pools/tacit-coordinator", None),
        ("GET", "/work_pools/tacit-silo-1/../tacit-silo-2", None),
        ("GET", "/work_pools/tacit-silo-1%2f..%2ftacit-silo-2", None),
        ("POST", "/work_pools/tacit-silo-2/get_scheduled_flow_runs", {}),
        ("POST", "/work_pools/tacit-silo-1/get_scheduled_flow_runs", {"work_queue_names": ["x"]}),
        ("POST", "/work_pools/tacit-silo-2/workers/heartbeat", {"name": "silo-2"}),
        ("POST", "/work_pools/", {"name": "mine", "type": "process"}),
        ("PATCH", "/work_pools/tacit-silo-1", {"is_paused": True}),
        ("POST", "/work_pools/filter", {}),
        ("GET", "/flow_runs/{run}", None),
        ("GET", "/admin/version", None),
        ("POST", "/flow_runs/{run}/set_state", RUNNING),
        ("PATCH", "/flow_runs/{run}/labels", {}),
        ("PATCH", "/flow_runs/{own_run}", {"name": "renamed"}),
        ("POST", "/flow_runs/{own_run}/set_state", RUNNING | {"force": True}),
        ("POST", "/flow_runs/{own_run}/set_state", {"state": {"type": "SCHEDULED"}}),
        ("POST", "/flow_runs/{own_run}/set_state", {"state": {"type": "FAILED", "data": [1]}}),
        (
            "POST",
            "/flow_runs/{own_run}/set_state",
            {"state": {"type": "FAILED", "message": "x" * 257}},
        ),
        ("PATCH", "/flow_runs/{own_run}/labels", {"anything": "else"}),
        ("POST", "/flow_runs/", {"flow_id": STRANGER}),
        ("POST", "/flow_runs/filter", {}),
        ("GET", "/deployments/{deployment}", None),
        ("GET", "/deployments/{train}", None),
        ("GET", "/deployments/{own_deployment}?x=1", None),
        ("POST", "/deployments/{train}/create_flow_run", {}),
        ("POST", "/deployments/{own_deployment}/create_flow_run", {}),
        ("POST", "/deployments/filter", {}),
        ("GET", "/flows/{train_flow}", None),
        ("GET", f"/flows/{STRANGER}", None),
        ("POST", "/events", [{"event": "tacit.audit.refuted"}]),
        ("POST", "/events/filter", {}),
        ("POST", "/automations/", {}),
        ("POST", "/automations/filter", {}),
        ("POST", "/logs/", []),
        ("POST", "/logs/filter", {}),
        ("POST", "/artifacts/", {}),
        ("POST", "/variables/", {}),
        ("POST", "/block_documents/filter", {}),
        ("POST", "/concurrency_limits/", {}),
        ("GET", "/admin/settings", None),
        ("POST", "/admin/database/clear", {"confirm": True}),
        ("DELETE", "/work_pools/tacit-silo-1", None),
    ],
)
def test_no_other_call_is_allowed(
    caller: Caller, others: dict[str, str], method: str, path: str, body: Any
) -> None:
    answer = caller.ask(method, path.format(**others), body)
    assert answer.status_code in (403, 405), answer.text


def test_what_is_allowed_is_answered(caller: Caller, others: dict[str, str]) -> None:
    assert caller.ask("GET", "/work_pools/tacit-silo-1").json()["name"] == "tacit-silo-1"
    assert caller.ask("GET", "/deployments/{own_deployment}".format(**others)).status_code == 200
    found = caller.ask("POST", "/work_pools/tacit-silo-1/get_scheduled_flow_runs", {})
    assert found.json() == []
    late = {"state": {"type": "FAILED", "state_details": {"flow_run_id": others["run"]}}}
    answer = caller.ask("POST", "/flow_runs/{own_run}/set_state".format(**others), late)
    assert answer.status_code in (200, 201)


def test_a_body_too_large_is_not_read(caller: Caller, others: dict[str, str]) -> None:
    large = {"state": {"type": "FAILED", "message": "x" * (1 << 20)}}
    path = "/flow_runs/{own_run}/set_state".format(**others)
    assert caller.ask("POST", path, large).status_code == 403


@pytest.mark.parametrize(
    "forgery",
    ["none", "a word", "the password", "own key", "other silo", "other federation", "ended"],
)
def test_who_has_no_pass_of_the_silo_gets_nothing(
    place: Any, forgery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = place.home.federation().name
    own, other = (SigningKey.load(place.home.silo(silo).key) for silo in (OWN, OTHER))
    if forgery == "ended":
        monkeypatch.setattr(passes, "LIFE", -1)
    word = {
        "none": "",
        "a word": "let me in",
        "the password": place.site.password,
        "own key": passes.make(federation, OWN, SigningKey.generate()),
        "other silo": passes.make(federation, OTHER, other),
        "other federation": passes.make("another", OWN, own),
        "ended": passes.make(federation, OWN, own),
    }[forgery]
    monkeypatch.undo()
    assert Caller(place, OWN, word).ask("GET", f"/work_pools/tacit-{OWN}").status_code == 401


def test_a_silo_that_the_exchange_knows_no_more_gets_nothing(place: Any) -> None:
    other = Caller(place, OTHER)
    assert other.ask("GET", f"/work_pools/tacit-{OTHER}").status_code == 200
    user = exchange.users(place.home)[OTHER]
    exchange.drop_user(place.home, OTHER)  # as `tacit silo revoke` does
    try:
        assert other.ask("GET", f"/work_pools/tacit-{OTHER}").status_code == 401
    finally:
        exchange.put_user(place.home, OTHER, user)


def test_secrets_are_their_owners_alone_and_no_pass_is_kept(place: Any) -> None:
    site = place.home.coordinator / "prefect" / "site.json"
    assert site.stat().st_mode & 0o777 == 0o600
    word = Caller(place, OWN).auth[1][:40]  # the part that is the same in every pass of a silo
    kept = subprocess.run(["grep", "-rl", word, place.home.root], capture_output=True, text=True)
    assert kept.stdout == ""


def test_nothing_older_than_tls_1_3_and_no_other_authority(place: Any, caller: Caller) -> None:
    caller.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError):
        caller.ask("GET", "/work_pools/tacit-silo-1")
    stranger = Caller(place, OWN)
    stranger.context = ssl.create_default_context()
    with pytest.raises(httpx.ConnectError):
        stranger.ask("GET", "/work_pools/tacit-silo-1")
    with pytest.raises(httpx.HTTPError):
        httpx.get(caller.url.replace("https", "http") + "/work_pools/tacit-silo-1")


@pytest.mark.parametrize("path", ["/events/in", "/work_pools/tacit-silo-1/workers/connect"])
def test_no_socket_is_opened(caller: Caller, path: str) -> None:
    async def open_it() -> None:
        url = caller.url.replace("https", "wss") + path
        async with websockets.connect(url, ssl=caller.context):
            pass

    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(open_it())
    assert refused.value.response.status_code in (401, 403)


def test_a_server_that_is_away_is_told_apart_from_a_refusal(place: Any) -> None:
    from infra.proxy import Proxy

    nobody = httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port()}/api")
    key = SigningKey.generate()
    proxy = Proxy(nobody, "study", lambda: {OWN: key.public})

    async def asked() -> int:
        transport = httpx.ASGITransport(proxy.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://proxy") as client:
            answer = await client.get(
                "/api/work_pools/tacit-silo-1", auth=(OWN, passes.make("study", OWN, key))
            )
            return answer.status_code

    assert asyncio.run(asked()) == 503


def test_the_helper_tells_what_a_server_answered(place: Any) -> None:
    from federation.errors import Missing

    with pytest.raises(Missing, match="404"):
        ask(place.site.url, "/no/such/thing")

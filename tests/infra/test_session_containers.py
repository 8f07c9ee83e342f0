"""A silo's sessions in containers: it starts, finds and ends its own, and nobody else's.

The engine is a server on a socket that answers the SDK's calls and filters by labels as Docker's
does; no container runs.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import pytest

from federation.home import Home
from federation.init import init_example
from federation.settings import DockerIsolation
from infra.sessions import Containers

DOCKER = DockerIsolation(
    kind="docker",
    image=f"registry.example/tacit/silo@sha256:{'a' * 64}",
    network="tacit-exchange",
    memory_mib=512,
    cpus=1,
    user="10001:10002",
)


class Engine(ThreadingMixIn, UnixStreamServer):
    """What a Docker engine keeps of containers: their labels, by id."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        super().__init__(path, Answer)
        self.labels: dict[str, dict[str, str]] = {}
        self.made = itertools.count()


class Answer(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        *_, kind, name = url.path.split("/")
        if name == "version":
            self.say({"ApiVersion": "1.43"})
        elif name != "json":
            self.send_error(404)
        elif kind == "containers":
            wanted = json.loads(parse_qs(url.query)["filters"][0])["label"]
            self.say([{"Id": id} for id, has in self.server.labels.items() if all_of(wanted, has)])
        elif "/images/" in url.path:
            self.say({"Id": kind})
        elif kind in self.server.labels:
            self.say({"Id": kind, "State": {"Status": "running"}})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/create"):
            made = f"c{next(self.server.made)}"
            self.server.labels[made] = json.loads(body)["Labels"]
            self.say({"Id": made}, 201)
        else:
            self.say(None, 204)

    def do_DELETE(self) -> None:
        del self.server.labels[urlsplit(self.path).path.rpartition("/")[2]]
        self.say(None, 204)

    def say(self, document: object, code: int = 200) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def address_string(self) -> str:
        return "the SDK"  # a socket on a path has no address

    def log_message(self, *_: object) -> None:
        pass


def all_of(wanted: list[str], labels: dict[str, str]) -> bool:
    return set(wanted) <= {f"{name}={value}" for name, value in labels.items()}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with TemporaryDirectory() as short, Engine(f"{short}/s") as server:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{short}/s")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> list[Home]:
    """Two federations on one machine, each with a silo-1 and a silo-2."""
    root = tmp_path_factory.mktemp("homes")
    return [init_example(root / name, "breast-cancer", silos=2) for name in ("first", "second")]


def started(home: Home, silo: str = "silo-1") -> Containers:
    return Containers(home, home.silo_config(silo), DOCKER)


def test_a_silo_that_starts_ends_what_it_left_and_nobody_elses(
    engine: Engine, homes: list[Home]
) -> None:
    first, second = homes
    left = {"own": started(first), "name": started(second), "home": started(first, "silo-2")}
    for sessions in left.values():
        sessions.join("job-1")
    assert len(engine.labels) == 3
    again = started(first)
    assert not left["own"].at_work("job-1") and not again.at_work("job-1")
    assert left["name"].at_work("job-1") and left["home"].at_work("job-1")
    left["name"].close()
    assert set(engine.labels) == {"c2"} and engine.labels["c2"]["tacit.silo"] == "silo-2"


def test_a_home_is_known_by_whatever_path_it_is_named(
    engine: Engine, homes: list[Home], tmp_path: Path
) -> None:
    started(homes[0]).join("job-1")
    (tmp_path / "link").symlink_to(homes[0].root)
    started(Home(tmp_path / "link"))
    assert not engine.labels


def test_containers_of_a_copied_home_are_the_copys_own(engine: Engine, homes: list[Home]) -> None:
    first, second = homes
    started(first).join("job-1")
    key = second.silo("silo-1").key
    before = key.read_text()
    key.write_text(first.silo("silo-1").key.read_text())
    started(second)
    key.write_text(before)
    assert len(engine.labels) == 1

"""The table of parts, what a coordinator's site is prepared with, and whether a part is well."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from federation.errors import BadInput, Missing, NotFound
from federation.home import Home
from federation.init import init_example
from infra import containers, health, parts
from infra.containers import Ports
from infra.exchange import make_exchange
from infra.prefect_site import Site
from infra.process import free_port, start, stop


@pytest.fixture
def prepared(tmp_path: Path) -> Home:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    make_exchange(home)
    containers.prepare(home)
    return home


def run(module: str, *words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True)


@pytest.mark.parametrize("name", [*parts.TABLE, "silo silo-1"])
def test_every_part_is_a_program_that_is_there(prepared: Home, name: str) -> None:
    made = parts.part(prepared, name)
    assert Path(made.argv[0]).exists() and Path(made.argv[0]).is_absolute()
    secrets = Site.make(prepared)
    for secret in (secrets.password, secrets.postgres_password):
        assert not any(secret in word for word in made.argv)  # every user of a host sees those


def test_a_server_apart_is_the_same_but_for_its_services(prepared: Home) -> None:
    whole, apart = parts.part(prepared, "prefect"), parts.part(prepared, "server")
    assert apart.argv == [*whole.argv, "--no-services"]
    assert whole.environment.items() <= apart.environment.items()


def test_a_process_becomes_its_part(prepared: Home) -> None:
    done = run("infra.parts", "silo nobody", prepared.root)
    assert done.returncode == 2 and "no silo 'nobody'" in done.stderr
    done = run("infra.parts", "exchange", prepared.root, "-t")  # an option goes to the part
    assert done.returncode == 0 and "nats-server" in done.stderr + done.stdout
    done = run("infra.parts", "nothing", prepared.root)
    assert done.returncode == 1 and "no part is called 'nothing'" in done.stderr
    with pytest.raises(NotFound):
        parts.part(prepared, "silos")


def test_the_dashboard_listens_where_its_container_says(prepared: Home, tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-m", "infra.parts", "dashboard", str(prepared.root)]
    options = [f"--server.port={port}", "--server.address=0.0.0.0"]
    child = start([*words, *options], environment=dict(os.environ), log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 60
        while not (found := _listening(port)):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        stop(child)
    assert found == ["00000000"]


def _listening(port: int) -> list[str]:
    """The addresses at which somebody listens on a port, as the kernel writes them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [tuple(line[1].split(":")) for line in lines if line[3] == "0A"]
    return [address for address, number in places if int(number, 16) == port]


def test_a_site_is_prepared_once(prepared: Home) -> None:
    files = [path for path in sorted(prepared.root.rglob("*")) if path.is_file()]
    before = [path.read_bytes() for path in files]
    containers.prepare(prepared)
    assert [path.read_bytes() for path in files] == before
    place = prepared.coordinator / "prefect"
    for path in (*(place / "secrets").iterdir(), place / "site.json", prepared.root / "stack.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    site = Site.make(prepared)
    assert (place / "secrets" / "postgres").read_text() == site.postgres_password
    assert containers.redis_url(prepared, 1).endswith("@127.0.0.1:6379/1")
    assert (site.server, site.proxy, site.postgres) == (4200, 4201, 5432)


def test_what_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    with pytest.raises(NotFound, match="--exchange HOST:PORT"):
        containers.prepare(home)
    with pytest.raises(NotFound, match="not prepared"):
        containers.site_of(home)
    make_exchange(home)
    Site.make(home, "sqlite")
    with pytest.raises(BadInput, match="with other ports than containers use"):
        containers.prepare(home)
    done = run("infra.containers", "prepare", home.root)
    assert done.returncode == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("part", [*health.CHECKS, "silo silo-1"])
def test_a_part_that_is_not_there_is_not_well(tmp_path: Path, part: str) -> None:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    make_exchange(home)
    containers.prepare(home, Ports(*(free_port() for _ in range(4))))
    if part == "dashboard" and socket.socket().connect_ex(("127.0.0.1", parts.DASHBOARD)) == 0:
        pytest.skip("somebody's dashboard runs on this machine")
    done = run("infra.health", part, home.root)
    assert done.returncode == 1 and done.stderr.startswith(f"{part}: ")
    assert "Traceback" not in done.stderr
    for secret in (Site.make(home).password, containers.redis_url(home, 0)):
        assert secret not in done.stderr


def test_a_silo_is_well_while_its_connection_stands(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        home.exchange_file.write_text(yaml.safe_dump({"url": f"tls://127.0.0.1:{port}"}))
        with pytest.raises(Missing):  # that somebody listens is no connection
            health.check(home, "silo north")
        with socket.create_connection(("127.0.0.1", port)):
            health.check(home, "silo north")

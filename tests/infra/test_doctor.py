"""`tacit doctor` says what it sees, and what a person should look at."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from federation.home import Home
from infra import doctor


def line(checks: list[dict[str, Any]], check: str) -> dict[str, Any]:
    (found,) = (c for c in checks if c["check"] == check)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    silo = tmp_path / "silos" / "a"
    silo.mkdir(parents=True)
    (tmp_path / "federation.yaml").write_text("")
    (silo / "ledger.head").write_text("")
    return Home(tmp_path)


def test_it_looks_at_versions_ports_disk_clock_and_strays(home: Home) -> None:
    checks = doctor.examine(home)
    seen = {c["check"] for c in checks}
    assert {"python", "torch", "prefect", "fastapi", "loopback", "dashboard port"} <= seen
    assert {"disk", "clock", "home", "strays"} <= seen
    assert line(checks, "torch")["seen"] == importlib.metadata.version("torch")
    assert line(checks, "home")["ok"] and line(checks, "clock")["ok"]


def test_an_extra_that_is_not_installed_is_named_and_no_fault(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("streamlit", "opacus"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    checks = doctor.examine(home)
    streamlit = line(checks, "streamlit")
    assert streamlit["ok"] and "-c constraints.txt '.[dashboard]'" in streamlit["seen"]
    assert not line(checks, "opacus")["ok"]


def test_a_port_that_is_taken(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "PORTS", {"dashboard": taken.getsockname()[1]})
        found = line(doctor.examine(home), "dashboard port")
    assert not found["ok"] and "--port" in found["seen"]


def test_a_clock_behind_the_ledgers(home: Home) -> None:
    ahead = time.time() + 3600
    os.utime(home.silo("a").head, (ahead, ahead))
    found = line(doctor.examine(home), "clock")
    assert not found["ok"] and "behind" in found["seen"]


def test_a_server_whose_owner_is_gone(home: Home) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stray = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "prefect", "server"],
        env=os.environ | {"TACIT_OWNER": str(gone.pid)},
    )
    try:
        found = line(doctor.examine(home), "strays")
        assert not found["ok"] and str(stray.pid) in found["seen"]
    finally:
        stray.kill()
        stray.wait()


def test_the_command(tmp_path: Path, tacit: Any, tacit_json: Any) -> None:
    document = tacit_json("doctor", "--home", tmp_path / "none")
    assert document["ok"] is False and not line(document["checks"], "home")["ok"]
    text = tacit("doctor", "--home", tmp_path / "none").stdout
    assert "LOOK  home" in text and "ok    python" in text

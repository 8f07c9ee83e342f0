"""What `tacit doctor` looks at: this machine, this installation, this home; changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from federation.home import Home
from infra import postgres
from infra.extras import install
from infra.process import taken

PACKAGES = ("tacit", "torch", "opacus", "prefect", "dp-accounting", "sqlalchemy", "fastapi")
EXTRAS = {"scikit-learn": "examples", "psycopg": "postgres", "streamlit": "dashboard"}
PORTS = {"dashboard": 8501}
DISK_NEEDED = 1 << 30


def examine(home: Home) -> list[dict[str, Any]]:
    """Return one line per check: `{check, ok, seen}`; nothing is changed."""
    return [
        _python(),
        *_packages(),
        *_ports(),
        _postgres(),
        _disk(home),
        _clock(home),
        _state(home),
        _strays(),
    ]


def _line(check: str, ok: bool, seen: str) -> dict[str, Any]:
    return {"check": check, "ok": ok, "seen": seen}


def _python() -> dict[str, Any]:
    return _line("python", sys.version_info[:2] == (3, 11), platform.python_version())


def _packages() -> list[dict[str, Any]]:
    lines = []
    for name in (*PACKAGES, *EXTRAS):
        try:
            lines.append(_line(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            extra = EXTRAS.get(name)
            hint = f"; {install(extra)} brings it" if extra else ""
            lines.append(_line(name, extra is not None, f"not installed{hint}"))
    return lines


def _ports() -> list[dict[str, Any]]:
    """Loopback has to take a server; a fixed port that is taken needs another by `--port`."""
    lines = [_line("loopback", not taken("127.0.0.1", 0), "takes a Prefect server for each run")]
    for name, port in PORTS.items():
        free = not taken("127.0.0.1", port)
        seen = f"{port} is free" if free else f"{port} is taken: tacit {name} --port N"
        lines.append(_line(f"{name} port", free, seen))
    return lines


def _postgres() -> dict[str, Any]:
    """Not having it is no fault: the stack then keeps Prefect's state in SQLite."""
    without = "not installed: tacit up keeps Prefect's state in SQLite; apt install postgresql"
    return _line("postgresql", True, "installed" if postgres.installed() else without)


def _disk(home: Home) -> dict[str, Any]:
    place = next(p for p in (home.root, *home.root.parents) if p.exists())
    free = shutil.disk_usage(place).free
    return _line("disk", free >= DISK_NEEDED, f"{free / 1e9:.1f} GB free at {place}")


def _clock(home: Home) -> dict[str, Any]:
    """A clock behind the newest file of the home would let reservations outlive their time."""
    newest = max((p.stat().st_mtime for p in home.root.glob("silos/*/ledger.*")), default=0.0)
    behind = newest - time.time()
    told = f"; {behind:.0f} s behind the newest ledger" if behind >= 120 else ""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return _line("clock", behind < 120, now + told)


def _state(home: Home) -> dict[str, Any]:
    there = home.federation_file.is_file()
    return _line("home", there, f"{home.root}" + ("" if there else " holds no federation yet"))


def _strays() -> dict[str, Any]:
    """Prefect servers of earlier runs whose owner is gone."""
    strays = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        if b"prefect" in words and b"server" in words and b"TACIT_OWNER=" in environment:
            owner = environment.split(b"TACIT_OWNER=")[1].split(b"\0")[0]
            if not Path(f"/proc/{owner.decode()}").exists():
                strays.append(path.name)
    mine = f"processes {', '.join(strays)}: stop them with kill" if strays else "none"
    return _line("strays", not strays, f"{mine} (seen as user {os.getuid()})")

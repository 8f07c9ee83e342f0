"""The Prefect server of the embedded stack: started for a run, stopped with it.

A fresh SQLite file costs the server most of its start in migrations, so a migrated one is kept in
the user's cache, per Prefect and Python version, and copied for each run. What the server says
goes to a log file in its own directory, never to the terminal. This module imports no Prefect.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import Missing
from infra.process import free_port, start, stop

START_ALLOWANCE = 120.0
"""Seconds within which a server must answer."""

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_SHOW_STARTUP_TIPS": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}
"""Settings of server and client: no telemetry, no log to the API, nothing on the terminal."""


class Server:
    """A server that is coming up; `wait` returns its API URL once it answers."""

    def __init__(
        self,
        url: str,
        child: subprocess.Popen[bytes] | None = None,
        log: Path | None = None,
        database: Path | None = None,
        auth: str | None = None,
    ) -> None:
        self.url = url
        self.auth = auth
        self._child = child
        self._log = log
        self._database = database

    def wait(self) -> str:
        """Wait until the server answers; `Missing` where it ends or takes too long.

        A database that it has migrated goes to the cache now, before any run is written to it.
        """
        deadline = time.monotonic() + START_ALLOWANCE
        while time.monotonic() < deadline:
            if self._child is not None and self._child.poll() is not None:
                break
            if _answers(self.url):
                if self._database is not None and not _cache().exists():
                    _keep(self._database, _cache())
                return self.url
            time.sleep(0.1)
        where = f"; its log: {self._log}" if self._log else ""
        raise Missing(
            f"no Prefect server answers at {self.url}{where}", field="prefect", value=self.url
        )


@contextmanager
def prefect_server(home: Path) -> Iterator[Server]:
    """Start a server for this run and stop it after; or use the one that is configured.

    The server listens on loopback and keeps its state in a temporary directory; the log is kept in
    the home as `prefect.log`.
    """
    running = running_server(home)
    if running is not None:
        yield Server(running[0], auth=running[1])
        return
    with tempfile.TemporaryDirectory(prefix="tacit-prefect-") as directory:
        place = Path(directory)
        database = migrated(place / "prefect.db")
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        log = home / "prefect.log" if home.is_dir() else place / "prefect.log"
        log.unlink(missing_ok=True)
        environment = server_environment(place, sqlite_url(database))
        child = start(server_command(port, "--no-ui"), environment=environment, log=log)
        try:
            yield Server(url, child, log, database)
        finally:
            stop(child)


def client_environment(url: str, home: Path, auth: str | None = None) -> dict[str, str]:
    """What a client in this process needs before Prefect is imported."""
    place = {"PREFECT_API_URL": url, "PREFECT_HOME": str(home / "coordinator" / "prefect")}
    return QUIET | place | ({} if auth is None else {"PREFECT_API_AUTH_STRING": auth})


def server_command(port: int, *options: str) -> list[str]:
    """The command that runs a server on loopback."""
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    return [*words, "--port", str(port), *options]


def server_environment(place: Path, database: str) -> dict[str, str]:
    """What a server needs: its own directory and database, and nothing of this user's Prefect."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(place), "PREFECT_API_DATABASE_CONNECTION_URL": database}
    return kept | QUIET | own | {"TACIT_OWNER": str(os.getpid())}


def sqlite_url(database: Path) -> str:
    """Where a SQLite file is, for SQLAlchemy's aiosqlite."""
    return f"sqlite+aiosqlite:///{database}"


def migrated(database: Path) -> Path:
    """The file, made from the migrated copy where it is not there and the cache has one."""
    if not database.exists() and _cache().exists():
        shutil.copyfile(_cache(), database)
    return database


def running_server(home: Path) -> tuple[str, str | None] | None:
    """The API and the password of a server that runs for this home already, or None.

    TACIT_PREFECT_URL names it, or `stack.json` in the home, which the stack writes.
    """
    named = os.environ.get("TACIT_PREFECT_URL")
    if named:
        return named.rstrip("/"), None
    try:
        said = json.loads((home / "stack.json").read_text())["prefect"]
        return said["url"], said["auth"]
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = importlib.metadata.version("prefect")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return root / "tacit" / f"prefect-{version}-python-{python}.db"


def _keep(database: Path, cached: Path) -> None:
    """Put a clean copy of a migrated database into the cache, whole or not at all."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}.partial")
    with sqlite3.connect(database) as source, sqlite3.connect(partial) as target:
        source.backup(target)
    source.close()
    target.close()
    partial.replace(cached)


def _answers(url: str) -> bool:
    try:
        # Only ever our own loopback address, or the one that the operator configured.
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

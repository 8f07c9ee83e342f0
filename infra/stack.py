"""The distributed stack on this machine: one supervisor, and its children.

    python -m infra.stack HOME

starts the exchange and every silo under HOME as a process of its own, starts again what dies, and
on TERM stops all of it in order. `stack.json` in the home says what runs; it is there exactly
while a supervisor lives, which holds `stack.lock`. Children die with it, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.errors import Missing
from federation.home import Home
from infra import nats
from infra.exchange import make_exchange
from infra.process import start, stop
from privacy.ledger.durable import write_durably

ALLOWANCE = 60.0
"""Seconds within which every part must have come up."""

_BACKOFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds before a child is started again, by how often it has died in a row."""

_STEADY = 60.0
"""Seconds after which a child that lived counts as well again."""


@dataclass
class _Child:
    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)
    deaths: int = 0

    def look_after(self) -> bool:
        """Start it again where it has died, not too often; tell whether it was started."""
        lived = time.monotonic() - self.since
        if self.process.poll() is None:
            if lived > _STEADY:
                self.deaths = 0
            return False
        if lived < _BACKOFF[min(self.deaths, len(_BACKOFF) - 1)]:
            return False
        self.deaths += 1
        self.process = start(self.argv, environment=dict(os.environ), log=self.log)
        self.since = time.monotonic()
        return True


def supervise(home: Home) -> None:
    """Run the stack until a TERM signal."""
    with _lock(home, patience=2.0) as mine:
        if not mine:
            return
        ending: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        children: dict[str, _Child] = {}
        try:
            make_exchange(home)
            for name, argv, log in _parts(home):
                process = start(argv, environment=dict(os.environ), log=log)
                children[name] = _Child(argv, log, process)
                _write(home, children)
            while not ending:
                if any([child.look_after() for child in children.values()]):
                    _write(home, children)
                time.sleep(0.2)
        finally:
            for child in reversed(children.values()):
                stop(child.process)
            _file(home).unlink(missing_ok=True)


def running(home: Home) -> dict[str, Any] | None:
    """What a living supervisor says it runs: its `pid`, and `children` by name."""
    with _lock(home) as free:
        if free:
            return None
    try:
        document: dict[str, Any] = json.loads(_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return {"pid": None, "children": {}}
    return document


def up(home: Home) -> None:
    """Start a supervisor that outlives this command, and wait until every silo serves."""
    home.federation()
    if running(home) is None:
        log = home.root / "stack.log"
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            subprocess.Popen(
                [sys.executable, "-m", "infra.stack", str(home.root)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    deadline = time.monotonic() + ALLOWANCE
    while time.monotonic() < deadline:
        if running(home) and all(line["serves"] for line in examine(home)["silos"].values()):
            return
        time.sleep(0.3)
    raise Missing(
        f"the stack did not come up within {ALLOWANCE:g} s; see {home.root / 'stack.log'} and "
        "silos/NAME/silo.log",
        field="stack",
    )


def down(home: Home) -> bool:
    """Stop the supervisor and all it runs; tell whether there was one."""
    document = running(home)
    if document is None:
        return False
    if document["pid"] is not None:
        os.kill(int(document["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + ALLOWANCE
    while running(home) is not None:
        if time.monotonic() > deadline:
            raise Missing(
                f"process {document['pid']} does not end", field="pid", value=document["pid"]
            )
        time.sleep(0.1)
    return True


def examine(home: Home) -> dict[str, Any]:
    """What lives and what does not, as the coordinator sees it: it asks every silo."""
    from federation import engines
    from secure.errors import ExchangeClosed

    document = running(home)
    silos = sorted(home.federation().silos)
    lines = {silo: {"serves": False, "clock_offset": None} for silo in silos}
    exchange = False
    if document is not None or home.exchange_file.exists():
        with (
            contextlib.suppress(ExchangeClosed, FileNotFoundError),
            engines.over_exchange(home) as parties,
        ):
            exchange = True
            lines = {silo: parties.hello(silo) for silo in silos}
    return {
        "supervisor": None if document is None else document["pid"],
        "exchange": exchange,
        "silos": lines,
    }


def _parts(home: Home) -> list[tuple[str, list[str], Path]]:
    """Name, command and log of every child, in the order of starting."""
    directory = home.coordinator / "exchange"
    tacit = str(Path(sys.executable).with_name("tacit"))
    parts = [("exchange", nats.command(directory / "nats.json"), directory / "nats.log")]
    for name in home.silo_names():
        argv = [tacit, "silo", "serve", name, "--home", str(home.root)]
        parts.append((f"silo {name}", argv, home.silo(name).directory / "silo.out"))
    return parts


def _write(home: Home, children: dict[str, _Child]) -> None:
    said = {"pid": os.getpid(), "children": {n: c.process.pid for n, c in children.items()}}
    write_durably(_file(home), json.dumps(said, indent=1).encode())


def _file(home: Home) -> Path:
    return home.root / "stack.json"


@contextlib.contextmanager
def _lock(home: Home, *, patience: float = 0.0) -> Iterator[bool]:
    """Whether this process now holds the supervisor's lock; whoever looks holds it for a moment."""
    descriptor = os.open(home.root / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    supervise(Home(Path(sys.argv[1])))

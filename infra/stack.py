"""The distributed stack on this machine: one supervisor, and its children.

    python -m infra.stack HOME

starts PostgreSQL where it is installed, the Prefect server and the proxy before it, the exchange,
every silo under HOME and the coordinator's worker, each as a process of its own, starts again what
dies, and on TERM stops all of it in order. `stack.json` in the home says what runs; it is there
exactly while a supervisor lives, which holds `stack.lock`. Children die with it, however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from federation.errors import BadInput, Missing, NotFound, TacitError
from federation.home import Home
from flows.pools import COORDINATOR, pool_of
from infra import exchange, postgres, stack_logs
from infra.parts import SILO, part
from infra.prefect_site import Site, make_prefect
from infra.process import start, stop, taken
from privacy.ledger.durable import write_durably

ALLOWANCE = 180.0
"""Seconds within which every part must have come up."""

_BACKOFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds before a child is started again, by how often it has died in a row."""

_STEADY = 60.0
"""Seconds after which a child that lived counts as well again."""


@dataclass
class _Child:
    """One part: how it is started, its log, and how long it may take to end."""

    begin: Callable[[], subprocess.Popen[bytes]]
    patience: float = 5.0
    end: signal.Signals = signal.SIGTERM
    deaths: int = 0

    def __post_init__(self) -> None:
        self.process = self.begin()
        self.since = time.monotonic()

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
        with contextlib.suppress(Missing):  # it is tried again, and its log says why
            self.process = self.begin()
        self.since = time.monotonic()
        return True


def supervise(home: Home, *, prefect: bool = True) -> None:
    """Run the stack until a TERM signal; without Prefect, silos are asked at their desks only."""
    with _lock(home, fcntl.LOCK_EX, patience=2.0) as mine:
        if not mine:
            return
        ending: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        children: dict[str, _Child] = {}
        site = None
        _write(home, children, site)  # before anything that takes time: whom to ask to end
        try:
            exchange.make_exchange(home)
            if prefect:
                site = make_prefect(home)
            _check_ports(home, site)
            stack_logs.of_prefect(home).unlink(missing_ok=True)  # what it says is of this start
            for name, part in _parts(home, site).items():
                children[name] = part()
                _write(home, children, site)
                if ending:
                    break
            while not ending:
                if any([child.look_after() for child in children.values()]):
                    _write(home, children, site)
                time.sleep(0.2)
        finally:
            for child in reversed(children.values()):
                stop(child.process, patience=child.patience, by=child.end)
            _file(home).unlink(missing_ok=True)


def running(home: Home) -> dict[str, Any] | None:
    """What a living supervisor says it runs: its `pid`, and `children` by name."""
    with _lock(home, fcntl.LOCK_SH) as free:
        if free:
            return None
    try:
        document: dict[str, Any] = json.loads(_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return {"pid": None, "children": {}}
    return document


def up(home: Home, *, prefect: bool = True) -> None:
    """Start a supervisor that outlives this command, and wait until all of it serves."""
    home.federation()
    log = home.root / "stack.log"
    if running(home) is None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "infra.stack", str(home.root)),
                    *(() if prefect else ("--without-prefect",)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    else:
        supervisor = None
    deadline = time.monotonic() + ALLOWANCE
    while time.monotonic() < deadline:
        if supervisor is not None and supervisor.poll() is not None:
            raise Missing(stack_logs.last_line(home, log), field="stack", value=str(log))
        begun = running(home)
        if begun and begun["children"] and _serves(home, examine(home)):
            return
        known = stack_logs.reason(home)
        if known is not None:
            down(home)
            raise Missing(known, field="prefect")
        time.sleep(0.3)
    raise Missing(
        f"the stack did not come up within {ALLOWANCE:g} s; see {log}, "
        f"{home.coordinator / 'prefect'}/*.log and silos/NAME/silo.log",
        field="stack",
    )


def down(home: Home) -> bool:
    """Stop the supervisor and all it runs, and see it gone; tell whether there was one."""
    deadline = time.monotonic() + ALLOWANCE
    ending: dict[int, int] = {}  # by its number, which may be used again, the process itself
    try:
        while (document := running(home)) is not None:
            pid = document["pid"]
            if pid is not None and pid not in ending:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    ending[pid] = os.pidfd_open(pid)
                    signal.pidfd_send_signal(ending[pid], signal.SIGTERM)
            if time.monotonic() > deadline:
                raise Missing(f"process {pid} does not end", field="pid", value=pid)
            time.sleep(0.1)
        # Its lock is free a moment before the process is gone.
        for pid, descriptor in ending.items():
            if not select.select([descriptor], [], [], deadline - time.monotonic())[0]:
                raise Missing(f"process {pid} does not end", field="pid", value=pid)
    finally:
        for descriptor in ending.values():
            os.close(descriptor)
    return bool(ending)


def examine(home: Home) -> dict[str, Any]:
    """What lives and what does not, as the coordinator sees it: it asks every silo, and Prefect.

    Raises `NotFound` at a silo's own home, from where nobody can be asked.
    """
    from federation import engines
    from secure.errors import ExchangeClosed

    document = running(home)
    silos = sorted(home.federation().silos)
    lines: dict[str, dict[str, Any]]
    lines = {silo: {"serves": False, "clock_offset": None} for silo in silos}
    answers = False
    if document is not None or home.exchange_file.exists():
        engines.check_coordinator(home)
        with (
            # A membership that is not there, or not signed by all, has nobody to be asked.
            contextlib.suppress(ExchangeClosed, FileNotFoundError, NotFound, BadInput),
            engines.over_exchange(home) as parties,
        ):
            answers = True
            lines = {silo: parties.hello(silo) for silo in silos}
    # Where containers run the site there is no supervisor to say that Prefect is part of it.
    here = (
        document.get("prefect") if document is not None else answers and Site.of(home) is not None
    )
    prefect = _examine_prefect(home) if here else None
    for silo in silos:
        lines[silo]["worker"] = None if prefect is None else _online(home, silo)
    return {
        "supervisor": None if document is None else document["pid"],
        "exchange": answers,
        "prefect": prefect,
        "silos": lines,
    }


def _examine_prefect(home: Home) -> dict[str, Any]:
    site = Site.make(home)
    try:
        site.ask("/admin/version")
    except Missing:
        answers = False
    else:
        answers = True
    return {
        "url": site.url,
        "database": site.database,
        "answers": answers,
        "worker": answers and _online(home, COORDINATOR),
    }


def _online(home: Home, party: str) -> bool:
    """Whether a party's worker has given its pool a sign of life lately."""
    try:
        found = Site.make(home).ask(f"/work_pools/{pool_of(party)}/workers/filter", {})
    except Missing:
        return False
    return any(worker["status"] == "ONLINE" for worker in found)


def _serves(home: Home, document: dict[str, Any]) -> bool:
    """Whether every part that a supervisor here starts is at work."""
    prefect = document["prefect"]
    for silo in home.silo_names():
        line = document["silos"].get(silo)
        if line is not None and not (line["serves"] and line["worker"] is not False):
            return False
    return prefect is None or prefect["worker"]


def _parts(home: Home, site: Site | None) -> dict[str, Callable[[], _Child]]:
    """How every child is made, in the order of starting; they are stopped in the reverse."""
    parts: dict[str, Callable[[], _Child]] = {}

    def add(name: str, log: Path, patience: float = 5.0) -> None:
        made = part(home, name)

        def begin() -> subprocess.Popen[bytes]:
            return start(made.argv, environment=made.environment, log=log)

        parts[name] = lambda: _Child(begin, patience)

    if site is not None:
        place = home.coordinator / "prefect"
        if site.database == "postgresql":
            parts["postgresql"] = partial(_postgres, place, site)
        # PostgreSQL takes connections by now, so a fresh server finds it.
        add("prefect", stack_logs.of_prefect(home))
    add("exchange", home.exchange / "nats.log")
    if site is not None:
        add("proxy", place / "proxy.log")
    for name in home.silo_names():
        add(f"{SILO}{name}", home.silo(name).directory / "silo.out")
    if site is not None:
        add("coordinator", home.coordinator / "worker.log", patience=20.0)
    return parts


def _postgres(place: Path, site: Site) -> _Child:
    postgres.prepare(place / "postgres", site.postgres_password)
    log = place / "postgres.log"
    return _Child(
        lambda: postgres.started(place / "postgres", site.postgres, log),
        patience=postgres.PATIENCE,
        end=postgres.STOP,
    )


def _check_ports(home: Home, site: Site | None) -> None:
    """Refuse to start where somebody else holds a port that is written down."""
    port = exchange.url(home).rpartition(":")[2]
    host = exchange.listens_at(exchange.host_of(home))
    wanted = [("url", host, int(port), home.exchange_file)]
    if site is not None:
        file = home.coordinator / "prefect" / "site.json"
        wanted += [
            ("server", "127.0.0.1", site.server, file),
            ("proxy", host, site.proxy, file),
            ("postgres", "127.0.0.1", site.postgres, file),
        ]
    for field, address, number, file in wanted:
        if taken(address, number):
            raise Missing(
                f"port {number} on {address} is taken: end what listens there, or write another "
                f"into {file} ({field})",
                field=field,
                value=number,
            )


def _write(home: Home, children: dict[str, _Child], site: Site | None) -> None:
    said: dict[str, Any] = {"pid": os.getpid()}
    said["children"] = {name: child.process.pid for name, child in children.items()}
    said["prefect"] = None if site is None else {"url": site.url, "auth": site.auth}
    write_durably(_file(home), json.dumps(said, indent=1).encode())


def _file(home: Home) -> Path:
    return home.root / "stack.json"


@contextlib.contextmanager
def _lock(home: Home, kind: int, *, patience: float = 0.0) -> Iterator[bool]:
    """Whether this process now holds the supervisor's lock, which those that look can share."""
    descriptor = os.open(home.root / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
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


def main() -> None:
    """Supervise the home that is named; what it cannot start without is its log's last line."""
    try:
        supervise(Home(Path(sys.argv[1])), prefect="--without-prefect" not in sys.argv[2:])
    except TacitError as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(stack_logs.full_disk(sys.argv[1]))


if __name__ == "__main__":
    main()

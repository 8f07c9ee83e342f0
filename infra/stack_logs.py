"""Why a stack does not come up, as its logs tell it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from federation.home import Home


def of_prefect(home: Home) -> Path:
    """The log of the Prefect server."""
    return home.coordinator / "prefect" / "server.log"


def reason(home: Home) -> str | None:
    """Why Prefect does not come up, where its log tells a reason that ends by itself never."""
    place = home.coordinator / "prefect"
    log = _tail(of_prefect(home))
    unknown = re.search(r"Can't locate revision identified by '(\w+)'", log)
    if unknown:
        return (
            f"Prefect's database is at migration {unknown[1]}, which the Prefect installed here "
            "does not know: install the one that made it, or move "
            f"{place} away (it holds the history of runs, and no ledger)"
        )
    if re.search(r"No space left on device|database or disk is full|DiskFull", log):
        return full_disk(place)
    return None


def last_line(home: Home, log: Path) -> str:
    """What a supervisor that ended has said; on a full disk it could not even do that."""
    lines = _tail(log).strip().splitlines()
    if not lines and shutil.disk_usage(home.root).free < 1 << 20:
        return full_disk(home.root)
    return lines[-1] if lines else f"the stack's supervisor ended; see {log}"


def full_disk(place: object) -> str:
    """What to say where the disk under a place is full."""
    return f"the disk that holds {place} is full: make room, then tacit up"


def _tail(log: Path) -> str:
    """The end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 20_000, 0))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""

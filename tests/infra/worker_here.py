"""A silo's real worker, whose sessions only note who has joined: arguments HOME SILO NOTES."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from federation.home import Home
from federation.silo import Silo
from infra.prefect_site import silo_environment


class Noted:
    """Sessions that end as soon as they have been noted."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def join(self, job: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{job}\n")

    def at_work(self, job: str) -> bool:
        return False

    def leave(self, job: str) -> None:
        """Nothing is at work."""


def main() -> None:
    home, name, notes = Home(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    environment = silo_environment(home, name)
    assert environment is not None
    os.environ.update(environment)
    from flows.worker import working

    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    silo = Silo(home, name)
    with working(home, silo, Noted(notes)):
        sys.stdin.read()
    silo.close()


main()

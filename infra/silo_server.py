"""The process of one silo: its ledger and desk here, its sessions in children."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType

from federation.access import connect
from federation.home import Home
from federation.serving import SiloServer
from federation.silo import Silo
from infra.sessions import ChildSessions

READY = "serving"
"""What the log says once questions are answered."""


def serve(home: Home, name: str) -> None:
    """Answer at a silo's desk until a TERM or INT signal; its children end with it.

    The log is the silo's own: it stays on this machine, and only its owner can read it.
    """
    running = True

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    os.umask(0o077)
    logging.basicConfig(
        filename=home.silo(name).directory / "silo.log",
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    silo = Silo(home, name)
    sessions = ChildSessions(home, name)
    try:
        with connect(home, name, silo.key) as connection:
            logging.info(READY)
            SiloServer(silo, connection, sessions).serve(lambda: running)
    finally:
        sessions.close()
        silo.close()

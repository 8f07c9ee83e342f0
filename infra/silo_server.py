"""The process of one silo: its ledger, desk and worker here, its sessions in children.

The worker is there where `exchange.yaml` says that the coordinator's site has Prefect, in a thread
of its own; the desk needs no Prefect, and nothing that happens to a worker stops it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from types import FrameType

from federation.access import connect
from federation.home import Home
from federation.serving import SiloServer
from federation.settings import ProcessIsolation
from federation.silo import Silo
from infra.isolation import become, check_reads
from infra.prefect_site import silo_environment
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
    isolation = home.silo_config(name).isolation
    if isinstance(isolation, ProcessIsolation) and isolation.user is not None:
        directory = home.silo(name).directory
        check_reads(isolation.user, directory)
        become(isolation.user, directory)  # before it writes its first line
    environment = silo_environment(home, name) if home.exchange_file.exists() else None
    if environment is not None:
        os.environ.update(environment)
        from flows.worker import working
    logging.basicConfig(
        filename=home.silo(name).directory / "silo.log",
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
        force=True,  # Prefect, where it was imported, has set up a log of its own
    )
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    silo = Silo(home, name)
    sessions = ChildSessions(home, name)
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(connect(home, name, silo.key))
            if environment is not None:
                stack.enter_context(working(home, silo, sessions))
            logging.info(READY)
            SiloServer(silo, connection, sessions).serve(lambda: running)
    finally:
        sessions.close()
        silo.close()

"""The coordinator's worker as a process.

    python -m infra.coordinator HOME

sets the stack's Prefect up, then runs what is submitted to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from federation.home import Home
from infra.prefect_server import client_environment
from infra.prefect_site import POLL, Site
from infra.warm import WarmChildren

PATIENCE = 15.0
"""Seconds that a job's driver has to tell its silos to stop, when this process is ended."""


def serve(home: Home) -> None:
    """Serve the coordinator's pool until a TERM signal; drivers end with it."""
    site = Site.make(home)
    os.environ.update(client_environment(site.url, home.root, site.auth))
    os.environ.update(PREFECT_WORKER_QUERY_SECONDS=str(POLL), TACIT_HOME=str(home.root))
    from flows.coordinator import serve as serve_pool

    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, force=True
    )
    for quiet in ("httpx", "nats"):
        logging.getLogger(quiet).setLevel(logging.CRITICAL)
    argv = [sys.executable, "-m", "flows.coordinator"]
    drivers = WarmChildren(argv, dict(os.environ), home.coordinator / "drivers.log")

    async def until_ended() -> None:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await serve_pool(home, drivers)

    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(until_ended())
    finally:
        drivers.close(PATIENCE)


if __name__ == "__main__":
    serve(Home(Path(sys.argv[1])))

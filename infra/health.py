"""Whether a part does what it is there for: the health checks of the containers.

    python -m infra.health PART HOME

asks the part that runs beside it, and ends with 1 and the reason on stderr where it does not serve.
It looks from inside: whether a silo can be reached is what the coordinator's `tacit status` says.
"""

from __future__ import annotations

import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from federation.errors import Missing, TacitError
from federation.home import Home
from flows.pools import COORDINATOR, pool_of
from infra import exchange
from infra.containers import redis_url, site_of
from infra.parts import DASHBOARD, SILO

PATIENCE = 5.0
"""Seconds for an answer."""

DOCKET = "prefect:workers"
"""Where the services' docket worker beats in Redis, every two seconds."""

_ESTABLISHED = "01"


def _server(home: Home) -> None:
    site_of(home).ask("/admin/version")


def _services(home: Home) -> None:
    from redis import Redis, RedisError

    try:
        with Redis.from_url(redis_url(home, 1), socket_timeout=PATIENCE) as client:
            beating = client.zcount(DOCKET, time.time() - 30, "+inf")
    except RedisError as error:
        raise Missing(f"Redis does not answer ({type(error).__name__})", field="redis") from None
    if not beating:
        raise Missing("no service has beaten in 30 s", field="services")


def _proxy(home: Home) -> None:
    """A caller without a pass is told so, over TLS by the certificate that silos believe."""
    context = ssl.create_default_context(cafile=home.exchange / "ca.pem")
    url = f"https://127.0.0.1:{site_of(home).proxy}/api/work_pools/none"
    try:
        urllib.request.urlopen(url, timeout=PATIENCE, context=context)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return
    raise Missing("the proxy answers, and not as it should", field="proxy")


def _coordinator(home: Home) -> None:
    workers = site_of(home).ask(f"/work_pools/{pool_of(COORDINATOR)}/workers/filter", {})
    if not any(worker["status"] == "ONLINE" for worker in workers):
        raise Missing("the coordinator's worker has not beaten lately", field="coordinator")


def _dashboard(home: Home) -> None:
    url = f"http://127.0.0.1:{DASHBOARD}/_stcore/health"
    urllib.request.urlopen(url, timeout=PATIENCE).close()


def _silo(home: Home) -> None:
    """The connection to the exchange stands; the kernel knows, and nobody has to be asked."""
    port = int(exchange.url(home).rpartition(":")[2])
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, _, remote, state, *_ = line.split()
            if state == _ESTABLISHED and int(remote.rpartition(":")[2], 16) == port:
                return
    raise Missing("no connection to the exchange", field="silo")


CHECKS: dict[str, Callable[[Home], None]] = {
    "server": _server,
    "services": _services,
    "proxy": _proxy,
    "coordinator": _coordinator,
    "dashboard": _dashboard,
}


def check(home: Home, part: str) -> None:
    """Raise where a part does not serve; `KeyError` for a part that has no check."""
    (_silo if part.startswith(SILO) else CHECKS[part])(home)


def main() -> None:
    """Check the part that is named."""
    _, part, root = sys.argv
    try:
        check(Home(Path(root)), part)
    except (*TacitError, OSError) as error:
        sys.exit(f"{part}: {error}")


if __name__ == "__main__":
    main()

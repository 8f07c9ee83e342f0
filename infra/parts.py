"""What each part of a stack is: one table of commands and environments.

    python -m infra.parts PART HOME [OPTION ...]

becomes that part. The supervisor of `tacit up` starts its children from this table, and so do the
containers of `infra/deploy`. PostgreSQL and Redis are other people's programs and not in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dashboard import launch
from federation.errors import NotFound, TacitError
from federation.home import Home
from infra import containers, nats
from infra.prefect_server import server_command
from infra.prefect_site import Site

DASHBOARD = 8501
"""The dashboard's port, loopback unless an option says otherwise."""

SILO = "silo "
"""The part of a silo is named by this and the silo's name."""


@dataclass(frozen=True)
class Part:
    """How a part is started."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


def _module(name: str) -> Callable[[Home], Part]:
    return lambda home: Part([sys.executable, "-m", name, str(home.root)])


def _prefect(home: Home) -> Part:
    """Prefect in one process: the API, the UI and the services behind them."""
    site = Site.make(home)
    return Part(server_command(site.server), site.environment(home))


def _server(home: Home) -> Part:
    """Prefect's API and UI, with its services in a process of their own."""
    port = containers.site_of(home).server
    return Part(server_command(port, "--no-services"), containers.environment(home))


def _services(home: Home) -> Part:
    words = [sys.executable, "-m", "prefect", "server", "services", "start"]
    return Part(words, containers.environment(home))


def _migrate(home: Home) -> Part:
    """Bring Prefect's database to the installed version, and end."""
    words = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    return Part(words, containers.environment(home))


def _exchange(home: Home) -> Part:
    return Part(nats.command(home.exchange / "nats.json"))


def _dashboard(home: Home) -> Part:
    return Part(launch.command(DASHBOARD), launch.environment(home.root))


TABLE: dict[str, Callable[[Home], Part]] = {
    "prefect": _prefect,
    "server": _server,
    "services": _services,
    "migrate": _migrate,
    "exchange": _exchange,
    "proxy": _module("infra.proxy"),
    "coordinator": _module("infra.coordinator"),
    "dashboard": _dashboard,
}


def part(home: Home, name: str) -> Part:
    """The part of a name; `silo NAME` is that of a silo. Raises `NotFound` for any other."""
    if name.startswith(SILO):
        tacit = str(Path(sys.executable).with_name("tacit"))
        return Part([tacit, "silo", "serve", name.removeprefix(SILO), "--home", str(home.root)])
    if name not in TABLE:
        known = [*TABLE, f"{SILO}NAME"]
        raise NotFound(f"no part is called {name!r}", field="part", value=name, allowed=known)
    return TABLE[name](home)


def main() -> None:
    """Become the part that is named; what is after the home goes to it as options."""
    try:
        _, name, root, *options = sys.argv
    except ValueError:
        sys.exit(f"usage: python -m infra.parts PART HOME [OPTION ...]; parts: {', '.join(TABLE)}")
    os.umask(0o077)
    try:
        made = part(Home(Path(root)), name)
    except TacitError as error:
        sys.exit(str(error))
    os.execve(made.argv[0], [*made.argv, *options], made.environment)  # noqa: S606


if __name__ == "__main__":
    main()

"""What a coordinator's site in containers has beside that of `tacit up`: set ports, Redis, files.

    python -m infra.containers prepare HOME    ports, passwords, certificates; again changes nothing
    python -m infra.containers setup HOME      the set-up flow, once

The parts that need Prefect share one network namespace, where it listens on loopback as it does
everywhere, so the ports can be the same at every site. The server and its services are processes
of their own and share what they know through Redis: events in causal order, leases, work to do.

    coordinator/prefect/secrets/postgres    PostgreSQL's password    mode 0600
    coordinator/prefect/secrets/redis       Redis' configuration, its password in it    mode 0600
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from federation.errors import BadInput, NotFound, TacitError
from federation.home import Home
from infra import exchange
from infra.prefect_server import client_environment
from infra.prefect_site import Site, make_prefect
from privacy.ledger.durable import write_durably


@dataclass(frozen=True)
class Ports:
    """Where the parts listen; the proxy's is the only one that is published."""

    server: int = 4200
    proxy: int = 4201
    postgres: int = 5432
    redis: int = 6379


def prepare(home: Home, ports: Ports | None = None) -> None:
    """Make what the containers need; what is there stays, and certificates due are renewed.

    Raises `BadInput` where the home was made with other ports or without PostgreSQL.
    """
    ports = ports or Ports()
    if not home.exchange_file.exists():
        raise NotFound(
            f"{home.root} has no exchange yet: tacit init {home.root} --dataset SCHEMA.yaml "
            "--exchange HOST:PORT, with the host that silos will reach",
            field="exchange",
            value=str(home.exchange_file),
        )
    exchange.make_exchange(home)
    place = home.coordinator / "prefect"
    wanted = ("postgresql", ports.server, ports.proxy, ports.postgres)
    site = Site.of(home) or Site(
        database="postgresql",
        server=ports.server,
        proxy=ports.proxy,
        postgres=ports.postgres,
        password=secrets.token_urlsafe(24),
        postgres_password=secrets.token_urlsafe(24),
    )
    if (site.database, site.server, site.proxy, site.postgres) != wanted:
        raise BadInput(
            f"{place / 'site.json'} was made by `tacit up`, with other ports than containers use: "
            f"move {place} away (it holds the history of runs, and no ledger)",
            field="site.json",
            value=[site.database, site.server, site.proxy, site.postgres],
            allowed=list(wanted),
        )
    for directory in (place / "secrets", place / "postgres-17", place / "redis"):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(place / "site.json", site.model_dump_json(indent=1).encode())
    make_prefect(home)
    write_durably(place / "secrets" / "postgres", site.postgres_password.encode())
    if not _redis_file(home).exists():
        settings = {
            "bind": "127.0.0.1",
            "port": ports.redis,
            "requirepass": secrets.token_urlsafe(24),
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        write_durably(_redis_file(home), lines.encode())
    # Where `tacit submit` finds Prefect; a supervisor would write it for as long as it lives.
    known = {"pid": None, "children": {}, "prefect": {"url": site.url, "auth": site.auth}}
    said, file = json.dumps(known, indent=1).encode(), home.root / "stack.json"
    if not file.exists() or file.read_bytes() != said:  # a file that is replaced loses its mounts
        write_durably(file, said)


def set_up(home: Home) -> None:
    """Bring a Prefect server that answers to what the catalogue says."""
    site = site_of(home)
    os.environ.update(client_environment(site.url, home.root, site.auth))
    from flows.setup import setup

    changed = asyncio.run(setup(str(home.root)))
    print(f"set up: {', '.join(changed) or 'nothing had to be changed'}")


def site_of(home: Home) -> Site:
    """The site that was prepared; `NotFound` where none was."""
    site = Site.of(home)
    if site is None or not _redis_file(home).exists():
        raise NotFound(
            f"{home.root} is not prepared: python -m infra.containers prepare {home.root}",
            field="home",
            value=str(home.root),
        )
    return site


def redis_url(home: Home, database: int) -> str:
    """Where Redis is, password and all."""
    said = dict(line.split(" ", 1) for line in _redis_file(home).read_text().splitlines())
    return f"redis://:{said['requirepass']}@{said['bind']}:{said['port']}/{database}"


def environment(home: Home) -> dict[str, str]:
    """What Prefect's server needs where its services, and its migrations, run apart."""
    return site_of(home).environment(home) | {
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_URL": redis_url(home, 0),
        "PREFECT_SERVER_DOCKET_URL": redis_url(home, 1),
    }


def _redis_file(home: Home) -> Path:
    return home.coordinator / "prefect" / "secrets" / "redis"


COMMANDS: dict[str, Callable[[Home], None]] = {"prepare": prepare, "setup": set_up}


def main() -> None:
    """Do what is named at a home."""
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m infra.containers {'|'.join(COMMANDS)} HOME")
    os.umask(0o077)
    try:
        COMMANDS[sys.argv[1]](Home(Path(sys.argv[2])))
    except TacitError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

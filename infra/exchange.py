"""The exchange at the coordinator: its authority, its users and its configuration.

    coordinator/exchange/  ca.key  ca.pem  server.key  server.pem  users/NAME.json  nats.json

A party's file under `users/` says by which NKEY the server knows it and which certificate it was
issued. The configuration is made of these files and the server told to take it up, so that a user
is there from admission to revocation. On one machine every party under the home gets what an
enrolled one gets, by the same functions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import yaml

from federation.access import ExchangeConfig
from federation.documents import load_yaml
from federation.errors import NotFound
from federation.home import Home
from infra import certificates, nats
from infra.process import free_port
from privacy.ledger.durable import write_durably


@dataclass(frozen=True)
class User:
    """A party as the exchange knows it: its public NKEY, and the certificate issued to it (PEM)."""

    nkey: str
    certificate: str


def make_exchange(home: Home, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Make what a NATS server and all parties under this home need; what is there stays.

    The authority's key stays in the coordinator's directory; each party's seed and transport key in
    its own. Certificates under this home that end within a month are renewed.
    """
    if not home.coordinator_key.exists():
        raise NotFound(
            f"{home.root}: the coordinator's home is elsewhere, and the exchange with it; here, "
            "`tacit silo serve NAME` is all there is to run",
            field="home",
            value=str(home.root),
        )
    if not home.exchange_file.exists():
        certificates.make_authority(home.exchange, home.federation().name)
        write_durably(home.authority, (home.exchange / "ca.pem").read_bytes(), 0o644)
        said = yaml.safe_dump({"url": f"tls://{host}:{port or free_port(host)}"})
        write_durably(home.exchange_file, said.encode(), 0o644)
    if certificates.due(home.exchange / "server.pem"):
        issue_server(home)
    members = set(home.silo_names()) & set(home.federation().silos)
    for party in ("coordinator", *sorted(members)):
        if not home.seed(party).exists():
            nats.make_seed(home.seed(party))
        known = users(home).get(party)
        if (
            certificates.due(home.transport(party))
            or known is None
            or known.nkey != nats.public_key(home.seed(party))
        ):
            issue_here(home, party)
    configure(home)


def is_here(home: Home) -> bool:
    """Whether this home has the exchange's authority, as the coordinator's has once it has one."""
    return (home.exchange / "ca.key").exists()


def url(home: Home) -> str:
    """Where the exchange is, for every party."""
    return load_yaml(home.exchange_file, ExchangeConfig).url


def issue_server(home: Home) -> None:
    """Issue the server's certificate, for the host of `exchange.yaml` and for this machine."""
    host, _ = _address(home)
    certificates.issue_server(home.exchange, sorted({host, "127.0.0.1", "localhost"}))


def issue_here(home: Home, party: str) -> None:
    """Give a party under this home a new transport key and certificate, and its user."""
    asked = certificates.make_request(home.asked_key(party), party)
    issued = certificates.issue_client(home.exchange, party, asked)
    authority = (home.exchange / "ca.pem").read_text()
    certificates.install(home.asked_key(party), issued, authority, party, home.transport(party))
    put_user(home, party, User(nats.public_key(home.seed(party)), issued))


def users(home: Home) -> dict[str, User]:
    """Every party that the exchange knows."""
    return {
        path.stem: User(**json.loads(path.read_text()))
        for path in sorted((home.exchange / "users").glob("*.json"))
    }


def put_user(home: Home, party: str, user: User) -> None:
    """Let the exchange know a party, in the place of what it knew of it; see `configure`."""
    path = home.exchange / "users" / f"{party}.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, json.dumps(vars(user), indent=1).encode())


def drop_user(home: Home, party: str) -> None:
    """Let the exchange know a party no more; see `configure`."""
    (home.exchange / "users" / f"{party}.json").unlink(missing_ok=True)


def configure(home: Home) -> bool:
    """Write the server's configuration from its users; whether a server here has taken it up.

    A user that is no party of the federation now is left out. Raises `Missing` where a server runs
    here and does not take it up.
    """
    host, port = _address(home)
    federation = home.federation()
    parties = {"coordinator", *federation.silos}
    said = nats.configuration(
        federation.name,
        {party: user.nkey for party, user in users(home).items() if party in parties},
        directory=home.exchange,
        host=listens_at(host),
        port=port,
        certificates=home.exchange,
    )
    target = home.exchange / "nats.json"
    write_durably(target, said.encode())
    return nats.reload(target, home.exchange / "nats.log")


def host_of(home: Home) -> str:
    """The host of the coordinator's site, where the exchange and the proxy are reached."""
    return _address(home)[0]


def listens_at(host: str) -> str:
    """Where a server that is reached at this host listens: silos may come from outside."""
    return host if host in ("127.0.0.1", "localhost") else "0.0.0.0"  # noqa: S104


def _address(home: Home) -> tuple[str, int]:
    host, _, port = url(home).removeprefix("tls://").rpartition(":")
    return host, int(port)

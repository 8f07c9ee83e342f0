"""An exchange on this machine for a home that has none: certificates, users, configuration."""

from __future__ import annotations

import yaml

from federation.access import ExchangeConfig
from federation.documents import load_yaml
from federation.home import Home
from infra import certificates, nats
from infra.process import free_port
from privacy.ledger.durable import write_durably


def make_exchange(home: Home, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Make what a NATS server and all parties under this home need; what is there stays.

    The authority's key stays in the coordinator's directory; each party's seed in its own.
    """
    directory = home.coordinator / "exchange"
    federation = home.federation()
    if not home.exchange_file.exists():
        port = port or free_port(host)
        certificates.make_authority(directory, federation.name)
        certificates.issue_server(directory, sorted({host, "127.0.0.1", "localhost"}))
        write_durably(home.authority, (directory / "ca.pem").read_bytes(), 0o644)
        said = yaml.safe_dump({"url": f"tls://{host}:{port}"})
        write_durably(home.exchange_file, said.encode(), 0o644)
    for party in ("coordinator", *home.silo_names()):
        if not home.seed(party).exists():
            nats.make_seed(home.seed(party))
    configure(home)


def configure(home: Home) -> None:
    """Write the server's configuration from the parties under this home."""
    directory = home.coordinator / "exchange"
    url = load_yaml(home.exchange_file, ExchangeConfig).url
    host, _, port = url.removeprefix("tls://").rpartition(":")
    users = {p: nats.public_key(home.seed(p)) for p in ("coordinator", *home.silo_names())}
    said = nats.configuration(
        home.federation().name,
        users,
        directory=directory,
        host=host,
        port=int(port),
        certificates=directory,
    )
    write_durably(directory / "nats.json", said.encode())

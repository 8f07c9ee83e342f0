"""How a party gets to its federation's exchange: what `exchange.yaml` says, and its credentials.

`exchange.yaml` lies in the home's root, the same at every party; the authority's certificate lies
beside it. The seed of a party's user and its certificate are in its own directory, at mode 0600.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from federation.documents import load_yaml
from federation.errors import NotFound
from federation.home import Home
from federation.membership import Membership
from federation.spec import Block
from secure.exchange.nats import Access, NatsConnection
from secure.keys import SigningKey


class ExchangeConfig(Block):
    """Where the federation's exchange is: `tls://HOST:PORT`.

    `prefect`, where the coordinator's site has Prefect, is what silos may ask of it; they are asked
    at their desks only where it is left out.
    """

    url: Annotated[str, Field(pattern=r"^tls://[A-Za-z0-9.\[\]:-]+:[0-9]{1,5}$")]
    prefect: Annotated[
        str | None, Field(pattern=r"^https://[A-Za-z0-9.\[\]:-]+:[0-9]{1,5}/api$")
    ] = None


def connect(home: Home, party: str, key: SigningKey) -> NatsConnection:
    """Connect a party by its name; `NotFound` where it was never given an exchange."""
    if not home.exchange_file.is_file():
        raise NotFound(
            f"{home.exchange_file}: this home has no exchange; `tacit up` makes one here, and "
            "`tacit silo gather` takes in the bundle in which a coordinator says where its own is",
            field="exchange",
            value=str(home.exchange_file),
        )
    config = load_yaml(home.exchange_file, ExchangeConfig)
    terms = Membership.load(home).terms
    return NatsConnection(
        Access(config.url, home.authority, home.seed(party), home.transport(party)),
        federation=terms.federation,
        party=party,
        key=key,
        keys=terms.silos | {"coordinator": terms.coordinator},
    )

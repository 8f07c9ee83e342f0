"""Opening accounts: what is checked of their terms before a ledger holds them for good."""

from __future__ import annotations

from federation.errors import BadInput, NotFound
from federation.home import Home
from federation.settings import Sizes
from privacy.events import Unit
from privacy.ledger import AccountTerms


def check_delta(delta: float, unit: Unit, silo: str, sizes: Sizes) -> None:
    """Refuse a delta that is not below one over the declared units: it could publish a row."""
    units = sizes.units(unit)
    if delta * units >= 1:
        raise BadInput(
            f"delta: {delta:g} is not below 1/{units}, one over the {unit.value}s of silo {silo}",
            field="delta",
            value=delta,
            allowed=f"< {1 / units:g}",
        )


def check(home: Home, silo: str, terms: AccountTerms) -> None:
    """Refuse an account that no job of the silo could be charged to.

    Its source has to stand in `silo.yaml`, an account per subject needs a data set with a subject
    column, and delta has to be below one over the declared units.
    """
    federation, sources = home.federation(), home.silo_config(silo).sources
    if terms.source not in sources:
        raise NotFound(
            f"silo {silo} has no source {terms.source!r}; silo.yaml names sources first",
            field="account",
            value=terms.source,
            allowed=sorted(sources),
        )
    names = sources[terms.source].datasets
    if terms.unit is Unit.SUBJECT:
        names = tuple(name for name in names if federation.dataset(name).subject is not None)
    if not names:
        raise BadInput(
            f"source {terms.source}: no data set on it has a subject column, so no job could be "
            "charged to an account of unit subject",
            field="account",
            value=terms.unit.value,
            allowed=Unit.RECORD.value,
        )
    declared = federation.silos[silo].sizes
    for name in names:
        if name in declared:
            check_delta(terms.delta, terms.unit, silo, declared[name])

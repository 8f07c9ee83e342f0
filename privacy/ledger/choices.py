"""What each filter would admit of typical jobs: to be looked at before an account is opened.

    >>> terms = AccountTerms(
    ...     source="rows", unit="record", relation="add_remove", epsilon=3.0, delta=1e-5
    ... )
    >>> admitted(terms, Gaussian(sigma=20.0))
    171

An account keeps its filter for good, and which one admits most depends on what the jobs will be.
"""

from __future__ import annotations

from dataclasses import replace

from privacy.errors import UnsupportedEvent
from privacy.events import DiscreteGaussian, Event, Gaussian, Poisson, Repeat
from privacy.ledger.balance import Balance, Tally, repeats
from privacy.ledger.filters import NAMES, open_filter
from privacy.ledger.terms import AccountTerms

TYPICAL: dict[str, Event] = {
    "training, 100 steps at rate 0.01, noise 2": Repeat(
        times=100, of=Poisson(rate=0.01, of=Gaussian(sigma=2.0))
    ),
    "training, 1,000 steps at rate 0.01, noise 1": Repeat(
        times=1000, of=Poisson(rate=0.01, of=Gaussian(sigma=1.0))
    ),
    "one histogram of counts, noise 20": DiscreteGaussian(sigma=20.0),
    "100 sums of all rows, noise 40 each": Repeat(times=100, of=Gaussian(sigma=40.0)),
}
"""Rates and noise multipliers as in `privacy.events`."""


def choices(terms: AccountTerms) -> dict[str, dict[str, int | None]]:
    """For each typical job and each filter, how many an account of these terms would admit.

    `terms.filter` is not looked at, nor is `terms.delta0` under a filter that cannot set it aside.
    None where the filter has no price for the job.
    """
    found: dict[str, dict[str, int | None]] = {}
    for job, event in TYPICAL.items():
        found[job] = {}
        for name in NAMES:
            delta0 = terms.delta0 if name in ("renyi", "renyi1") else 0.0
            found[job][name] = admitted(replace(terms, filter=name, delta0=delta0), event)
    return found


def admitted(terms: AccountTerms, event: Event) -> int | None:
    """How many jobs of one event a new account admits, one after the other; None: no price."""
    filter_ = open_filter(terms)
    nothing = Tally.empty(filter_.positions())
    limits = filter_.limits(terms.epsilon)
    try:
        charge = filter_.charge(event, terms.epsilon)
    except UnsupportedEvent:
        return None
    return repeats(Balance("", terms.epsilon, terms.epsilon, limits, nothing, nothing), charge)

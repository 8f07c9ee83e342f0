"""The filters that an account can be opened with.

| name | admits while | for |
|---|---|---|
| `renyi` | one of three Renyi orders fits, each at its share of delta | the default |
| `renyi1` | one Renyi order fits | accounts with few, like jobs |
| `basic` | epsilons and deltas add up | one or two jobs; returns nothing |
| `zcdp` | the sum of rho fits | plain Gaussian events only |
| `gdp` | the sum of mu^2 fits | plain Gaussian events only; the tightest for them |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privacy.errors import InvalidRequest
from privacy.ledger.filters.amounts import Charge, Loss
from privacy.ledger.filters.base import Filter
from privacy.ledger.filters.basic import Basic
from privacy.ledger.filters.gdp import GaussianDp
from privacy.ledger.filters.renyi import Renyi
from privacy.ledger.filters.zcdp import ZeroConcentrated

if TYPE_CHECKING:
    from privacy.ledger.terms import AccountTerms

NAMES = ("renyi", "renyi1", "basic", "zcdp", "gdp")

__all__ = ["NAMES", "Charge", "Filter", "Loss", "for_terms", "open_filter"]


def open_filter(terms: AccountTerms) -> Filter:
    """Make the filter of a new account; its parameters are then fixed for good."""
    if terms.filter in ("renyi", "renyi1"):
        single = {"factors": (0.8,), "shares": (1.0,)} if terms.filter == "renyi1" else {}
        return Renyi.opened(
            terms.filter,
            relation=terms.relation,
            epsilon=terms.epsilon,
            delta=terms.delta,
            delta0=terms.delta0,
            **single,
        )
    return for_terms(terms, {})


def for_terms(terms: AccountTerms, parameters: dict[str, Any]) -> Filter:
    """Rebuild an account's filter from its terms and the parameters of its opening entry."""
    if terms.filter in ("renyi", "renyi1"):
        return Renyi(
            terms.filter,
            relation=terms.relation,
            delta=terms.delta,
            delta0=terms.delta0,
            orders=[float(order) for order in parameters["orders"]],
            shares=[float(share) for share in parameters["shares"]],
            watched=[float(order) for order in parameters["watched"]],
        )
    kinds: dict[str, Any] = {"basic": Basic, "zcdp": ZeroConcentrated, "gdp": GaussianDp}
    if terms.filter not in kinds:
        raise InvalidRequest(
            f"filter: {terms.filter!r} is none of {', '.join(NAMES)}",
            field="filter",
            value=terms.filter,
            allowed=NAMES,
        )
    made: Filter = kinds[terms.filter](relation=terms.relation, delta=terms.delta)
    return made

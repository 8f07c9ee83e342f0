"""What the ledger shows: accounts, admissions, spends, all read from balances and charges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from privacy.events import Event, Relation, Unit
from privacy.ledger.balance import Balance, admit, rooms, saturate, share, used
from privacy.ledger.filters import for_terms
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.filters.base import Filter
from privacy.ledger.states import ChargeState
from privacy.ledger.terms import AccountTerms

AT_RISK = 0.8
EXHAUSTED = 0.995


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it stands.

    Epsilons are for display; the claim to others is `largest_capacity_epsilon`, and only the
    filter decides.

    `spent_epsilon`: the smallest capacity that would have admitted what was started so far.
    `reserved_epsilon`: what the reservations not yet started add to it. `remaining_epsilon`:
    capacity minus both. `used`: the share of the account that is gone, reservations included.
    `unprotected`: how many unprotected releases the guarantee excludes. `seq`: the entry that last
    touched the account.
    """

    id: str
    source: str
    unit: Unit
    relation: Relation
    filter: str
    delta: float
    delta0: float
    capacity_epsilon: float
    largest_capacity_epsilon: float
    spent_epsilon: float
    reserved_epsilon: float
    remaining_epsilon: float
    used: float
    status: str
    unprotected: int
    seq: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What an account would say to a charge now.

    `charge_share`: the share of the whole account that the charge takes. `used_before`,
    `used_after`: shares gone without and with it. The epsilons are for display, after the charge.
    """

    admissible: bool
    charge_share: float
    used_before: float
    used_after: float
    spent_epsilon_after: float
    remaining_epsilon_after: float


@dataclass(frozen=True, slots=True)
class Spend:
    """One charge of an account's history.

    `share` of the whole account; `seq` and `when` of the reservation's entry.
    """

    key: str
    job: str
    state: str
    event: Event
    charge: Charge
    share: float
    seq: int
    when: datetime


def account_view(opening: dict[str, Any], balance: Balance, seq: int) -> Account:
    """An account, from its opening and balance."""
    terms = AccountTerms.read(opening["terms"])
    filter_ = for_terms(terms, opening["parameters"])
    total = balance.total()
    spent = filter_.epsilon(balance.spent.sums())
    taken = filter_.epsilon(total.sums())
    gone = used(balance.limits, total)
    open_ = any(room is not None and room > 0 for room in rooms(balance.limits, total))
    return Account(
        id=terms.id,
        source=terms.source,
        unit=terms.unit,
        relation=terms.relation,
        filter=terms.filter,
        delta=terms.delta,
        delta0=terms.delta0,
        capacity_epsilon=balance.epsilon,
        largest_capacity_epsilon=balance.largest,
        spent_epsilon=spent,
        reserved_epsilon=taken - spent if taken > spent else 0.0,
        remaining_epsilon=max(balance.epsilon - taken, 0.0)
        if open_ and not balance.breached
        else 0.0,
        used=gone,
        status=_status(balance, gone, open_),
        unprotected=balance.unprotected,
        seq=seq,
    )


def admission_view(filter_: Filter, balance: Balance, asked: Charge) -> Admission:
    """What a balance would say to a charge."""
    total = balance.total()
    recorded = admit(balance, asked)
    admissible = recorded is not None
    after = total.plus(recorded or saturate((), total, asked))
    taken = filter_.epsilon(after.sums())
    return Admission(
        admissible=admissible,
        charge_share=share(balance.limits, asked),
        used_before=used(balance.limits, total),
        used_after=used(balance.limits, after),
        spent_epsilon_after=taken,
        remaining_epsilon_after=max(balance.epsilon - taken, 0.0) if admissible else 0.0,
    )


def spend_view(charge: ChargeState, account: str, limits: tuple[int, ...], at: datetime) -> Spend:
    """One charge as a line of an account's history."""
    from privacy.events import parse

    line = charge.lines[account]
    return Spend(
        key=charge.key,
        job=charge.job,
        state=charge.state.value,
        event=parse(line.event),
        charge=line.charge,
        share=share(limits, line.charge),
        seq=charge.reserved_at,
        when=at,
    )


def _status(balance: Balance, gone: float, open_: bool) -> str:
    if balance.breached is not None:
        return "breached"
    if not open_ or gone >= EXHAUSTED:
        return "exhausted"
    return "at risk" if gone >= AT_RISK else "healthy"

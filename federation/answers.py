"""What silos answer at their desks, read before it is used.

A silo may have sent anything. What is not of the form of an answer is `BadMessage`, whatever is
wrong with it, and is not shown. That an answer of the right form is true is another matter: public
facts are held against `federation.yaml` (`federation.parties`), receipts against the silo's key
(`privacy.ledger.mirror`), and balances are the silo's word.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from federation.jobs.base import FACTS, PartyFacts
from federation.limits import CountOrNone, Delta, Within
from federation.spec import Block
from privacy.errors import LedgerTampered
from privacy.events import Relation, Unit
from privacy.ledger import Receipt
from secure.errors import BadMessage


def _known(value: float) -> float:
    if math.isnan(value):
        raise ValueError("not a number")
    return value


Amount = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_known)]
"""An epsilon or a share of an account, which may be infinite: what no epsilon bounds, all used."""


_MANY = ("keys", "forfeited", "charges")
"""Where entries that are about several jobs name them: expiry, and a breach by a lost ledger."""


class Answer(Block):
    """An answer that is a document; units and relations are texts in it."""

    model_config = ConfigDict(use_enum_values=True)


class Hello(Answer):
    """The time of a silo's clock, in seconds since 1970."""

    time: Annotated[float, Within(0, 1e11)]


class Loss(Answer):
    """What one subject can lose."""

    epsilon: Amount
    delta: Amount


class AccountLine(Answer):
    """What a job takes of one account."""

    admissible: bool
    charge: Amount
    used_after: Amount
    remaining_epsilon: Amount


class Price(Answer):
    """One silo's line of a quote."""

    epsilon: Amount
    delta: Delta
    unit: Unit
    charge: Amount
    subject: Loss | None
    events: list[dict[str, Any]]
    remaining_epsilon: Amount
    admissible: bool
    accounts: Annotated[dict[str, AccountLine], Field(min_length=1)]
    plan: dict[str, Any]


class Fits(Answer):
    """The largest epsilon and number of rounds still admitted; nothing where no noise scales."""

    epsilon: Amount | None = None
    rounds: CountOrNone | None = None

    @model_validator(mode="after")
    def _with_rounds(self) -> Fits:
        if self.rounds is None and self.epsilon is not None:
            raise ValueError("an epsilon without rounds")
        return self


class Balance(Answer):
    """What an account allows and has left."""

    remaining_epsilon: Amount
    used: Amount
    unprotected: CountOrNone
    relation: Relation
    claim_epsilon: Amount
    delta: Delta


class Standing(Answer):
    """Where a request for approval stands, and whether the job could begin now."""

    state: Literal["pending", "given", "refused", "expired"]
    open: bool


class Epsilons(Answer):
    """The price of what a job ran, and of all that it had planned."""

    executed: Amount
    planned: Amount


def read(kind: type[Answer], silo: str, answer: Any) -> dict[str, Any]:
    """An answer as plain data of its kind; fields that it may leave out and did are not there."""
    try:
        return kind.model_validate(answer).model_dump(exclude_unset=True)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _malformed(silo, kind.__name__.lower()) from None


def epsilons(silo: str, answer: Any) -> tuple[float, float]:
    """Two epsilons: of what a job ran, and of all that it had planned."""
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        raise _malformed(silo, "epsilons")
    said = read(Epsilons, silo, dict(zip(("executed", "planned"), answer, strict=True)))
    return said["executed"], said["planned"]


def facts(silo: str, answer: Any) -> PartyFacts:
    """Public facts, with deltas of accounts that a job can be priced with."""
    try:
        said = FACTS.validate_python(answer)
        said.dataset.digest()  # what has no canonical form is no schema
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _malformed(silo, "facts") from None
    for account in said.accounts:
        if not (0 < account.delta < 1 and 0 <= account.delta0 < account.delta):
            raise _malformed(silo, "facts")
    return said


def receipt(silo: str, job: str, answer: Any) -> Receipt:
    """A receipt of this silo about this job; that the silo signed it is for the mirror to check."""
    try:
        said = Receipt.read(answer)
        body = said.data
        about = {body.get("job")}.union(*(body.get(name) or () for name in _MANY))
        right = (
            said.silo == silo
            and job in about
            and 0 < said.seq < 2**53
            and all(isinstance(body.get(name), str) for name in ("ledger", "prev"))
        )
    except (LedgerTampered, ValueError, TypeError, OverflowError, RecursionError):
        right = False
    if not right:
        raise _malformed(silo, "receipt")
    return said


def _malformed(silo: str, what: str) -> BadMessage:
    return BadMessage(f"silo {silo} gave an answer that is none ({what})", field=what, value=silo)

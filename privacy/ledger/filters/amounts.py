"""Integer amounts: what a charge takes and what a capacity holds, in 1e-12 units.

Charges are rounded up and capacities down, so that no sum of charges that fits as integers fails
to fit as real numbers. An amount with no finite value, or above 2^53 - 1 units, is `None`:
saturated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from privacy.errors import InvalidEvent, InvalidRequest
from privacy.ledger.canonical import MAX

UNIT = 10**12
"""Units in one nat of privacy loss, and parts in the whole of a delta."""

Loss = int | None


def amount(loss: float) -> Fraction | float:
    """Return a loss exactly, as a fraction or infinity; NaN and negatives are `InvalidEvent`."""
    if math.isnan(loss) or loss < 0:
        raise InvalidEvent(
            f"a loss of {loss} makes no sense", field="event", value=loss, allowed=">= 0"
        )
    return loss if math.isinf(loss) else Fraction(loss)


def charged(loss: Fraction | float) -> Loss:
    """Return a loss in units, rounded up; `None` where it is infinite or too large to write."""
    exact = loss if isinstance(loss, Fraction) else amount(loss)
    if not isinstance(exact, Fraction):
        return None
    units = math.ceil(exact * UNIT)
    return units if units <= MAX else None


def held(amount: float) -> int:
    """Return a capacity in units, rounded down past the last bit of `amount`; never negative.

    A capacity below zero is held as zero: what costs nothing at an order leaks nothing at it.
    """
    slack = abs(amount) * 2.0**-48 + 1 / UNIT
    return min(max(math.floor(Fraction(amount - slack) * UNIT), 0), MAX)


@dataclass(frozen=True, slots=True)
class Charge:
    """What an event takes from an account.

    `losses` in 1e-12 units, first at the positions that decide, then at those that are only
    watched for display; `None` is saturated. `delta` in 1e-12 parts of the delta that the filter
    shares out.
    """

    losses: tuple[Loss, ...]
    delta: int = 0

    def less_than(self, other: Charge) -> bool:
        """Whether it takes less than another anywhere; saturated is more than any number."""
        return self.delta < other.delta or any(
            mine is not None and (theirs is None or mine < theirs)
            for mine, theirs in zip(self.losses, other.losses, strict=True)
        )

    def document(self) -> dict[str, Any]:
        """The charge as plain data."""
        return {"losses": list(self.losses), "delta": self.delta}

    @classmethod
    def read(cls, data: dict[str, Any]) -> Charge:
        """Read plain data, integers checked."""
        return cls(
            tuple(None if x is None else whole(x) for x in data["losses"]), whole(data["delta"])
        )


def whole(value: object) -> int:
    """Return `value`, which must be an integer from 0 to 2^53 - 1 (a float never is)."""
    if type(value) is not int or not 0 <= value <= MAX:
        raise InvalidRequest(
            f"not a whole amount: {value!r}", field="amount", value=value, allowed=f"0 to {MAX}"
        )
    return value

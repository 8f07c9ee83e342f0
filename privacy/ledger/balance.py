"""An account's balance, and the one rule by which a charge is admitted.

All of it is integer arithmetic on what the entries say; nothing here reads a clock, a database
or an accountant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from privacy.ledger.canonical import MAX
from privacy.ledger.filters.amounts import UNIT, Charge, Loss, whole


@dataclass(frozen=True, slots=True)
class Tally:
    """A sum of charges: finite losses per position, how many are saturated there, and delta."""

    losses: tuple[int, ...]
    saturated: tuple[int, ...]
    delta: int = 0

    @classmethod
    def empty(cls, positions: int) -> Tally:
        """No charge."""
        return cls((0,) * positions, (0,) * positions)

    def plus(self, charge: Charge, sign: int = 1) -> Tally:
        """Add a charge, or take it back with `sign` -1."""
        pairs = list(zip(self.losses, charge.losses, strict=True))
        return Tally(
            tuple(total if loss is None else total + sign * loss for total, loss in pairs),
            tuple(
                count + sign if loss is None else count
                for count, loss in zip(self.saturated, charge.losses, strict=True)
            ),
            self.delta + sign * charge.delta,
        )

    def merge(self, other: Tally) -> Tally:
        """The sum of two tallies."""
        return Tally(
            tuple(a + b for a, b in zip(self.losses, other.losses, strict=True)),
            tuple(a + b for a, b in zip(self.saturated, other.saturated, strict=True)),
            self.delta + other.delta,
        )

    def sums(self) -> tuple[Loss, ...]:
        """The sum at each position; `None` where a charge is saturated."""
        return tuple(
            None if count else total
            for total, count in zip(self.losses, self.saturated, strict=True)
        )

    def document(self) -> dict[str, Any]:
        """The tally as plain data."""
        return {
            "losses": list(self.losses),
            "saturated": list(self.saturated),
            "delta": self.delta,
        }

    @classmethod
    def read(cls, data: dict[str, Any]) -> Tally:
        """Read plain data, integers checked."""
        return cls(
            tuple(whole(x) for x in data["losses"]),
            tuple(whole(x) for x in data["saturated"]),
            whole(data["delta"]),
        )


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds: its limits, what was spent and what is reserved.

    `terms` is the digest of the account's opening; `epsilon` the capacity now, `largest` the
    largest ever set (the claim); `running` the charges that were started and not settled.
    """

    terms: str
    epsilon: float
    largest: float
    limits: tuple[int, ...]
    spent: Tally
    reserved: Tally
    running: int = 0
    unprotected: int = 0
    breached: str | None = None

    def total(self) -> Tally:
        """Spent and reserved together: what the filter looks at."""
        return self.spent.merge(self.reserved)

    @property
    def used_rows(self) -> bool:
        """Whether anything that counts, or that no guarantee holds, left its source."""
        total = self.total()
        spent = any(total.losses) or any(total.saturated) or total.delta > 0
        return spent or self.unprotected > 0 or self.breached is not None

    def document(self) -> dict[str, Any]:
        """The balance as plain data."""
        return {
            "terms": self.terms,
            "epsilon": self.epsilon,
            "largest": self.largest,
            "limits": list(self.limits),
            "spent": self.spent.document(),
            "reserved": self.reserved.document(),
            "running": self.running,
            "unprotected": self.unprotected,
            "breached": self.breached,
        }

    @classmethod
    def read(cls, data: dict[str, Any]) -> Balance:
        """Read plain data, integers checked."""
        return cls(
            data["terms"],
            float(data["epsilon"]),
            float(data["largest"]),
            tuple(whole(x) for x in data["limits"]),
            Tally.read(data["spent"]),
            Tally.read(data["reserved"]),
            whole(data["running"]),
            whole(data["unprotected"]),
            data["breached"],
        )

    def with_capacity(self, epsilon: float, limits: tuple[int, ...]) -> Balance:
        """The balance under another capacity; the claim is the largest ever set."""
        return replace(self, epsilon=epsilon, largest=max(self.largest, epsilon), limits=limits)


def rooms(limits: tuple[int, ...], tally: Tally) -> tuple[int | None, ...]:
    """What is left at each position that decides; `None` where a charge has used it up."""
    return tuple(
        limit - tally.losses[i] if not tally.saturated[i] else None
        for i, limit in enumerate(limits)
    )


def admit(balance: Balance, asked: Charge) -> Charge | None:
    """Return the charge to record, or `None` where the account does not admit it.

    Admitted while, at one position at least that no active charge has used up, the sum with the
    new charge stays within the limit, and so does the sum of deltas. A position at which the
    charge does not fit is saturated by it, for as long as the charge is active.
    """
    if balance.breached is not None:
        return None
    total = balance.total()
    left = rooms(balance.limits, total)
    fits = any(
        room is not None and loss is not None and loss <= room
        for room, loss in zip(left, asked.losses, strict=False)
    )
    if not fits or total.delta + asked.delta > UNIT:
        return None
    return saturate(balance.limits, total, asked)


def saturate(limits: tuple[int, ...], total: Tally, asked: Charge) -> Charge:
    """Mark as saturated what does not fit beside `total`; watched positions only at the maximum."""
    losses = []
    for i, loss in enumerate(asked.losses):
        bound = limits[i] if i < len(limits) else MAX
        fits = loss is not None and total.losses[i] + loss <= bound
        losses.append(loss if fits else None)
    return Charge(tuple(losses), asked.delta)


def unbounded(total: Tally, asked: Charge) -> Charge:
    """The true charge, beyond any limit: what an overspend is recorded as."""
    return saturate((), total, asked)


def repeats(balance: Balance, asked: Charge) -> int | None:
    """How many such charges the account still admits, one after the other.

    `None` where they cost nothing. Each position that is left admits its own number, and one
    position suffices, so the answer is the largest of them.
    """
    if balance.breached is not None:
        return 0
    total = balance.total()
    counts: list[int | None] = []
    for room, loss in zip(rooms(balance.limits, total), asked.losses, strict=False):
        if room is None or loss is None or room < 0:
            counts.append(0)
        else:
            counts.append(room // loss if loss else None)
    most = None if None in counts else max(count for count in counts if count is not None)
    if asked.delta:
        within = (UNIT - total.delta) // asked.delta
        most = within if most is None else min(most, within)
    return most


def used(limits: tuple[int, ...], tally: Tally) -> float:
    """The share of an account that is gone: the least of sum over limit; above 1 if overspent."""
    shares = [
        total / limit
        for limit, total, count in zip(limits, tally.losses, tally.saturated, strict=False)
        if limit and not count
    ]
    return max(min(shares, default=1.0), tally.delta / UNIT)


def share(limits: tuple[int, ...], charge: Charge) -> float:
    """The share of an empty account that a charge takes; infinite where it takes more than any."""
    shares = [
        (loss / limit if limit else (float("inf") if loss else 0.0))
        for limit, loss in zip(limits, charge.losses, strict=False)
        if loss is not None
    ]
    return max(min(shares, default=float("inf")), charge.delta / UNIT)

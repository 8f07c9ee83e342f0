"""What a filter is to the ledger: limits, prices, and a way back to an epsilon for display."""

from __future__ import annotations

from typing import Any, Protocol

from privacy.events import Event
from privacy.ledger.filters.amounts import Charge, Loss


class Filter(Protocol):
    """A rule that admits or refuses, whatever the order and the choice of the jobs before.

    A charge is admitted while at least one of the positions that decide still fits. The
    parameters are fixed when the account is made and stored in its opening entry.
    """

    name: str
    key: str
    """What a price depends on, beside the event and the capacity."""
    returns: bool
    """Whether a settlement may give back what was never run."""

    def parameters(self) -> dict[str, Any]:
        """What the account's opening entry stores."""
        ...

    def limits(self, epsilon: float) -> tuple[int, ...]:
        """The capacity at each position that decides, in 1e-12 units, for a claim of epsilon."""
        ...

    def positions(self) -> int:
        """The number of positions of a charge, those that are only watched included."""
        ...

    def charge(self, event: Event, epsilon: float) -> Charge:
        """Price an event, rounded up, on an account whose capacity is epsilon.

        Raises `UnsupportedEvent` where the filter has no price for this kind of event.
        """
        ...

    def confront(self, event: Event) -> None:
        """Raise `AccountantsDisagree` where the price of an event is below an independent bound."""
        ...

    def epsilon(self, sums: tuple[Loss, ...]) -> float:
        """The smallest capacity that would have admitted these sums; 0 where they are nothing."""
        ...

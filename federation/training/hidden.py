"""Aggregations that show the coordinator the mean of the silos' changes and no silo's own.

Each has two sides. The coordinator's plays a round and returns the new state; a silo's answers the
steps that follow `update` in a round. An update is made, priced and stored as in a plain job; what
leaves is what a step answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from federation.robust import State

if TYPE_CHECKING:
    from federation.jobs.base import CoordinatorContext, SiloContext

Mean = Callable[[int, State, bytes], State]
"""(round, state, the same as bytes) -> the state plus the weighted mean of all silos' changes."""


class HiddenSilo(Protocol):
    """A silo's side."""

    @property
    def steps(self) -> Collection[str]:
        """The requests that it answers."""
        ...

    def answer(self, step: str, round: int, body: bytes) -> bytes:
        """Take one step of a round whose update was made."""
        ...


def mean_of(context: CoordinatorContext) -> Mean | None:
    """The coordinator's side of a job's aggregation; None where it sees every update."""
    match context.spec.aggregation.name:
        case "masked":
            from federation.training.masked import MaskedMean

            return MaskedMean(context)
        case "ckks":
            from federation.training.encrypted import EncryptedMean

            return EncryptedMean(context)
    return None


def silo_of(context: SiloContext) -> HiddenSilo | None:
    """A silo's side of a job's aggregation; None where it shows its updates."""
    match context.spec.aggregation.name:
        case "masked":
            from federation.training.masked import MaskedSilo

            return MaskedSilo(context)
        case "ckks":
            from federation.training.encrypted import EncryptedSilo

            return EncryptedSilo(context)
    return None

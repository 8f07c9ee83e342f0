"""Who is told how far a job is: set around a flow by whoever shows a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


def _nobody(done: int, total: int) -> None:
    """Tell nobody."""


observer: ContextVar[Callable[[int, int], None]] = ContextVar("observer", default=_nobody)
"""Called with rounds done and rounds in all."""

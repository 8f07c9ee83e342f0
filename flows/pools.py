"""The names that coordinator and silos share on a Prefect server. Imports no Prefect."""

from __future__ import annotations

COORDINATOR = "coordinator"

PARTICIPATE = "participate"
"""The flow whose runs ask a silo to take part in a job."""


def pool_of(party: str) -> str:
    """The work pool of a party: of a silo, or of the coordinator, which no silo is named."""
    return f"tacit-{party}"

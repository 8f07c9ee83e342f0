"""Events `tacit.*`: what the coordinator tells Prefect's automations, out of signed receipts.

An event has the number and the hash of its receipt, and an id made from the hash: told twice,
it is one event. They are for automations and people to look at; what is true stands in the
ledgers and in the mirror.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.events import emit_event

from privacy.ledger import Receipt

BUDGET_LOW = "tacit.budget.low"
AUDIT_REFUTED = "tacit.audit.refuted"
SILO_SILENT = "tacit.silo.silent"

LOW = 0.8
"""The share of an account, by its filter, from which its budget is called low."""

_SPACE = uuid.UUID("6f0d3b6e-6f4c-5d7e-9d2b-7a1f3f6b8c11")


def tell_receipts(receipts: Iterable[Receipt]) -> None:
    """Tell of every entry that silos have sent of a job: `tacit.charge.reserve`, `.start`, ..."""
    for receipt in receipts:
        _tell(f"tacit.charge.{receipt.kind}", receipt, {})


def tell_budgets(settlement: Mapping[str, Any], balances: Mapping[str, Any]) -> None:
    """Tell of the silos where a settled job has left little of the account that it names."""
    for silo, line in settlement.items():
        used = float(balances[silo].get("after", {}).get("used", 0.0))
        if used >= LOW:
            _tell(BUDGET_LOW, Receipt.read(line["receipt"]), {"used": round(used, 3)})


def tell_silent(silo: str) -> None:
    """Tell that a silo's desk does not answer."""
    emit_event(SILO_SILENT, resource=_silo(silo))


def _tell(event: str, receipt: Receipt, payload: dict[str, Any]) -> None:
    emit_event(
        event,
        resource=_silo(receipt.silo),
        related=[
            {
                "prefect.resource.id": f"tacit.job.{receipt.job}",
                "prefect.resource.role": "job",
            }
        ],
        payload={"entry": receipt.seq, "hash": receipt.hash} | payload,
        id=uuid.uuid5(_SPACE, f"{event} {receipt.hash}"),
    )


def _silo(silo: str) -> dict[str, str]:
    return {"prefect.resource.id": f"tacit.silo.{silo}", "prefect.resource.name": silo}

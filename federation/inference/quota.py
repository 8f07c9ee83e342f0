"""How many rows of each other silo a silo's models have predicted, over all jobs.

Nobody hides a model from who may ask it: answers, and the noise of encrypted ones, tell of it. So
its owner counts, on disk and before an answer is made.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from federation.errors import PolicyRefused
from privacy.ledger.durable import write_durably


def take(models: Path, client: str, *, work: str, rows: int, limit: int) -> None:
    """Count `rows` rows of a silo, once for the same `work`; `PolicyRefused` beyond the limit."""
    models.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = models / ".queries.json"  # no model is named so
    descriptor = os.open(models / ".queries.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        counted = json.loads(path.read_bytes()) if path.exists() else {}
        own = counted.setdefault(client, {})
        if work in own:
            return
        left = limit - sum(own.values())
        if rows > left:
            raise PolicyRefused(
                f"the models of this silo predict {max(left, 0)} more rows of {client}; the job "
                f"asks for {rows}. Its owner can raise policy.queries",
                field="policy.queries",
                value=rows,
                allowed=max(left, 0),
            )
        own[work] = rows
        write_durably(path, json.dumps(counted, indent=1).encode())
    finally:
        os.close(descriptor)

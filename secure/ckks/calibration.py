"""The calibrated error: an estimate from encrypted runs, never mixed with the proved one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from secure.ckks.client import Client
from secure.ckks.compiler import Compiled
from secure.ckks.server import Server
from secure.errors import BadParameters

SAFETY = 4.0


def calibrate(compiled: Compiled, rows: npt.ArrayLike) -> Compiled:
    """Run rows [n, features] under a key of one's own; note 4 times the largest error in the plan.

    Privacy: the number depends on the rows, and the plan is public: use rows that are.
    Errors: `BadParameters` for no rows, or rows outside the box.
    """
    values = np.asarray(rows, dtype=np.float64).reshape(-1, compiled.plan.features)
    if len(values) == 0:
        raise BadParameters("rows: none to calibrate with", field="rows", value=0)
    client, server = Client(compiled.plan), Server(compiled)
    server.register(client.keys())
    step = 1 if compiled.plan.mode == "latency" else compiled.plan.slots
    largest = 0.0
    for start in range(0, len(values), step):
        part = values[start : start + step]
        opened = client.open(server.answer(client.encrypt(part)))
        largest = max(
            largest, float(np.abs(opened.values - compiled.network.approximate(part)).max())
        )
    return replace(compiled, plan=replace(compiled.plan, calibrated=SAFETY * largest))

"""The work that every peer does: ten plain SGD steps of a logistic model on one silo's rows.

Model, rows, batch size and steps are Tacit's (`benchmarks/jobs/rounds.yaml`); clipping, noise and
accounting are left out, as is the evaluation at the end. Rows come from `NAME.npz` files that
`rounds.py` writes with Tacit's own mapping of the hospitals' files. The job is told in
environment variables, because both simulators start processes of their own.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DATA = Path(os.environ["BENCH_DATA"])
JOB: dict[str, Any] = json.loads(os.environ["BENCH_JOB"])
SILOS = sorted(path.stem for path in DATA.glob("*.npz"))

torch.set_num_threads(1)  # as Tacit's silos do


class Logistic(nn.Module):
    """Two logits from a row; starts at zero. FLARE builds it by name, without arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(rows_of(SILOS[0])[0].shape[1], 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [n, 2] of rows [n, width]."""
        return self.linear(rows)


@functools.cache
def rows_of(silo: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of one silo's training rows, read once per process."""
    with np.load(DATA / f"{silo}.npz") as file:
        return torch.from_numpy(file["features"]), torch.from_numpy(file["labels"])


def train(net: nn.Module, silo: str) -> int:
    """Take one round's local steps in place; return the number of rows."""
    features, labels = rows_of(silo)
    optimizer = torch.optim.SGD(net.parameters(), lr=JOB["learning_rate"])
    size = min(JOB["batch_size"], len(labels))
    for _ in range(JOB["local_steps"]):
        chosen = torch.randperm(len(labels))[:size]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(features[chosen]), labels[chosen]).backward()
        optimizer.step()
    return len(labels)


def rounds_alone(marks: list[float]) -> float:
    """Seconds of all rounds from the moments at which rounds ended, workers already running.

    The first round waits for the peer's workers to start; it is left out and the others are
    scaled to the full number.
    """
    if len(marks) != JOB["rounds"]:
        raise RuntimeError(f"{len(marks)} rounds ended, {JOB['rounds']} were asked for")
    return (marks[-1] - marks[0]) / (len(marks) - 1) * len(marks)

"""The coordinator's side of an evaluation: gather histograms, turn them into metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from federation.evaluation import Counts, metrics_from_histogram
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.jobs.base import CoordinatorContext
    from federation.training.checkpoint import Checkpoint


def evaluate(context: CoordinatorContext, checkpoint: Checkpoint) -> dict[str, Any]:
    """Ask every silo for its histogram; metrics over all silos, and of each under `silos`."""
    answers = context.ask("evaluate", checkpoint.round, checkpoint.released_bytes())
    dataset = next(iter(context.facts.values())).dataset
    binary = dataset.n_classes == 2
    histograms, noises = {}, {}
    for silo, body in answers.items():
        histograms[silo] = _expected(body, (2, context.spec.evaluation.columns), silo)
        noises[silo] = float(context.quotes[silo].plan["evaluation_noise"])
    total = np.sum(list(histograms.values()), axis=0)
    noise = sum(value**2 for value in noises.values()) ** 0.5
    metrics = metrics_from_histogram(total, noise, binary=binary)
    own = {
        silo: metrics_from_histogram(h, noises[silo], binary=binary)
        for silo, h in histograms.items()
    }
    return metrics | {"silos": own}


def _expected(body: bytes, shape: tuple[int, int], silo: str) -> Counts:
    """Read a silo's histogram; check it against the shape that the spec gives it."""
    try:
        histogram = np.asarray(msgpack.unpackb(body))
    except (ValueError, msgpack.exceptions.UnpackException):
        histogram = np.empty(0)
    if histogram.shape != shape or histogram.dtype.kind != "i":
        raise BadMessage(f"the histogram of {silo} has another shape or type", field="evaluate")
    return histogram

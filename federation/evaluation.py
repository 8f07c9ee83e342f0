"""Evaluation from one histogram: scores in bins, by label, counted exactly or under noise.

Two classes: rows are the labels 0 and 1, columns bins of the probability of class 1, an edge at
one half. More classes: rows are wrong and right, columns bins of the probability of the true
class. One row of data is in exactly one cell, so the histogram has one sensitivity, and accuracy,
AUC, log loss and all denominators come from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Z = 1.959964
"""The 97.5 % point of the standard Gaussian."""

RESOLVABLE = 2.0
"""A total below this many standard deviations of its noise is not divided by."""


def bin_scores(probabilities: Floats, labels: Counts, bins: int) -> Counts:
    """Count rows by label and score; probabilities [n, classes], labels [n]; returns [2, bins]."""
    counts = np.zeros((2, bins), dtype=np.int64)
    if len(labels) == 0:
        return counts
    if probabilities.shape[1] == 2:
        score, line = probabilities[:, 1], labels
    else:
        score = probabilities[np.arange(len(labels)), labels]
        line = (probabilities.argmax(axis=1) == labels).astype(np.int64)
    column = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    np.add.at(counts, (line, column), 1)
    return counts


def metrics_from_histogram(counts: Counts, noise: float, *, binary: bool) -> dict[str, Any]:
    """Accuracy, log loss and, for two classes, AUC, each a float, or None where not resolvable.

    `noise` is the standard deviation of every cell. With noise there are `intervals` of 95 % for
    the stored test rows: for accuracy and log loss by Fieller's theorem, for AUC by propagating
    the noise to first order. Log loss uses the middle of each bin.
    """
    bins = counts.shape[1]
    middle = (np.arange(bins) + 0.5) / bins
    if binary:
        right = np.stack([middle < 0.5, middle >= 0.5]).astype(np.float64)
        loss = np.stack([-np.log1p(-middle), -np.log(middle)])
    else:
        right = np.stack([np.zeros(bins), np.ones(bins)])
        loss = np.stack([-np.log(middle)] * 2)
    metrics: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for name, weights, top in (("accuracy", right, 1.0), ("log_loss", loss, float(loss.max()))):
        metrics[name], interval = _ratio(counts, weights, noise, top)
        if interval is not None:
            intervals[name] = interval
    if binary:
        metrics["auc"], interval = _auc(counts, noise)
        if interval is not None:
            intervals["auc"] = interval
    if noise > 0:
        metrics["intervals"] = intervals
    return metrics


def _ratio(
    counts: Counts, weights: Floats, noise: float, top: float
) -> tuple[float | None, list[float] | None]:
    """The weighted mean over the counts, in [0, top], and its interval."""
    total = float(counts.sum())
    if total <= RESOLVABLE * noise * np.sqrt(counts.size):
        return None, None
    value = float(np.clip((weights * counts).sum() / total, 0.0, top))
    if noise == 0:
        return value, None
    # Fieller: a belongs to the interval unless sum (w - a) c is too large for its own noise.
    grid = np.linspace(0.0, top, 2001)
    gaps = ((weights[None] - grid[:, None, None]) * counts[None]).sum(axis=(1, 2))
    spreads = noise * np.sqrt(((weights[None] - grid[:, None, None]) ** 2).sum(axis=(1, 2)))
    inside = grid[np.abs(gaps) <= Z * spreads]
    step = top / 2000
    low = float(inside.min() - step) if len(inside) else value - step
    high = float(inside.max() + step) if len(inside) else value + step
    return value, [max(0.0, min(low, value)), min(top, max(high, value))]


def _auc(counts: Counts, noise: float) -> tuple[float | None, list[float] | None]:
    """P(score of a positive > score of a negative) + half of the ties, over bins."""
    negative, positive = counts.astype(np.float64)
    spread = noise * np.sqrt(counts.shape[1])
    n0, n1 = negative.sum(), positive.sum()
    if min(n0, n1) <= max(RESOLVABLE * spread, 0.0):
        return None, None
    below = np.cumsum(negative) - negative / 2
    above = positive[::-1].cumsum()[::-1] - positive / 2
    raw = float((positive * below).sum() / (n0 * n1))
    value = float(np.clip(raw, 0.0, 1.0))
    if noise == 0:
        return value, None
    slopes = np.concatenate([(above / n1 - raw) / n0, (below / n0 - raw) / n1])
    width = Z * noise * float(np.sqrt((slopes**2).sum()))
    # A noisy estimate beyond [0, 1] leaves its interval at the edge, never turned round.
    return value, [max(0.0, min(raw - width, value)), min(1.0, max(raw + width, value))]

"""Metrics from a histogram: against scikit-learn on the binned scores, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from federation.evaluation import bin_scores, metrics_from_histogram

ALARM = 1e-6


def rows_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row in the middle of its bin that each count stands for: lines and scores."""
    bins = counts.shape[1]
    middles = (np.arange(bins) + 0.5) / bins
    lines = np.repeat([0, 1], counts.sum(axis=1))
    return lines, np.concatenate([np.repeat(middles, line) for line in counts])


histograms = st.integers(1, 5).flatmap(
    lambda half: st.lists(
        st.lists(st.integers(0, 9), min_size=2 * half, max_size=2 * half), min_size=2, max_size=2
    )
)


@settings(max_examples=150, deadline=None)
@given(histograms)
def test_two_classes_agree_with_scikit_learn_on_the_binned_scores(cells: list[list[int]]) -> None:
    counts = np.array(cells)
    ours = metrics_from_histogram(counts, 0.0, binary=True)
    assert "intervals" not in ours
    labels, scores = rows_of(counts)
    if len(labels) == 0:
        assert ours == {"accuracy": None, "log_loss": None, "auc": None}
        return
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores >= 0.5))
    assert ours["log_loss"] == pytest.approx(sk.log_loss(labels, scores, labels=[0, 1]))
    if 0 < labels.sum() < len(labels):
        assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    else:
        assert ours["auc"] is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(1, 60))
def test_many_classes_agree_with_scikit_learn(seed: int, classes: int, n: int) -> None:
    numbers = np.random.default_rng(seed)
    probabilities = numbers.dirichlet(np.full(classes, 0.5), n)
    labels = numbers.integers(0, classes, n)
    bins = 1000
    ours = metrics_from_histogram(bin_scores(probabilities, labels, bins), 0.0, binary=False)
    right = sk.accuracy_score(labels, probabilities.argmax(axis=1))
    assert ours["accuracy"] == pytest.approx(right)
    assert "auc" not in ours
    own = (np.clip(np.floor(probabilities[np.arange(n), labels] * bins), 0, bins - 1) + 0.5) / bins
    assert ours["log_loss"] == pytest.approx(-np.log(own).mean())


def test_fine_bins_come_near_the_metrics_of_the_scores_themselves() -> None:
    numbers = np.random.default_rng(3)
    labels = numbers.integers(0, 2, 4000)
    score = 1 / (1 + np.exp(-(1.5 * (labels - 0.5) + numbers.normal(size=4000))))
    counts = bin_scores(np.column_stack([1 - score, score]), labels, 100)
    ours = metrics_from_histogram(counts, 0.0, binary=True)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, score >= 0.5))
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, score), abs=2e-3)
    assert ours["log_loss"] == pytest.approx(sk.log_loss(labels, score), abs=2e-3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 30), st.sampled_from([2, 4, 100]))
def test_one_row_is_in_one_cell(seed: int, classes: int, n: int, bins: int) -> None:
    """A row more moves one count by one: the sensitivity that the histogram's noise is made for."""
    numbers = np.random.default_rng(seed)
    probabilities = numbers.dirichlet(np.full(classes, 0.3), n + 1)
    probabilities[numbers.random(n + 1) < 0.2] = np.eye(classes)[0]  # certain: the last bin
    labels = numbers.integers(0, classes, n + 1)
    more = bin_scores(probabilities, labels, bins)
    less = bin_scores(probabilities[:-1], labels[:-1], bins)
    assert more.shape == (2, bins) and more.dtype == np.int64
    assert more.sum() == n + 1 and np.abs(more - less).sum() == 1


def test_a_score_that_is_no_number_still_fills_one_cell() -> None:
    with np.errstate(invalid="ignore"):
        counts = bin_scores(np.full((3, 2), np.nan), np.array([0, 1, 1]), 4)
    assert counts.sum() == 3


def noise_like(sigma: float, size: tuple[int, ...], numbers: np.random.Generator) -> np.ndarray:
    """Discrete Gaussian noise, by its closed form."""
    reach = np.arange(-int(12 * sigma), int(12 * sigma) + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    return numbers.choice(reach, size, p=weights / weights.sum())


POPULATIONS = {
    "good": [[300, 80, 20, 5], [4, 25, 90, 280]],
    "bad": [[100, 100, 100, 100], [100, 100, 100, 100]],
    "perfect": [[400, 0, 0, 0], [0, 0, 0, 400]],
    "few positives": [[700, 150, 40, 10], [5, 10, 25, 60]],
    "too few to tell": [[900, 50, 5, 2], [0, 0, 5, 40]],
}


def misses(name: str, noise: float, binary: bool, draws: int) -> dict[str, int]:
    """How often a released interval misses the truth; a number that is not told misses nothing."""
    truth_counts = np.array(POPULATIONS[name])
    truth = metrics_from_histogram(truth_counts, 0.0, binary=binary)
    numbers = np.random.default_rng(11)
    missed = dict.fromkeys(truth, 0)
    for _ in range(draws):
        counts = truth_counts + noise_like(noise, truth_counts.shape, numbers)
        released = metrics_from_histogram(counts, noise, binary=binary)
        for metric, (low, high) in released["intervals"].items():
            assert low <= released[metric] <= high
            missed[metric] += not low - 1e-9 <= truth[metric] <= high + 1e-9
    return missed


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("noise", "binary"), [(4.0, True), (15.0, True), (15.0, False)])
def test_intervals_cover_the_stored_rows_at_least_as_often_as_they_say(
    name: str, noise: float, binary: bool
) -> None:
    draws = 1000
    for metric, missed in misses(name, noise, binary, draws).items():
        # The chance of this many misses, were each one in twenty.
        assert stats.binom.sf(missed - 1, draws, 0.05) > ALARM, metric


@pytest.mark.large
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("noise", [4.0, 9.0, 15.0])
def test_intervals_cover_to_a_percent_in_many_draws(name: str, noise: float) -> None:
    draws = 8000
    for metric, missed in misses(name, noise, True, draws).items():
        assert stats.binom.sf(missed - 1, draws, 0.055) > ALARM, metric


@pytest.mark.parametrize("binary", [True, False])
def test_intervals_are_not_wider_than_the_noise_asks_for(binary: bool) -> None:
    """They miss in at least one draw of a hundred, and shrink with the noise."""
    missed = misses("good", 10.0, binary, 600)
    assert all(count >= 6 for count in missed.values()), missed
    truth_counts = np.array(POPULATIONS["good"])

    def widths(noise: float) -> list[float]:
        spans = metrics_from_histogram(truth_counts, noise, binary=binary)["intervals"]
        return [high - low for low, high in spans.values()]

    assert all(a < b for a, b in zip(widths(4.0), widths(12.0), strict=True))


def test_what_the_noise_does_not_resolve_is_not_told() -> None:
    counts = np.array([[6, 1, 0, 1], [2, 0, 3, 7]])
    told = metrics_from_histogram(counts, 20.0, binary=True)
    assert told == {"accuracy": None, "log_loss": None, "auc": None, "intervals": {}}
    lone = np.array([[500, 90, 30, 10], [1, 0, 2, 3]])  # no telling of six positives
    told = metrics_from_histogram(lone, 10.0, binary=True)
    assert told["auc"] is None and told["accuracy"] is not None
    negative = np.array([[-5, 3, -2, 0], [1, -7, 2, 0]])
    assert metrics_from_histogram(negative, 2.0, binary=True)["accuracy"] is None


@settings(max_examples=150, deadline=None)
@given(
    cells=st.lists(st.integers(-60, 300), min_size=8, max_size=8),
    noise=st.floats(0.5, 60),
    binary=st.booleans(),
)
def test_whatever_is_told_is_in_range_and_inside_its_interval(
    cells: list[int], noise: float, binary: bool
) -> None:
    told = metrics_from_histogram(np.array(cells).reshape(2, 4), noise, binary=binary)
    top = {"accuracy": 1.0, "auc": 1.0, "log_loss": -np.log(0.125)}
    for metric, limit in top.items():
        if told.get(metric) is not None:
            low, high = told["intervals"][metric]
            assert 0 <= low <= told[metric] <= high <= limit + 1e-12

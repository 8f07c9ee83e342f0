"""Which units a step draws, seen in its result: each row's gradient is a coordinate of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from privacy.events import Unit
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource

ALARM = 1e-6
SECRET = bytes(range(3, 35))
BOUND = 1 - 1e-5


def plan(**changes: Any) -> DpSgdPlan:
    base = {
        "unit": Unit.RECORD,
        "rate": 0.1,
        "noise_multiplier": 1e-12,
        "clip": 1.0,
        "denominator": 1.0,
        "steps": 1,
    }
    return DpSgdPlan(**base | changes)


def linear_loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
    return outputs.sum() if reduction == "sum" else outputs.sum(dim=1)


def mechanism(width: int, terms: DpSgdPlan) -> DpSgd:
    return DpSgd(nn.Linear(width, 1, bias=False), linear_loss, terms, learning_rate=1.0)


def sums(
    terms: DpSgdPlan, features: np.ndarray, subjects: np.ndarray | None, steps: int
) -> np.ndarray:
    """What each step added up, [steps, width]; gradients are the rows themselves."""
    made = mechanism(features.shape[1], terms)
    labels = np.zeros(len(features), np.int64)
    seen = []
    for step in range(steps):
        made.load({"weight": torch.zeros(1, features.shape[1])})
        made.step(features, labels, subjects, StepSource(SECRET, "train", "job", 0, step))
        seen.append(-made.state()["weight"].double().numpy()[0])
    return np.array(seen)


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.9])
def test_each_row_joins_independently_with_the_planned_rate(rate: float) -> None:
    n, steps = 60, 400
    drawn = sums(plan(rate=rate), 2 * np.eye(n, dtype=np.float32), None, steps)
    assert np.isclose(drawn, 0, atol=1e-6).sum() + np.isclose(drawn, BOUND, atol=1e-6).sum() == (
        drawn.size
    )
    joined = drawn > 0.5
    assert stats.binomtest(int(joined.sum()), n * steps, rate).pvalue > ALARM
    for row in joined.T:  # every row at the same rate
        assert stats.binomtest(int(row.sum()), steps, rate).pvalue > ALARM / n
    # The size of a batch spreads as that of independent coins, no less (as fixed batches) or more.
    sizes = joined.sum(axis=1)
    spread = ((sizes - n * rate) ** 2).sum() / (n * rate * (1 - rate))
    z = (spread - steps) / (2 * steps) ** 0.5
    assert abs(z) < 6
    both_rows = int((joined[:, :-1] & joined[:, 1:]).sum())
    assert stats.binomtest(both_rows, (n - 1) * steps, rate**2).pvalue > ALARM
    both_steps = int((joined[:-1] & joined[1:]).sum())
    assert stats.binomtest(both_steps, n * (steps - 1), rate**2).pvalue > ALARM


def test_a_rate_of_one_takes_every_row() -> None:
    assert np.allclose(sums(plan(rate=1.0), np.eye(7, dtype=np.float32), None, 3), BOUND)


def by_subject(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in mixed order; each is the unit vector of its subject."""
    subjects = np.repeat(np.arange(len(sizes)), sizes)
    subjects = subjects[np.random.default_rng(0).permutation(len(subjects))]
    return np.eye(len(sizes), dtype=np.float32)[subjects], subjects.astype(np.int64)


def test_subjects_are_sampled_not_rows_and_each_counts_once_whatever_its_rows() -> None:
    rate, steps = 0.3, 300
    features, subjects = by_subject([1, 2, 3, 5, 40, 1, 1, 9, 2, 2])
    terms = plan(unit=Unit.SUBJECT, rate=rate, rows_per_subject=100)
    drawn = sums(terms, features, subjects, steps)
    whole = np.isclose(drawn, BOUND, atol=1e-6)
    assert (whole | np.isclose(drawn, 0, atol=1e-6)).all()  # all of a subject's rows or none
    for subject in whole.T:  # forty rows make nobody likelier
        assert stats.binomtest(int(subject.sum()), steps, rate).pvalue > ALARM / 10
    both = int((whole[:, :-1] & whole[:, 1:]).sum())
    assert stats.binomtest(both, 9 * steps, rate**2).pvalue > ALARM


def test_at_record_level_rows_of_one_subject_are_rows_like_any_other() -> None:
    features, subjects = np.eye(40, dtype=np.float32), np.zeros(40, np.int64)
    drawn = sums(plan(rate=0.3), features, subjects, 100) > 0.5
    assert stats.binomtest(int(drawn.sum()), 4000, 0.3).pvalue > ALARM
    assert 0 < drawn[0].sum() < 40


def test_a_subject_counts_with_the_clipped_mean_of_its_rows() -> None:
    features = np.array([[3, 0], [0, 0.5], [0, 0.25], [9, 10]], dtype=np.float32)
    subjects = np.array([5, 5, 2, 5])
    terms = plan(unit=Unit.SUBJECT, rate=1.0, rows_per_subject=10)
    mean = np.array([4.0, 3.5])
    expected = BOUND * mean / np.linalg.norm(mean) + [0, 0.25]
    np.testing.assert_allclose(sums(terms, features, subjects, 1)[0], expected, rtol=1e-6)


def test_rows_beyond_the_cap_are_cut_by_a_rule_that_looks_at_that_subject_alone() -> None:
    """Whatever the other subjects' rows are and wherever they stand, the same rows are used."""
    mine = np.eye(12, dtype=np.float32)[:8]
    terms = plan(unit=Unit.SUBJECT, rate=1.0, rows_per_subject=3)
    alone = sums(terms, mine, np.full(8, 4), 1)[0]
    assert np.isclose(alone, 1 / 3).sum() == 3 and np.isclose(alone, 0).sum() == 9
    numbers = np.random.default_rng(2)
    for _ in range(20):
        others = int(numbers.integers(0, 9))
        rows = np.zeros((8 + others, 12), np.float32)
        subjects = np.zeros(8 + others, np.int64)
        places = np.sort(numbers.permutation(8 + others)[:8])  # mine keep their own order
        rest = np.setdiff1d(np.arange(8 + others), places)
        rows[places], subjects[places] = mine, 4
        rows[rest, 8 + numbers.integers(0, 4, others)] = 1.0
        subjects[rest] = numbers.choice([0, 1, 9], others)
        np.testing.assert_allclose(sums(terms, rows, subjects, 1)[0][:8], alone[:8], atol=1e-7)


def test_groups_are_made_again_for_other_rows() -> None:
    """Arrays that come and go may share an address; each gets its own groups."""
    terms = plan(unit=Unit.SUBJECT, rate=1.0, rows_per_subject=9)
    made = mechanism(3, terms)
    for n in range(1, 30):
        subjects = np.arange(n) % 3
        rows = np.eye(3, dtype=np.float32)[subjects]
        made.load({"weight": torch.zeros(1, 3)})
        made.step(rows, np.zeros(n, np.int64), subjects, StepSource(SECRET, n))
        assert np.isclose(-made.state()["weight"].numpy(), BOUND).sum() == min(n, 3)
        del subjects


def test_a_plan_per_subject_refuses_rows_of_nobody() -> None:
    made = mechanism(2, plan(unit=Unit.SUBJECT))
    with pytest.raises(ValueError, match="whose the rows are"):
        made.step(np.eye(2, dtype=np.float32), np.zeros(2, np.int64), None, StepSource(SECRET))


def summed(features: np.ndarray, subjects: np.ndarray, cap: int, clip: float) -> np.ndarray:
    terms = plan(unit=Unit.SUBJECT, rate=1.0, rows_per_subject=cap, clip=clip, denominator=1.0)
    made = mechanism(features.shape[1], terms)
    rows, owners = made._sample(len(features), subjects, StepSource(SECRET, "s"))
    return made.clipped_sum(
        torch.from_numpy(features[rows]), torch.zeros(len(rows)), torch.from_numpy(owners)
    ).total.numpy()


@settings(max_examples=80, deadline=None)
@given(data=st.data(), cap=st.integers(1, 4), clip=st.floats(1e-3, 1e3))
def test_one_subject_moves_the_sum_by_at_most_the_clip_and_one_of_its_rows_by_an_exchange(
    data: st.DataObject, cap: int, clip: float
) -> None:
    n = data.draw(st.integers(2, 12))
    numbers = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    subjects = numbers.integers(0, 4, n)
    features = numbers.normal(size=(n, 3)).astype(np.float32)
    features *= np.float32(10.0) ** numbers.integers(-4, 5, (n, 1))
    whole = summed(features, subjects, cap, clip)

    others = subjects != subjects[0]
    assert np.linalg.norm(whole - summed(features[others], subjects[others], cap, clip)) <= clip

    stays = np.arange(n) != data.draw(st.integers(0, n - 1))
    moved = np.linalg.norm(whole - summed(features[stays], subjects[stays], cap, clip))
    assert moved <= 2 * clip

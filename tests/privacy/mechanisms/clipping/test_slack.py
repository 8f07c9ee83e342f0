"""The clip's slack covers the number format: hostile gradients, near the clip and far above it.

What a unit adds is held to the clip in exact arithmetic, not to a tolerance.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy.mechanisms.clipping import parts as parts_module
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import Clipper
from privacy.mechanisms.clipping.parts import (
    BLOCK,
    CANCELLING,
    Gram,
    Place,
    RankOne,
    Samples,
    Words,
)
from privacy.mechanisms.plan import ETA

CLIP = 1.0
BOUND = CLIP * (1 - ETA)


def exact_norm_is_at_most(values: Tensor, bound: float) -> bool:
    """In rational arithmetic, of the floats as they are."""
    squares = sum(Fraction(v) ** 2 for v in values.double().reshape(-1).tolist() if v)
    return squares <= Fraction(bound) ** 2


def place(size: int) -> Place:
    return Place(0, 0, 0, size)


def clipped(part: Samples | RankOne | Gram | Words) -> Tensor:
    """What one unit's gradient adds after the clip, as the engine does it."""
    squares = part.squares()
    total = torch.zeros(part.place.size, dtype=torch.float64)
    part.add(Clip((BOUND,)).factors([squares.sqrt()])[0], total)
    return total


def near(values: Tensor, numbers: np.random.Generator) -> Tensor:
    """Scale to a norm that is the bound to within a few units of the last place of float32."""
    scale = BOUND / float(values.double().norm()) * (1 + numbers.uniform(-4, 4) * 2**-24)
    return (values.double() * scale).to(values.dtype)


@pytest.mark.parametrize("size", [1, 3, BLOCK, BLOCK + 1, 5000])
def test_written_out_gradients_near_the_clip(size: int) -> None:
    numbers = np.random.default_rng(size)
    for _ in range(30):
        values = torch.from_numpy(numbers.normal(size=(1, size)).astype(np.float32))
        if numbers.random() < 0.5:
            values = torch.full_like(values, float(values[0, 0]))  # roundings that all agree
        assert exact_norm_is_at_most(clipped(Samples(place(size), near(values, numbers))), CLIP)


def test_norms_in_float32_are_off_by_no_more_than_is_said_and_by_more_than_nothing() -> None:
    """Equal entries whose squares are all rounded down are the worst found."""
    worst = 0.0
    for value in np.linspace(0.5, 1.0, 400):
        values = torch.full((1, 4096), np.float32(value))
        norm = float(Samples(place(4096), values).squares().sqrt())
        worst = max(worst, abs(norm / (64 * float(np.float32(value))) - 1))
    assert 1e-9 < worst <= (BLOCK + 1) * 2**-25


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1.0, 1e15, 1e30, 3e38])
def test_gradients_of_any_size(size: float) -> None:
    rows = torch.full((1, 256), size)
    assert exact_norm_is_at_most(clipped(RankOne(place(256), None, rows, torch.ones(1, 1))), CLIP)
    assert exact_norm_is_at_most(
        clipped(Gram(place(256), rows[:, None, None], torch.ones(1, 1, 1, 1))), CLIP
    )
    words = torch.zeros(1, 1, dtype=torch.int64)
    assert exact_norm_is_at_most(clipped(Words(place(256), words, rows[None], 256)), CLIP)
    if size <= 1e15:  # above 1e19 squares overflow, and the engine drops the unit
        assert exact_norm_is_at_most(clipped(Samples(place(256), rows)), CLIP)


def cancelling(numbers: np.random.Generator, positions: int, digits: float) -> Gram:
    """Terms whose sum is smaller than they are by so many digits."""
    inputs = numbers.normal(size=(1, 1, positions, 6))
    grads = numbers.normal(size=(1, 1, 1, 5)) * np.ones((1, 1, positions, 1))
    inputs -= inputs.mean(2, keepdims=True)  # with equal gradients, the terms add up to nothing
    inputs[0, 0, 0] += 10.0**-digits
    scale = 10 ** numbers.uniform(0, 14)
    return Gram(
        place(30),
        torch.from_numpy((inputs * scale).astype(np.float32)),
        torch.from_numpy(grads.astype(np.float32)),
    )


def overshoot(numbers: np.random.Generator) -> float:
    """By how much what is added exceeds the clip, over units whose terms cancel."""
    worst = 0.0
    for _ in range(150):
        part = cancelling(numbers, int(numbers.integers(2, 24)), float(numbers.uniform(0, 12)))
        exact = (part.grads.double().mT @ part.inputs.double()).flatten()
        factor = Clip((BOUND,)).factors([part.squares().clamp_min(0).sqrt()])[0]
        added, whole = clipped(part).nan_to_num(), float(exact.norm() * factor)
        worst = max(worst, float(added.norm()), whole if np.isfinite(whole) else 0.0)
    return worst


def test_terms_that_cancel_never_pass_the_clip() -> None:
    assert overshoot(np.random.default_rng(5)) <= CLIP


def test_without_the_bound_on_cancelling_terms_some_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "CANCELLING", 1e30)
    assert overshoot(np.random.default_rng(5)) > CLIP


def test_a_unit_whose_terms_hardly_cancel_is_not_scaled_down_for_it() -> None:
    numbers = np.random.default_rng(1)
    for positions in (1, 4, 30):
        inputs = torch.from_numpy(numbers.normal(size=(50, 1, positions, 6)))
        grads = torch.from_numpy(numbers.normal(size=(50, 1, positions, 5)))
        norms = (grads.mT @ inputs).flatten(1).norm(dim=1)
        assert (
            float((Gram(place(30), inputs, grads).squares().sqrt() / norms - 1).abs().max()) < 1e-12
        )
    assert CANCELLING > 10 * 30**0.5


def per_position(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Weighs outputs [rows, positions, out] so that every position's gradient is +-1."""
    signs = 1.0 - 2.0 * (torch.arange(outputs.shape[1]) % 2)
    return (outputs * signs[:, None]).flatten(1).sum(1)


@pytest.mark.parametrize("positions", [1, 2, 8, 64])
@pytest.mark.parametrize("exponent", [-2, 0, 3, 12])
def test_one_row_among_many_moves_the_sum_by_at_most_the_clip(
    positions: int, exponent: int
) -> None:
    """Rows whose positions nearly cancel, beside others of every size."""
    torch.manual_seed(positions + 7 * exponent)
    model = nn.Linear(16, 24)
    clipper = Clipper(model, per_position, Clip((BOUND,)))
    rows = torch.randn(40, 1, 16).expand(-1, positions, -1) * 10.0 ** torch.randint(
        -6, 9, (40, 1, 1)
    )
    rows = rows + 1e-6 * rows.abs().max() * torch.randn(40, positions, 16) / 10.0**12
    hostile = 10.0**exponent * (torch.ones(1, positions, 16) + 1e-6 * torch.randn(1, positions, 16))
    labels = torch.zeros(41, dtype=torch.int64)
    without = clipper(rows, labels[:40]).total
    for at in (0, 17, 40):
        among = torch.cat([rows[:at], hostile, rows[at:]])
        assert exact_norm_is_at_most(clipper(among, labels).total - without, CLIP)

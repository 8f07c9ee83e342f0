"""The frozen plan of DP-SGD: sample, clip, noise, denominator and event cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from privacy.errors import InvalidEvent
from privacy.events import Event, Gaussian, Poisson, Repeat, Unit

ETA = 1e-5
"""Relative slack of the clip for the number format.

Gradients are clipped to C (1 - ETA) so that what one unit does to the sum as computed stays
within C. Rows are float32; norms, scaling and sums are float64, with unit roundoff u = 2^-53. The
errors of norms and sums, for up to 1e9 parameters and B = 2e5 rows in a batch, are bounded in
`clipping.parts` and together below 1e-5 of C; a plan beyond that is refused. What this does not
prove is that a row's float32 gradient is the same to the last bit whatever is computed beside it:
`clipping.engine` and `clipping.linear` arrange it, and `clipping.selftest` looks.
"""

LARGEST_BATCH = 100_000
"""Largest expected batch, in rows; half of what ETA covers."""

SMALLEST_CLIP = 1e-8
"""Smallest clip, beside which float32 squares that underflow (2^-60 sqrt(parameters)) are small."""


class Clipping(StrEnum):
    """How a unit's gradient is brought below the clip; see `clipping.clip.Clip`."""

    FLAT = "flat"
    AUTOMATIC = "automatic"
    PER_LAYER = "per_layer"


@dataclass(frozen=True, kw_only=True)
class DpSgdPlan:
    """One silo's plan for all steps of a job.

    `rate`: probability with which each unit joins a batch. `noise_multiplier`: standard deviation
    of the noise over the clip. `clip`: L2 bound of one unit's part of a sum. `denominator`: the
    expected batch by declared sizes, by which every sum is divided. `rows_per_subject`: most rows
    of one subject that are used. `clipping`: how gradients are brought below the clip; the price
    is the same, because per layer L bounds of clip / sqrt(L) have sqrt(sum C_l^2) = clip.
    """

    unit: Unit
    rate: float
    noise_multiplier: float
    clip: float
    denominator: float
    steps: int
    rows_per_subject: int = 1
    clipping: Clipping = Clipping.FLAT

    def __post_init__(self) -> None:
        if self.unit is Unit.SILO:
            raise InvalidEvent(
                "unit: rows are clipped per record or subject; nothing bounds a whole silo",
                field="unit",
                value=self.unit.value,
                allowed=[Unit.RECORD.value, Unit.SUBJECT.value],
            )
        batch = self.denominator * (self.rows_per_subject if self.unit is Unit.SUBJECT else 1)
        rules = (
            ("rate", self.rate, 0 < self.rate <= 1, "(0, 1]"),
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier >= 0, ">= 0"),
            ("clip", self.clip, self.clip >= SMALLEST_CLIP, f">= {SMALLEST_CLIP:g}"),
            ("denominator", self.denominator, self.denominator > 0, "> 0"),
            ("steps", self.steps, self.steps >= 1, ">= 1"),
            ("rows_per_subject", self.rows_per_subject, self.rows_per_subject >= 1, ">= 1"),
            (
                "denominator",
                batch,
                batch <= LARGEST_BATCH,
                f"<= {LARGEST_BATCH} rows in an expected batch",
            ),
        )
        for field, value, holds, allowed in rules:
            if not (math.isfinite(value) and holds):
                raise InvalidEvent(
                    f"{field}: {value:g} is not {allowed}",
                    field=field,
                    value=value,
                    allowed=allowed,
                )

    @property
    def bound(self) -> float:
        """What gradients are clipped to, in float64: the clip less its slack."""
        return self.clip * (1 - ETA)

    @property
    def event(self) -> Event:
        """The event of all steps."""
        step: Event = Gaussian(sigma=self.noise_multiplier)
        if self.rate < 1:
            step = Poisson(rate=self.rate, of=step)
        return Repeat(times=self.steps, of=step)

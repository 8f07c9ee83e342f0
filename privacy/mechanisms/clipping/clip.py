"""How units' gradients are bounded: flat, automatic, or per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

STABILITY = 0.01
"""What automatic clipping adds to a norm before it divides by it (Bu et al. 2023)."""


@dataclass(frozen=True)
class Clip:
    """L2 bounds of one unit's gradient: one of the whole, or one for every layer.

    Flat: g min(1, C / |g|) (Abadi et al. 2016). `automatic`: g C / (|g| + 0.01), which every unit
    is scaled by (Bu et al. 2023, Automatic Clipping). With several bounds each layer, that is each
    module with parameters of its own, is bounded by its own (McMahan et al. 2018).
    """

    bounds: tuple[float, ...]
    automatic: bool = False

    def __post_init__(self) -> None:
        if not self.bounds or not all(0 < bound < math.inf for bound in self.bounds):
            raise ValueError(f"a clip's bounds are positive numbers, not {self.bounds}")

    @classmethod
    def per_layer(cls, bound: float, layers: int, *, automatic: bool = False) -> Clip:
        """Share a bound of the whole equally among layers."""
        return cls((bound / math.sqrt(layers),) * layers, automatic)

    @property
    def sensitivity(self) -> float:
        """The most by which one unit moves a sum: sqrt(sum_l C_l^2)."""
        return math.hypot(*self.bounds)

    def factors(self, norms: Sequence[Tensor]) -> list[Tensor]:
        """Return what units are scaled by, from their norms [units], one of each per bound."""
        return [
            bound / (norm + STABILITY if self.automatic else norm.clamp_min(bound))
            for bound, norm in zip(self.bounds, norms, strict=True)
        ]

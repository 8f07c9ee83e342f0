"""A model's change as one vector, a silo's share of the mean, and back: what hidden sums add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from federation.models import build_model
from federation.robust import State
from secure.aggregation.quantize import normalised

if TYPE_CHECKING:
    from federation.schema import Dataset
    from federation.settings import Sizes
    from federation.training.specs import Spec

DEFAULT_RANGE = 8.0
"""Where a spec names no range: no parameter of a sane model changes by more in one round."""


def range_of(spec: Spec) -> float:
    """What a parameter's change in one round is clipped to."""
    return spec.aggregation.range or DEFAULT_RANGE


def share(spec: Spec, silo: str, sizes: Mapping[str, Sizes]) -> float:
    """A silo's public part of the mean: by declared sizes, or the same for all."""
    by_size = spec.strategy.weighting == "size"
    units = {s: float(of.units(spec.privacy.unit)) if by_size else 1.0 for s, of in sizes.items()}
    return normalised(units)[silo]


def model_length(spec: Spec, dataset: Dataset) -> int:
    """How many numbers a change of the model has, from public facts."""
    model = build_model(
        spec.model.model_dump(), dataset.input_shape, dataset.n_classes, seed=spec.seed
    )
    return length(model.state_dict())


def length(state: Mapping[str, torch.Tensor]) -> int:
    """How many numbers a change has."""
    return sum(value.numel() for value in state.values() if value.is_floating_point())


def flat(change: Mapping[str, torch.Tensor]) -> npt.NDArray[np.float64]:
    """A change as one vector, [length], by the names of its tensors."""
    parts = [change[name].double().numpy().ravel() for name in sorted(change)]
    return np.concatenate(parts)


def changed(state: State, change: npt.NDArray[np.float64]) -> State:
    """Return the state with a change added; what is no floating point stays as it is."""
    made, at = {}, 0
    for name in sorted(state):
        value = state[name]
        if value.is_floating_point():
            part = change[at : at + value.numel()].reshape(tuple(value.shape))
            made[name] = (value.double() + torch.from_numpy(part)).to(value.dtype)
            at += value.numel()
        else:
            made[name] = value.clone()
    return made

"""Noise in the sum alone: a silo's part is integers with a share of it, and the sum a gradient.

Every round each silo draws one sample, adds up its clipped gradients, rounds the sum to integers
and adds its share of Skellam noise (`privacy.mechanisms.skellam`). What is masked, summed and
opened is those integers; the sum over all expected batches is the gradient of one step, and the
model moves against it as one silo's would. All that the noise rests on is in the spec: its
multiplier, the least number of silos in a sum, and how many of them may tell what they added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from federation.models import build_model
from federation.robust import State
from privacy.mechanisms.skellam import SkellamPlan, to_reals

if TYPE_CHECKING:
    from federation.schema import Dataset
    from federation.settings import Sizes
    from federation.training.specs import Spec


def dimension_of(spec: Spec, dataset: Dataset) -> int:
    """How many trained parameters the model has, from public facts."""
    return sum(p.numel() for p in _trained(_model(spec, dataset)))


def skellam_plan(spec: Spec, dimension: int) -> SkellamPlan:
    """The plan of every silo's part of a sum; from the spec, so that all have the same."""
    sigma = spec.privacy.noise_multiplier
    if sigma is None or spec.quorum is None:
        raise ValueError("noise in shares has a multiplier and a least number of silos")
    return SkellamPlan.of(
        noise_multiplier=sigma,
        clip=spec.privacy.clip,
        dimension=dimension,
        silos=spec.quorum,
        colluding=spec.aggregation.colluders,
    )


class Shares:
    """How integers with their noise are summed, and what a sum makes of the model.

    64 bits a value: a silo's part is never cut after its noise, and the sum of all fits.
    """

    bits = 64

    def __init__(self, spec: Spec, dataset: Dataset, sizes: Mapping[str, Sizes]) -> None:
        self._spec = spec
        self._sizes = sizes
        self._model = _model(spec, dataset)
        self._trained = _trained(self._model)
        self.length = sum(parameter.numel() for parameter in self._trained)
        self.bound = ((1 << (self.bits - 1)) - 1) // len(sizes)

    def integers(self, update: bytes, silo: str) -> npt.NDArray[np.int64]:
        """A silo's part, as its update holds it."""
        return np.frombuffer(update, dtype="<i8").astype(np.int64)

    def model(
        self, state: State, total: npt.NDArray[np.int64], survivors: Collection[str]
    ) -> State:
        """The state after one step against the gradient of those whose parts are in the sum."""
        plan = skellam_plan(self._spec, self.length)
        batch = sum(self._spec.expected_batch(self._sizes[silo]) for silo in survivors)
        step = to_reals(total, plan) * (self._spec.strategy.learning_rate / batch)
        self._model.load_state_dict(state)
        with torch.no_grad():
            moved = parameters_to_vector(self._trained).double() - torch.from_numpy(step)
            vector_to_parameters(moved.to(self._trained[0].dtype), self._trained)
        return {name: value.detach().clone() for name, value in self._model.state_dict().items()}


def _model(spec: Spec, dataset: Dataset) -> torch.nn.Module:
    return build_model(
        spec.model.model_dump(), dataset.input_shape, dataset.n_classes, seed=spec.seed
    )


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Parameters in the order in which `DpSgd` lays them out."""
    return [p for p in model.parameters() if p.requires_grad]

"""Opacus' hooks, for models in which a parameter is used in a way that is not known here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping.parts import Part, Place
from privacy.mechanisms.clipping.recorder import Recorder

GRAD_SAMPLE = "grad_sample"
"""The attribute in which Opacus leaves the gradient of every row."""


class Hooked:
    """A model whose per-sample gradients are Opacus', written out."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        places: Mapping[int, Place],
        why: str,
    ) -> None:
        """Raises `UnsafeModel` where Opacus does not know the model either."""
        # Rows need no gradient of their own; hooks on modules fire all the same.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self._parameters, self._places, self._why = parameters, places, why
        problems = [
            (name, str(problem))
            for name, module in model.named_modules()
            for problem in ModuleValidator.VALIDATORS.get(type(module), lambda _: [])(module)
        ]
        if problems:
            name, problem = problems[0]
            raise self._refusal(f"module {name or 'model'}: {problem}", name or "model")
        try:
            self._model = GradSampleModule(model, loss_reduction="sum")
            self._model.disable_hooks()
        except (NotImplementedError, ValueError) as error:
            raise self._refusal(str(error), "model") from error

    def parts(
        self, features: Tensor, labels: Tensor, loss: Callable[..., Tensor], recorder: Recorder
    ) -> list[Part]:
        """Return the gradients of all parameters."""
        self._model.enable_hooks()
        try:
            torch.autograd.backward(loss(self._model(features), labels, reduction="none").sum())
        except RuntimeError as error:
            raise self._refusal(str(error), "model") from error
        finally:
            self._model.disable_hooks()
        parts: list[Part] = []
        for name, parameter in self._parameters.items():
            values = getattr(parameter, GRAD_SAMPLE)
            if not isinstance(values, Tensor):
                raise self._refusal(f"parameter {name} has no per-sample gradient", name)
            values = recorder.rows(values).flatten(1)
            parts.append(recorder.written_out(self._places[id(parameter)], values))
        for parameter in self._parameters.values():
            setattr(parameter, GRAD_SAMPLE, None)
            parameter.grad = None
        return parts

    def _refusal(self, problem: str, field: str) -> UnsafeModel:
        return UnsafeModel(
            f"the model has no per-sample gradients: {self._why}, and Opacus says: {problem}",
            field=field,
        )

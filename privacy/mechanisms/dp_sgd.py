"""DP-SGD: Poisson-sampled, clipped, noised gradient steps (Abadi et al. 2016).

    mechanism = DpSgd(model, cross_entropy, plan, learning_rate=0.1)
    mechanism.step(features, labels, None, StepSource(secret, "train", job, round, step))

A step draws every unit independently with the plan's rate, adds up clipped gradients, adds
N(0, (noise_multiplier * clip)^2) to every coordinate, and divides by the plan's denominator. An
empty batch is noised like any other. Everything after the noise (learning rate, proximal term) is
post-processing. Sums of clipped gradients are those of `clipping.engine`; sample, clip, noise,
denominator and the event that prices them come from one plan.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from privacy.errors import UnsafeModel
from privacy.events import Unit
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import ROWS_AT_ONCE, Clipped, Clipper, Loss, layers
from privacy.mechanisms.clipping.selftest import self_test, synthetic
from privacy.mechanisms.plan import Clipping, DpSgdPlan
from privacy.mechanisms.randomness import StepSource


def check_model(model: nn.Module) -> None:
    """Refuse a model in which rows of a batch meet, naming the module (`UnsafeModel`)."""
    for name, module in model.named_modules():
        tracks = getattr(module, "track_running_stats", False)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or tracks:
            kind = type(module).__name__
            raise UnsafeModel(
                f"module {name or 'model'} is a {kind}, which mixes the rows of a batch, so no "
                "clip bounds what one row can do; use GroupNorm or no normalisation",
                field=name or "model",
                value=kind,
                allowed=["GroupNorm", "LayerNorm"],
            )
        if isinstance(module, nn.RNNBase) and any(p.requires_grad for p in module.parameters()):
            kind = type(module).__name__
            raise UnsafeModel(
                f"module {name or 'model'} is a {kind}, which has no per-sample gradients; use "
                f"attention or convolutions, or opacus.layers.DP{kind}",
                field=name or "model",
                value=kind,
            )


def check_rows_apart(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuse a model whose output for one row depends on another, or that remembers rows.

    A copy of the model with random weights is run on random rows: no output may have a gradient
    with respect to another row, and no buffer may change (`UnsafeModel`). It finds honest
    mistakes; a package that hides what it does is a matter of the owner's policy.
    """
    probe = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.normal_(generator=generator).mul_(0.3)
    for training in (True, False):
        probe.train(training)
        kept = {name: buffer.clone() for name, buffer in probe.named_buffers()}
        rows = (2 * torch.rand(4, *input_shape, generator=generator) - 1).requires_grad_()
        seen = torch.autograd.grad(probe(rows)[1].sum(), rows, allow_unused=True)[0]
        if seen is not None and any(bool(seen[other].any()) for other in (0, 2, 3)):
            raise UnsafeModel(
                "the model's output for one row depends on the other rows of its batch, so no clip "
                "bounds what one row can do",
                field="model",
                allowed="an output for each row from that row alone",
            )
        for name, buffer in probe.named_buffers():
            if not torch.equal(buffer, kept[name]):
                raise UnsafeModel(
                    f"buffer {name} of the model changes with the rows it sees, and would leave "
                    "without noise",
                    field=name,
                    allowed="parameters, and buffers that stay as they are",
                )


class Sgd:
    """Plain SGD on the same Poisson batches, without clip or noise: no guarantee at all."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        plan: DpSgdPlan,
        *,
        learning_rate: float,
        proximal: float = 0.0,
    ) -> None:
        self._model = model
        self._loss = loss
        self._plan = plan
        self._learning_rate = learning_rate
        self._proximal = proximal
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._sizes = [p.numel() for p in self._parameters]
        # One vector behind all parameters: a step is one addition.
        self._flat = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        views = torch.split(self._flat, self._sizes)
        for parameter, view in zip(self._parameters, views, strict=True):
            parameter.data = view.view_as(parameter)
        self._anchor = self._flat.clone()
        self._rows_of: tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]] | None = None

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a model's state; the proximal term pulls towards it."""
        self._model.load_state_dict(state)
        self._anchor = self._flat.clone()

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the model's state."""
        return {name: value.detach().clone() for name, value in self._model.state_dict().items()}

    def probabilities(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the class probabilities of rows, [n, classes].

        Every row goes through the model alone, from memory of its own: beside others its rounding
        would depend on its place among them, and a crafted model makes a last bit decide a class.
        """
        self._model.eval()
        with torch.no_grad():
            rows = (torch.from_numpy(row[None]).clone() for row in features)
            parts = [torch.softmax(self._model(row).double(), dim=1) for row in rows]
        self._model.train()
        joined: npt.NDArray[np.float64] = torch.cat(parts).numpy() if parts else np.empty((0, 0))
        return joined

    def step(
        self,
        features: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        subjects: npt.NDArray[np.int64] | None,
        source: StepSource,
    ) -> None:
        """Take one step on a sample of the rows [n, ...] drawn from the source."""
        total = self.total(features, labels, subjects, source)
        self._finish(total, source)
        gradient = total.to(self._flat.dtype).div_(self._plan.denominator)
        if self._proximal:
            gradient += self._proximal * (self._flat - self._anchor)
        self._flat.sub_(gradient, alpha=self._learning_rate)

    def total(
        self,
        features: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        subjects: npt.NDArray[np.int64] | None,
        source: StepSource,
    ) -> Tensor:
        """Return the sum of one sample's gradients before any noise, float64 [parameters].

        Privacy: only for who adds noise to it before it leaves, as `step` does.
        """
        rows, owners = self._sample(len(labels), subjects, source)
        total = torch.zeros(len(self._flat), dtype=torch.float64, device=self._flat.device)
        for part in self._pieces(features, labels, owners):
            self._add(
                self._here(features[rows[part]]),
                self._here(labels[rows[part]]),
                self._here(owners[part] - owners[part.start]),
                total,
            )
        return total

    def _sample(
        self, n: int, subjects: npt.NDArray[np.int64] | None, source: StepSource
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Draw units; return their rows, and for each the number of its unit, from 0."""
        if self._plan.unit is not Unit.SUBJECT or subjects is None:
            rows = np.flatnonzero(source.bernoulli(n, self._plan.rate))
            return rows, np.arange(len(rows))
        groups = self._groups(subjects)
        chosen = [groups[i] for i in np.flatnonzero(source.bernoulli(len(groups), self._plan.rate))]
        if not chosen:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(chosen), np.repeat(np.arange(len(chosen)), [len(g) for g in chosen])

    def _groups(self, subjects: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Rows by subject, at most the plan's number of each."""
        if self._rows_of is None or self._rows_of[0] is not subjects:
            order = np.argsort(subjects, kind="stable")
            cuts = np.flatnonzero(np.diff(subjects[order])) + 1
            most = self._plan.rows_per_subject
            groups = [group[:most] for group in np.split(order, cuts)] if len(subjects) else []
            self._rows_of = (subjects, groups)
        return self._rows_of[1]

    def _pieces(
        self,
        features: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        owners: npt.NDArray[np.int64],
    ) -> Iterator[slice]:
        """Cut a batch into pieces of whole units; nothing is left out."""
        most = self._rows_at_once(features, labels)
        whole = self._plan.rows_per_subject if self._plan.unit is Unit.SUBJECT else 1
        units = max(1, most // whole)
        starts = np.flatnonzero(np.diff(owners, prepend=-1))[::units]
        for start, stop in itertools.pairwise([*starts.tolist(), len(owners)]):
            yield slice(start, stop)

    def _rows_at_once(
        self, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
    ) -> int:
        return ROWS_AT_ONCE

    def _here(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._flat.device)

    def _add(self, features: Tensor, labels: Tensor, owners: Tensor, total: Tensor) -> None:
        """Add the units' gradients, each the mean of its rows'."""
        losses = self._loss(self._model(features), labels, reduction="none")
        losses = losses / torch.bincount(owners)[owners].to(losses)
        gradients = torch.autograd.grad(losses.sum(), self._parameters)
        total += torch.cat([g.reshape(-1) for g in gradients])

    def _finish(self, total: Tensor, source: StepSource) -> None:
        """Nothing is added to a sum that has no guarantee."""


class DpSgd(Sgd):
    """DP-SGD at record or subject level, as its plan says.

    At subject level the gradients of a subject's rows are averaged and the average is clipped, so
    that one subject moves a sum by at most the clip. One row more or less of a subject exchanges
    its part for another: by at most twice the clip.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        plan: DpSgdPlan,
        *,
        learning_rate: float,
        proximal: float = 0.0,
    ) -> None:
        check_model(model)
        if plan.noise_multiplier == 0:
            raise ValueError("DP-SGD without noise guarantees nothing")
        super().__init__(model, loss, plan, learning_rate=learning_rate, proximal=proximal)
        self._clipper = clipper(model, loss, plan)
        self._saved = frozenset(model.state_dict())
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def self_test(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Hold the clipped sums of this model against plain autograd; `UnsafeModel` if they differ.

        Before any row is read: on synthetic rows of the declared shape.
        """
        features, labels = synthetic(input_shape, classes)
        self_test(self._model, self._loss, self._here(features.numpy()), self._here(labels.numpy()))

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a model's state; its buffers are public and stay what they are."""
        super().load(state)
        self._buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the state: noised parameters, and buffers as they were loaded."""
        kept = {name: b.clone() for name, b in self._buffers.items() if name in self._saved}
        return super().state() | kept

    def clipped_sum(
        self,
        features: Tensor,
        labels: Tensor,
        owners: Tensor | None = None,
        into: Tensor | None = None,
    ) -> Clipped:
        """Return the sum of the units' clipped gradients, each of norm at most plan.bound."""
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._buffers[name])
        return self._clipper(features, labels, owners, into=into)

    def _sample(
        self, n: int, subjects: npt.NDArray[np.int64] | None, source: StepSource
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if self._plan.unit is Unit.SUBJECT and subjects is None:
            raise ValueError("a plan per subject needs to know whose the rows are")
        return super()._sample(n, subjects, source)

    def _rows_at_once(
        self, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
    ) -> int:
        return self._clipper.at_once(self._here(features[:0]), self._here(labels[:0]))

    def _add(self, features: Tensor, labels: Tensor, owners: Tensor, total: Tensor) -> None:
        alone = self._plan.unit is Unit.RECORD
        self.clipped_sum(features, labels, None if alone else owners, total)

    def _finish(self, total: Tensor, source: StepSource) -> None:
        """Add the noise that the plan's event prices."""
        spread = self._plan.noise_multiplier * self._plan.clip
        total += spread * self._here(source.normal(len(total)))


def clipper(model: nn.Module, loss: Loss, plan: DpSgdPlan) -> Clipper:
    """Return what clips as the plan says; the sensitivity of its sums is `plan.bound`."""
    if plan.clipping is Clipping.PER_LAYER:
        return Clipper(model, loss, Clip.per_layer(plan.bound, len(layers(model))))
    return Clipper(model, loss, Clip((plan.bound,), plan.clipping is Clipping.AUTOMATIC))

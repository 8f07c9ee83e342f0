"""DP-SGD: Poisson-sampled, clipped, noised gradient steps (Abadi et al. 2016).

    mechanism = DpSgd(model, cross_entropy, plan, learning_rate=0.1)
    mechanism.step(features, labels, None, StepSource(secret, "train", job, round, step))

A step draws every unit independently with the plan's rate, adds up clipped gradients, adds
N(0, (noise_multiplier * clip)^2) to every coordinate, and divides by the plan's denominator. An
empty batch is noised like any other. Everything after the noise (learning rate, proximal term) is
post-processing. Per-sample gradients come from Opacus' hooks; sampling, clipping and noise are
here, so that they and the event that prices them come from one plan.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privacy.errors import UnsafeModel
from privacy.events import Unit
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource

Loss = Callable[..., Tensor]
"""Per-row loss summed over rows, called as loss(outputs, labels, reduction="sum")."""

GRAD_SAMPLE = "grad_sample"
"""The attribute in which Opacus leaves the gradient of every row."""

MICRO_BATCH_FLOATS = 1 << 25
"""Most per-sample gradient entries held at once; a batch that needs more is cut, not truncated."""

BESIDE = 8
"""Rows are computed in multiples of this, filled up with rows of zeros that count for nothing.

Matrix kernels are chosen by shape: with one row more or less, another kernel would round the
other rows' gradients differently, which the clip's slack does not cover. With it the rows seen in
tests agree to the last bit, or to 1e-7 of the clip where a hidden width is no multiple of 8;
without it they were seen to differ by 1e-4 of the clip.
"""


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
    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise UnsafeModel(f"the model has no per-sample gradients: {problems[0]}", field="model")


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
        """Return the class probabilities of rows, [n, classes]."""
        self._model.eval()
        with torch.no_grad():
            parts = [
                torch.softmax(self._model(torch.from_numpy(features[i : i + 4096])).double(), dim=1)
                for i in range(0, len(features), 4096)
            ]
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
        rows, weights = self._sample(len(labels), subjects, source)
        total = torch.zeros(len(self._flat), dtype=torch.float64)
        for part in self._micro_batches(len(rows)):
            chosen = rows[part]
            total += self._sum(
                torch.from_numpy(features[chosen]),
                torch.from_numpy(labels[chosen]),
                torch.from_numpy(weights[part]),
            )
        self._finish(total, source)
        gradient = (total / self._plan.denominator).to(self._flat.dtype)
        if self._proximal:
            gradient += self._proximal * (self._flat - self._anchor)
        self._flat.sub_(gradient, alpha=self._learning_rate)

    def _sample(
        self, n: int, subjects: npt.NDArray[np.int64] | None, source: StepSource
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Draw units; return the rows and the weight of each: one over its subject's rows."""
        if self._plan.unit is not Unit.SUBJECT or subjects is None:
            rows = np.flatnonzero(source.bernoulli(n, self._plan.rate))
            return rows, np.ones(len(rows))
        groups = self._groups(subjects)
        chosen = [groups[i] for i in np.flatnonzero(source.bernoulli(len(groups), self._plan.rate))]
        if not chosen:
            return np.empty(0, dtype=np.int64), np.empty(0)
        weights = [np.full(len(group), 1 / len(group)) for group in chosen]
        return np.concatenate(chosen), np.concatenate(weights)

    def _groups(self, subjects: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Rows by subject, at most the plan's number of each."""
        if self._rows_of is None or self._rows_of[0] is not subjects:
            order = np.argsort(subjects, kind="stable")
            cuts = np.flatnonzero(np.diff(subjects[order])) + 1
            most = self._plan.rows_per_subject
            groups = [group[:most] for group in np.split(order, cuts)] if len(subjects) else []
            self._rows_of = (subjects, groups)
        return self._rows_of[1]

    def _micro_batches(self, rows: int) -> Iterator[slice]:
        size = max(1, MICRO_BATCH_FLOATS // max(1, len(self._flat)))
        for start in range(0, rows, size):
            yield slice(start, start + size)

    def _sum(self, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        losses = self._loss(self._model(features), labels, reduction="none")
        gradients = torch.autograd.grad((losses * weights.to(losses.dtype)).sum(), self._parameters)
        return torch.cat([g.reshape(-1) for g in gradients]).double()

    def _finish(self, total: Tensor, source: StepSource) -> None:
        """Nothing is added to a sum that has no guarantee."""


class DpSgd(Sgd):
    """DP-SGD at record or subject level, as its plan says.

    At subject level each row's gradient is clipped and a subject's rows are averaged, so that one
    subject moves a sum by at most the clip. One row of a subject that stays exchanges its average
    for another: by at most the clip too, or twice that where only one row of a subject is used.
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
        # Rows need no gradient of their own; Opacus' hooks on modules fire all the same.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        check_model(model)
        if plan.noise_multiplier == 0:
            raise ValueError("DP-SGD without noise guarantees nothing")
        super().__init__(model, loss, plan, learning_rate=learning_rate, proximal=proximal)
        self._hooked = GradSampleModule(model, loss_reduction="sum")
        self._saved = frozenset(model.state_dict())
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a model's state; its buffers are public and stay what they are."""
        super().load(state)
        self._buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the state: noised parameters, and buffers as they were loaded."""
        kept = {name: b.clone() for name, b in self._buffers.items() if name in self._saved}
        return super().state() | kept

    def clipped_sum(self, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return sum_i weights_i clip(g_i), float64 [parameters]; each |clip(g)| <= plan.bound."""
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._buffers[name])
        n, more = len(labels), -len(labels) % BESIDE
        features = torch.cat([features, features.new_zeros(more, *features.shape[1:])])
        labels = torch.cat([labels, labels.new_zeros(more)])
        torch.autograd.backward(self._loss(self._hooked(features), labels, reduction="sum"))
        samples = torch.cat(
            [getattr(p, GRAD_SAMPLE)[:n].reshape(n, p.numel()) for p in self._parameters], dim=1
        ).double()
        for parameter in self._parameters:
            setattr(parameter, GRAD_SAMPLE, None)
            parameter.grad = None
        norms = torch.linalg.vector_norm(samples, dim=1)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):  # a row whose gradient overflows counts as zero
            samples[~finite] = 0.0
            norms[~finite] = 0.0
        factors = weights * (self._plan.bound / norms.clamp_min(self._plan.bound))
        total: Tensor = factors @ samples
        return total

    def _sample(
        self, n: int, subjects: npt.NDArray[np.int64] | None, source: StepSource
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        if self._plan.unit is Unit.SUBJECT and subjects is None:
            raise ValueError("a plan per subject needs to know whose the rows are")
        return super()._sample(n, subjects, source)

    def _sum(self, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return self.clipped_sum(features, labels, weights)

    def _finish(self, total: Tensor, source: StepSource) -> None:
        """Add the noise that the plan's event prices."""
        spread = self._plan.noise_multiplier * self._plan.clip
        total += spread * torch.from_numpy(source.normal(len(total)))

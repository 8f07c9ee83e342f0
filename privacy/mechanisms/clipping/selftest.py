"""Does the clipped sum of this very model agree with plain autograd? Asked before any row is read.

Eight synthetic rows go through the model alone, in pairs and all together. What the `Clipper`
gives is held against gradients that torch computes for one row at a time. That finds layers whose
backward pass leaves out a row or mixes two, rows that meet in the forward pass or the loss, and
layers that the clipper takes for what they are not.

Then each row goes through at many places of batches of several sizes. Whatever a layer gets, and
whatever gradient comes back to it, has to be the same to the last bit at all of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import BESIDE, Clipper, Loss
from privacy.mechanisms.clipping.parts import Part
from privacy.mechanisms.clipping.recorder import Recorder

ROWS = 8
SIZES = (32, 64, 160)
"""Of batches in which every row stands at many places; multiples of what is computed at once."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""By how much sums may differ, in clips per row: rounding, where kernels of other shapes round."""


def self_test(model: nn.Module, loss: Loss, features: Tensor, labels: Tensor) -> None:
    """Raise `UnsafeModel` unless clipped sums of the model are those of plain autograd.

    Takes at least two synthetic rows [rows, ...] and labels. A copy of the model is used, with its
    parameters moved by public noise, so that weights that begin at zero hide nothing.
    """
    probe = copy.deepcopy(model)
    _shake(probe)
    if _is_random(probe, features):  # dropout: no two passes agree
        probe.eval()
    reference = [_gradient(probe, loss, features[[i]], labels[[i]]) for i in range(len(labels))]
    norms = torch.stack([gradient.norm() for gradient in reference])
    if not bool(torch.isfinite(norms).all()):
        raise UnsafeModel("a synthetic row's gradient is not finite", field="model")
    bound = float(norms.median()) or 1.0  # some rows are clipped, some are not
    clipper = _Tracing(probe, loss, Clip((bound,)))
    factors = [min(1.0, bound / max(float(norm), 1e-300)) for norm in norms]
    everyone = list(range(len(labels)))
    full = (everyone * BESIDE)[:BESIDE]  # no row of zeros after them
    some = [*([i] for i in everyone), *map(list, itertools.pairwise(everyone)), everyone]
    for rows in [*some, full]:
        _compare(clipper, features, labels, rows, (reference, factors), bound)
    _check_places(clipper, features, labels)


def synthetic(
    shape: Sequence[int], classes: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return eight rows of a shape, uniform in [-1, 1), and labels of so many classes."""
    numbers = torch.Generator().manual_seed(0)
    features = 2 * torch.rand(ROWS, *shape, generator=numbers, dtype=dtype) - 1
    return features, torch.arange(ROWS) % classes


def _compare(
    clipper: Clipper,
    features: Tensor,
    labels: Tensor,
    rows: list[int],
    expected: tuple[list[Tensor], list[float]],
    bound: float,
) -> None:
    left = clipper(features[rows], labels[rows]).total
    for gradient, factor in ((expected[0][i], expected[1][i]) for i in rows):
        left.sub_(gradient, alpha=factor)  # in place: gradients may be as large as the model
    off = float(left.norm()) / bound
    allowed = TOLERANCE[next(clipper.model.parameters()).dtype] * len(rows)
    if not off <= allowed:
        raise UnsafeModel(
            f"the clipped gradients of {len(rows)} synthetic rows together are not those of each "
            f"alone: off by {off:.3g} times the clip; a module of the model mixes rows, leaves "
            "some out, or computes its gradient wrongly",
            field="model",
            value=f"{off:.3g}",
            allowed=f"<= {allowed:g}",
        )


class _Traces(Recorder):
    """Keeps what layers get and what comes back to them."""

    def __init__(self, *asked: Any) -> None:
        super().__init__(*asked)
        self.seen: list[Tensor] = []

    def watch(
        self, output: Tensor, given: Tensor, then: Callable[[Tensor], Iterable[Part]]
    ) -> Tensor:
        second = self.batch_second

        def keep(tensor: Tensor) -> None:
            self.seen.append(self.rows(tensor, second=second).clone())

        keep(given)
        output.register_hook(keep)  # type: ignore[no-untyped-call]
        return super().watch(output, given, then)


class _Tracing(Clipper):
    """A clipper that leaves the traces of its last pass behind."""

    def recorder(self, *asked: Any) -> _Traces:  # type: ignore[override]
        self.last = _Traces(*asked)
        return self.last


def _check_places(clipper: _Tracing, features: Tensor, labels: Tensor) -> None:
    """Raise `UnsafeModel` where a row's numbers depend on its place or on the batch's size."""
    first: list[Tensor] = []
    for size in SIZES:
        rows = torch.arange(size) % len(labels)
        clipper(features[rows], labels[rows])
        seen = clipper.last.seen
        first = first or [tensor[: len(labels)] for tensor in seen]
        if not all(torch.equal(one[rows], many) for one, many in zip(first, seen, strict=True)):
            raise UnsafeModel(
                "a row's numbers depend, in the last bit, on its place in a batch, which a "
                "crafted model can make as large as it likes; take widths (also of attention "
                "heads) that are multiples of 16",
                field="model",
                allowed="the same numbers for a row at every place",
            )


def _gradient(model: nn.Module, loss: Loss, features: Tensor, labels: Tensor) -> Tensor:
    """Plain autograd on one row, float64 [parameters]."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    value = loss(model(features), labels, reduction="none").sum()
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    flat = [
        (torch.zeros_like(p) if g is None else g).reshape(-1).double()
        for p, g in zip(parameters, found, strict=True)
    ]
    return torch.cat(flat)


def _shake(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((noise / fan_in**0.5).to(parameter))


def _is_random(model: nn.Module, features: Tensor) -> bool:
    with torch.no_grad():
        return not torch.equal(_output(model, features), _output(model, features))


def _output(model: nn.Module, features: Tensor) -> Tensor:
    output: Tensor = model(features)
    return output

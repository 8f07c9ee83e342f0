"""Sums of clipped gradients from one forward and one backward pass.

    >>> import torch
    >>> from torch.nn.functional import cross_entropy
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> clipper = Clipper(model, cross_entropy, Clip((1.0,)))
    >>> clipped = clipper(torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1]))
    >>> clipped.total.shape, clipped.norms.shape
    (torch.Size([58]), torch.Size([5]))

Per-sample gradients of a layer are products of what goes in and what comes back, so their norms,
and their sum once the norms are known, follow from these without a second backward pass
(book-keeping, Bu et al. 2023), and for many shapes without being written out (ghost norms, Li et
al. 2022). docs/dp-sgd.md derives every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping import attention, conv, embedding, linear, normalisation  # noqa: F401
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.parts import Part, Place, merge
from privacy.mechanisms.clipping.recorder import EXACT, Recorder, Units, Unknown

if TYPE_CHECKING:
    from privacy.mechanisms.clipping.fallback import Hooked

Loss = Callable[..., Tensor]
"""Called as loss(outputs, labels, reduction="none"); gives [rows, ...], summed for each row."""

BESIDE = 32
"""Rows are computed in multiples of this, filled up with rows of zeros that count for nothing.

What a row's gradient is may not follow from where in a batch it stands, nor from how many others
there are: a model can make any difference of a last bit as large as it likes. Kernels take two
vectors of sixteen floats at a time and what is left over by other instructions; in such multiples
nothing is. What else it takes is in `linear`, and `selftest` looks at whether it was enough.
"""

ALIGNED = 64
"""Bytes: where torch's own memory begins, and vectors are read whole from the first number on."""

FEWEST = 8
"""Rows that a piece has at least, however much is kept of each."""

HELD_AT_ONCE = 1 << 24
"""Most numbers that are kept of per-sample gradients; a batch that needs more is cut."""

SHARE_OF_GPU = 32
"""On a GPU, which waits for small pieces, a number for so many bytes of its memory: an eighth."""

ROWS_AT_ONCE = 1024
"""Most rows that one call should take, and most units, for which the clip's slack is shown."""


@dataclass(frozen=True)
class Clipped:
    """A sum of clipped gradients, and the norms before the clip.

    `total`: float64 [parameters], in the order of the model's trainable parameters; one unit more
    or less moves it by at most the clip's sensitivity. `norms`: float64 [units], of whole
    gradients; not finite where a unit counted as zero. Norms have no noise and stay at the silo.
    """

    total: Tensor
    norms: Tensor


def whole_products(device: torch.device) -> AbstractContextManager[None]:
    """Have products of 32-bit floats computed in 32 bits, whatever the process allows otherwise.

    In TF32 or bfloat16 a row's gradient would round by what else is in its batch, by a thousandth
    and not by what the clip's slack covers. cuDNN's convolutions are in TF32 unless told otherwise;
    products of matrices only where somebody asked for it (`UnsafeModel`: that is the process's own
    setting, on a processor too).
    """
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise UnsafeModel(
            f"products of 32-bit floats are set to precision {precision!r}, whose rounding no "
            "slack of the clip covers",
            field="float32_matmul_precision",
            value=precision,
            allowed="highest",
        )
    if device.type != "cuda":
        return nullcontext()
    exact: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return exact


def layers(model: nn.Module) -> list[str]:
    """Return the names of modules with trainable parameters of their own."""
    names = (name for name, p in model.named_parameters() if p.requires_grad)
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


class Clipper:
    """The sum of clipped gradients of a model's trainable parameters."""

    recorder = Recorder

    def __init__(self, model: nn.Module, loss: Loss, clip: Clip) -> None:
        """Raises `UnsafeModel` for number formats whose rounding the slack does not cover."""
        self.model, self.loss, self.clip = model, loss, clip
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._layers = layers(model)
        if len(clip.bounds) not in (1, len(self._layers)):
            raise ValueError(f"{len(clip.bounds)} bounds for {len(self._layers)} layers")
        self._places: dict[int, Place] = {}
        self.size = 0
        for number, (name, parameter) in enumerate(self._parameters.items()):
            if parameter.dtype not in EXACT:
                raise UnsafeModel(
                    f"parameter {name} is {parameter.dtype}, whose rounding no slack of the clip "
                    "covers",
                    field=name,
                    value=str(parameter.dtype),
                    allowed=[str(dtype) for dtype in EXACT],
                )
            layer = self._layers.index(name.rpartition(".")[0])
            self._places[id(parameter)] = Place(number, layer, self.size, parameter.numel())
            self.size += parameter.numel()
        self._hooked: Hooked | None = None
        self._silence_is_right = False
        self._held: dict[tuple[torch.Size, torch.Size], int] = {}

    def __call__(
        self,
        features: Tensor,
        labels: Tensor,
        owners: Tensor | None = None,
        *,
        into: Tensor | None = None,
        loss_scale: float = 1.0,
    ) -> Clipped:
        """Return the sum over units of their clipped gradients.

        Features [rows, ...] and labels [rows, ...]; `owners` [rows], ascending from 0, says whose
        the rows are: a unit's gradient is the mean of its rows', and without owners every row is a
        unit. `into` is a total to add to. A loss that is multiplied by `loss_scale`, a power of
        two, has that undone before the clip. Raises `UnsafeModel`.
        """
        total = self._zeros(features) if into is None else into
        if math.frexp(loss_scale)[0] != 0.5:  # scaling by anything else would round
            raise ValueError(f"a loss scale is a power of two, not {loss_scale}")
        if not len(labels):
            return Clipped(total, total.new_zeros(0))
        units = None if owners is None else Units(owners)
        if units is not None and units.most == 1:
            units = None
        count = len(labels) if units is None else units.count
        if count > ROWS_AT_ONCE:
            raise ValueError(f"{count} units at once; at most {ROWS_AT_ONCE}")
        parts = self._parts(features, labels, units)
        whole = len(self.clip.bounds) == 1
        squares: list[Tensor | float] = [0.0] * len(self.clip.bounds)
        for part in parts:
            layer = 0 if whole else part.place.layer
            squares[layer] = part.squares() + squares[layer]
        norms = [total.new_zeros(count) if isinstance(s, float) else s.sqrt() for s in squares]
        if loss_scale != 1.0:
            norms = [norm / loss_scale for norm in norms]
        norm = norms[0] if whole else torch.stack(norms).square().sum(0).sqrt()
        factors = self.clip.factors(norms)
        if loss_scale != 1.0:
            factors = [factor / loss_scale for factor in factors]
        if not math.isfinite(float(norm.sum())):
            # Such a unit counts as zero; so must its numbers, as zero times infinity is none.
            lost = ~torch.isfinite(norm)
            factors = [factor.masked_fill(lost, 0.0) for factor in factors]
            for part in parts:
                part.drop(lost)
        for part in parts:
            part.add(factors[0 if whole else part.place.layer], total)
        return Clipped(total, norm)

    def at_once(self, features: Tensor, labels: Tensor) -> int:
        """How many rows of such a shape one call should take: public, from shapes alone."""
        key = (features.shape[1:], labels.shape[1:])
        if key not in self._held:
            zeros = features.new_zeros((FEWEST, *key[0])), labels.new_zeros((FEWEST, *key[1]))
            self._held[key] = max(1, sum(p.held() for p in self._parts(*zeros, None)) // FEWEST)
        most = HELD_AT_ONCE
        if features.is_cuda:
            most = torch.cuda.get_device_properties(features.device).total_memory // SHARE_OF_GPU
        rows = most // self._held[key]
        # Fewer than are computed at once would cost as much; up to four times `most` are kept.
        rows = FEWEST if rows < FEWEST else max(rows - rows % BESIDE, BESIDE)
        return min(rows, ROWS_AT_ONCE)

    def _zeros(self, features: Tensor) -> Tensor:
        return torch.zeros(self.size, dtype=torch.float64, device=features.device)

    def _parts(self, features: Tensor, labels: Tensor, units: Units | None) -> Sequence[Part]:
        """Compute the gradients, of rows and as many zeros as make a multiple of `BESIDE`."""
        rows, more = len(labels), -len(labels) % BESIDE
        if more:
            features = torch.cat([features, features.new_zeros(more, *features.shape[1:])])
            labels = torch.cat([labels, labels.new_zeros(more, *labels.shape[1:])])
        elif features.data_ptr() % ALIGNED:
            features = features.clone()
        recorder = self.recorder(self._places, rows, rows + more, units)
        with whole_products(features.device):
            if self._hooked is None:
                try:
                    self._watch(features, labels, recorder)
                    return merge(recorder.parts)
                except Unknown as error:
                    from privacy.mechanisms.clipping.fallback import Hooked  # Opacus takes seconds

                    self._hooked = Hooked(self.model, self._parameters, self._places, str(error))
            return self._hooked.parts(features, labels, self.loss, recorder)

    def _watch(self, features: Tensor, labels: Tensor, recorder: Recorder) -> None:
        with recorder:
            outputs = self.model(features)
        losses = self.loss(outputs, labels, reduction="none")
        if losses.dim() == 0 or len(losses) != len(labels):
            raise UnsafeModel(
                "the loss gives no number for every row, so no row's part can be bounded",
                field="loss",
                value=list(losses.shape),
            )
        if losses.requires_grad:
            try:
                recorder.backward(losses.sum(), self._parameters)
            except Unknown as error:
                if self.loss(outputs.detach(), labels, reduction="none").requires_grad:
                    raise UnsafeModel(
                        "the loss depends on the model's parameters, and not by rows alone; weight "
                        "decay belongs after the noise",
                        field="loss",
                    ) from error
                raise
        if recorder.silent and not self._silence_is_right:
            self._hear(features, labels, recorder.parts)

    def _hear(self, features: Tensor, labels: Tensor, parts: Sequence[Part]) -> None:
        """Raise `Unknown` where plain autograd has a gradient of a parameter of no part."""
        heard = {place.parameter for part in parts for place in part.places()}
        parameters = [*self._parameters.items()]
        rest = [both for number, both in enumerate(parameters) if number not in heard]
        total = self.loss(self.model(features), labels, reduction="none").sum()
        if rest and total.requires_grad:
            found = torch.autograd.grad(total, [p for _, p in rest], allow_unused=True)
            for (name, _), gradient in zip(rest, found, strict=True):
                if gradient is not None:
                    raise Unknown(f"the gradient of parameter {name} did not arrive")
        self._silence_is_right = True

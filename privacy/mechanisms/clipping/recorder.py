"""Watches a forward pass: where trainable parameters are used, and what gradient arrives there.

Inside `with recorder:` every function of torch passes by. Of those that a handler is registered
for and that take a trainable parameter, the handler computes the same output from the parameter
cut off the graph, and leaves word of what to do with the gradient of that output. So backward
computes no gradient of a parameter, and where it does all the same, the parameter was used in a
way that nobody here knows: `Recorder.backward` then raises `Unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping.parts import Part, Place, Samples

EXACT = (torch.float32, torch.float64)
"""Number formats whose slack is shown."""

Given = TypeVar("Given", Tensor, Tensor | None)
Handler = Callable[..., Tensor]
HANDLERS: dict[Callable[..., Any], Handler] = {}


def handles(*functions: Callable[..., Any]) -> Callable[[Handler], Handler]:
    """Register a handler, called as handler(recorder, *arguments of the function)."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


class Unknown(Exception):
    """A parameter is used in a way, or on tensors of a shape, that is not known here."""


class Units:
    """Which rows belong to which unit, and how much each counts: one over its unit's rows."""

    def __init__(self, owners: Tensor) -> None:
        """Owners [rows] are numbers of units from 0, in ascending order."""
        counts = torch.bincount(owners)
        self.owners, self.count, self.most = owners, len(counts), int(counts.max())
        self._shares = 1.0 / counts[owners].double()
        places = torch.arange(self.most, device=owners.device)
        first = counts.cumsum(0) - counts
        # A unit with fewer rows repeats its last one, which then counts for nothing.
        self._index = first[:, None] + torch.minimum(places, counts[:, None] - 1)
        self._weights = (places < counts[:, None]) / counts[:, None].double()

    def mean(self, values: Tensor) -> Tensor:
        """Return every unit's mean of its rows, [rows, size] to [units, size]."""
        scaled = values * self._shares.to(values.dtype)[:, None]
        return values.new_zeros((self.count, values.shape[1])).index_add_(0, self.owners, scaled)

    def gather(self, values: Tensor, *, weighted: bool) -> Tensor:
        """Return [rows, blocks, T, size] as [units, blocks, rows of a unit times T, size]."""
        found = values[self._index]
        if weighted:
            found = found * self._weights.to(values.dtype)[:, :, None, None, None]
        return found.transpose(1, 2).flatten(2, 3)


class Recorder(TorchFunctionMode):
    """One forward and backward pass over rows, of which the first `rows` count."""

    def __init__(
        self, places: Mapping[int, Place], rows: int, computed: int, units: Units | None
    ) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self.units = units
        self.batch_second = False
        self.silent = 0  # outputs whose gradient has not arrived
        self.computed = computed
        self._places, self._rows = places, rows
        self._roots: list[Any] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function's handler, or the function."""
        handler = HANDLERS.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(self, *args, **(kwargs or {}))

    def places(self, *tensors: Tensor | None) -> list[Place | None] | None:
        """Return the places of those that are trainable; None where there is nothing to watch."""
        if not torch.is_grad_enabled():
            return None
        found = [None if t is None else self._place(t) for t in tensors]
        return found if any(place is not None for place in found) else None

    def _place(self, tensor: Tensor) -> Place | None:
        place = self._places.get(id(tensor))
        whole = tensor._base
        if place is not None or whole is None or not tensor.is_contiguous():
            return place
        place = self._places.get(id(whole))  # a stretch of a parameter, as attention takes
        if place is None or not whole.is_contiguous():
            return None
        at = int(tensor.storage_offset() - whole.storage_offset())
        return place._replace(start=place.start + at, size=tensor.numel())

    def rows(self, tensor: Tensor, *, second: bool = False) -> Tensor:
        """Return the rows that count of a tensor that has one entry for every row."""
        if second:  # as in attention, where two dimensions may also be one
            tensor = tensor.reshape(-1, self.computed, tensor.shape[-1]).transpose(0, 1)
        if not tensor.dim() or tensor.shape[0] != self.computed:
            raise Unknown(f"gets {list(tensor.shape)}, which does not begin with a batch")
        tensor = tensor.detach()
        return tensor if self._rows == self.computed else tensor[: self._rows]

    def watch(
        self, output: Tensor, given: Tensor, then: Callable[[Tensor], Iterable[Part]]
    ) -> Tensor:
        """Call `then` with the output's gradient, if the input `given` is unchanged by then."""
        if output.dtype not in EXACT:
            raise UnsafeModel(
                f"the model computes in {output.dtype}, whose rounding no slack of the clip covers",
                field="model",
                value=str(output.dtype),
                allowed=[str(dtype) for dtype in EXACT],
            )
        todo = [(given, given._version, then)]
        shape = output.shape

        def arrived(gradient: Tensor) -> None:
            kept, version, make = todo.pop()  # frees what was kept
            if kept._version != version:
                raise Unknown("a layer's input was changed in place afterwards")
            self.silent -= 1
            self.parts.extend(make(gradient.reshape(shape)))

        whole = _before_changes(output)
        whole.register_hook(arrived)  # type: ignore[no-untyped-call]
        if not given.requires_grad:  # nothing that is watched is below: backward may end here
            self._roots.append(get_gradient_edge(whole))
        self.silent += 1
        return output

    def root(self, tensor: Tensor) -> Tensor:
        """Return the tensor such that what is computed from it has a gradient."""
        return tensor if tensor.requires_grad else tensor.detach().requires_grad_()

    def written_out(self, place: Place, values: Tensor) -> Samples:
        """Gradients of rows as a part, averaged by unit."""
        return Samples(place, values if self.units is None else self.units.mean(values))

    def backward(self, total: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
        """Run backward; the parts are complete afterwards. Raises `Unknown`."""
        try:
            wanted = [*self._roots, *parameters.values()]
            found = torch.autograd.grad(total, wanted, allow_unused=True)
        finally:
            begun, self._roots = len(self._roots), []
        for name, gradient in zip(parameters, found[begun:], strict=True):
            if gradient is not None:
                raise Unknown(f"parameter {name} is used in a way that is not known here")


def _before_changes(output: Tensor) -> Tensor:
    """Return what keeps its place in the graph where the output is changed in place: its base."""
    base = output._base
    same = base is not None and base.numel() == output.numel() and output.is_contiguous()
    return base if base is not None and same else output


def cut(tensor: Given, place: Place | None) -> Given:
    """Return a watched parameter off the graph, any other tensor as it is."""
    return tensor if tensor is None or place is None else tensor.detach()

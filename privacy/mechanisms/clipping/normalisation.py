"""Normalisation within a row: layer, group, instance and root mean square.

All scale a normalised input x by a weight and may add a bias: the gradients are sum_t g_t x_t and
sum_t g_t, elementwise. The normalised input is computed again, which is cheaper than keeping it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

from torch import Tensor
from torch.nn import functional

from privacy.mechanisms.clipping.parts import Part
from privacy.mechanisms.clipping.recorder import Recorder, Unknown, cut, handles

Normalise = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def scaled(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalise: Normalise,
    size: int | None = None,
) -> Tensor:
    """Watch a normalisation whose weight has the last `size` entries of a row, or its channels."""
    found = recorder.places(weight, bias)
    if found is None:
        return normalise(input, weight, bias)
    of_weight, of_bias = found
    rows = recorder.rows(input)

    def summed(values: Tensor) -> Tensor:
        if size is not None:
            return values.reshape(len(values), -1, size).sum(1)
        return values.flatten(2).sum(2) if values.dim() > 2 else values

    def parts(gradient: Tensor) -> Iterator[Part]:
        grads = recorder.rows(gradient)
        for place, values in ((of_weight, normalise), (of_bias, None)):
            if place is not None:
                terms = grads if values is None else grads * values(rows, None, None)
                yield recorder.written_out(place, summed(terms))

    output = normalise(recorder.root(input), cut(weight, of_weight), cut(bias, of_bias))
    return recorder.watch(output, input, parts)


@handles(functional.layer_norm)
def layer_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions."""
    shape = list(normalized_shape)

    def normalise(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        return functional.layer_norm(x, shape, w, b, eps)

    return scaled(recorder, input, weight, bias, normalise, prod(shape))


@handles(functional.rms_norm)
def rms_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Scale by the root mean square of the last dimensions."""
    shape = list(normalized_shape)

    def normalise(x: Tensor, w: Tensor | None, _: Tensor | None) -> Tensor:
        return functional.rms_norm(x, shape, w, eps)

    return scaled(recorder, input, weight, None, normalise, prod(shape))


@handles(functional.group_norm)
def group_norm(
    recorder: Recorder,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels."""

    def normalise(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        return functional.group_norm(x, num_groups, w, b, eps)

    return scaled(recorder, input, weight, bias, normalise)


@handles(functional.instance_norm)
def instance_norm(
    recorder: Recorder,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise every channel of a row by itself."""
    if running_mean is not None or not use_input_stats:
        raise Unknown("instance normalisation keeps statistics of the rows")

    def normalise(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        return functional.instance_norm(x, weight=w, bias=b, eps=eps)

    return scaled(recorder, input, weight, bias, normalise)

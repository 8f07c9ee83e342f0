"""Linear layers on inputs of any leading dimensions, the batch first."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from privacy.mechanisms.clipping.parts import Part
from privacy.mechanisms.clipping.products import products
from privacy.mechanisms.clipping.recorder import Recorder, cut, handles


@handles(functional.linear)
def linear(recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gradient sum_t g_t a_t^T of the weight, sum_t g_t of the bias."""
    found = recorder.places(weight, bias)
    if found is None:
        return functional.linear(input, weight, bias)
    of_weight, of_bias = found
    second = recorder.batch_second
    rows = recorder.rows(input, second=second)
    inputs = rows.reshape(rows.shape[0], 1, -1, rows.shape[-1])

    def parts(gradient: Tensor) -> Iterator[Part]:
        grads = recorder.rows(gradient, second=second)
        grads = grads.reshape(grads.shape[0], 1, -1, grads.shape[-1])
        return products(recorder, of_weight, of_bias, inputs.__getitem__, grads, inputs.shape[-1])

    output = functional.linear(recorder.root(input), cut(weight, of_weight), cut(bias, of_bias))
    return recorder.watch(output, input, parts)

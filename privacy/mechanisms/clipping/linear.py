"""Linear layers on inputs of any leading dimensions, the batch first.

A matrix library adds up a row's products in an order that depends on where the row begins in
memory. Rows that are a multiple of sixteen floats long all begin alike. So inputs are filled up
with zeros to such a width, which is also that of the gradient that comes back to them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional

from privacy.mechanisms.clipping.parts import Part, RankOne
from privacy.mechanisms.clipping.products import products
from privacy.mechanisms.clipping.recorder import Recorder, cut, handles

FLOATS = 16
"""64 bytes of 32-bit floats; in 64 bits, twice as much, which does as well."""


@handles(functional.linear)
def linear(recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gradient sum_t g_t a_t^T of the weight, sum_t g_t of the bias."""
    found = recorder.places(weight, bias)
    if found is None:
        return functional.linear(input, weight, bias)
    of_weight, of_bias = found
    second = recorder.batch_second
    inputs = recorder.rows(input, second=second)

    def parts(gradient: Tensor) -> Iterable[Part]:
        grads = recorder.rows(gradient, second=second)
        if inputs.dim() == 2 and of_weight is not None and recorder.units is None:
            return [RankOne(of_weight, of_bias, inputs, grads)]
        rows, width = inputs.shape[0], inputs.shape[-1]
        terms = inputs.reshape(rows, 1, -1, width)
        grads = grads.reshape(rows, 1, -1, grads.shape[-1])
        return products(recorder, of_weight, of_bias, terms.__getitem__, grads, width)

    output = product(recorder.root(input), cut(weight, of_weight), cut(bias, of_bias))
    return recorder.watch(output, input, parts)


def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's output, of which no row's rounding depends on its place."""
    beside = -weight.shape[1] % FLOATS
    if beside:
        input, weight = functional.pad(input, (0, beside)), functional.pad(weight, (0, beside))
    return functional.linear(input, weight, bias)

"""How many kernels round a row by its place in a batch, as they are and as silos run them.

One row is repeated over a whole batch, so that its results should be equal at every place, to the
last bit, and equal in batches of other sizes. Counted are shapes for which they are not: linear
layers as torch computes them and filled up to widths of 16 (both ways in batches of multiples of
32), elementwise functions in batches of multiples of 8 and of 32, convolutions. Then, what it costs
to evaluate rows alone.
`--quick` looks at a few shapes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from _common import Claims, main
from torch import Tensor
from torch.nn import functional

from federation.models import build_model
from privacy.events import Unit
from privacy.mechanisms.clipping.linear import product
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import DpSgdPlan

Map = Callable[[Tensor], Tensor]

WIDTHS = (1, 2, 3, 5, 7, 8, 10, 13, 16, 30, 31, 33, 64, 100, 128, 300, 784)
OUT = (1, 2, 3, 5, 7, 10, 16, 30, 33, 64, 128)
SIZES = (32, 64, 96, 128, 160, 224, 256, 512, 1024)
FUNCTIONS: dict[str, Map] = {
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}


def measure(claims: Claims, quick: bool) -> None:
    """Count, and time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths, sizes = (WIDTHS[::4], SIZES[:2]) if quick else (WIDTHS, SIZES)
    plain, filled = 0, 0
    for width, out in itertools.product(widths, OUT):
        weight, bias = torch.randn(out, width), torch.randn(out)
        plain += _differs(lambda x, w=weight, b=bias: functional.linear(x, w, b), (width,), sizes)
        filled += _differs(lambda x, w=weight, b=bias: product(x, w, b), (width,), sizes)
    shapes = len(widths) * len(OUT)
    claims.report(f"of {shapes} linear layers as they are", plain, "shapes")
    claims.at_most(f"of {shapes} linear layers filled up to 16", filled, "shapes", 0)
    for step in (8, 32):
        batches = range(step, 4 * 32 + 1, step)
        count = sum(_differs(f, (w,), batches) for f in FUNCTIONS.values() for w in widths)
        said = f"of {len(FUNCTIONS) * len(widths)} elementwise, batches of multiples of {step}"
        if step == 8:
            claims.report(said, count, "shapes")
        else:
            claims.at_most(said, count, "shapes", 0)
    kernels = list(itertools.product((1, 3, 16), (4, 7, 32), (3, 5), (1, 2), (5, 8, 14)))
    kernels = kernels[::20] if quick else kernels
    count = sum(_differs(_convolution(*k[:4]), (k[0], k[4], k[4]), sizes[:5]) for k in kernels)
    claims.at_most(f"of {len(kernels)} convolutions", count, "shapes", 0)
    for name in ("logistic", "cnn"):
        _evaluation(claims, name)


def _differs(function: Map, shape: tuple[int, ...], sizes: Iterable[int]) -> bool:
    """Whether output or gradient of one row depend on its place or on the batch's size."""
    row, seen = torch.randn(1, *shape), []
    back: Tensor | None = None
    for size in sizes:
        rows = row.expand(size, *shape).contiguous().requires_grad_()
        output = function(rows)
        back = torch.randn(1, *output.shape[1:]) if back is None else back
        gradient = torch.autograd.grad(output, rows, back.expand_as(output).contiguous())[0]
        for values in (output.detach(), gradient):
            if not torch.equal(values, values[:1].expand_as(values)):
                return True
        seen.append((output[0].detach(), gradient[0]))
    return any(not torch.equal(a, b) for one in seen for a, b in zip(one, seen[0], strict=True))


def _convolution(channels: int, out: int, kernel: int, stride: int) -> Map:
    weight, bias = torch.randn(out, channels, kernel, kernel), torch.randn(out)
    return lambda x: functional.conv2d(x, weight, bias, stride=stride, padding=1)


def _evaluation(claims: Claims, name: str) -> None:
    """Time scoring rows one at a time, beside all at once."""
    shape = (30,) if name == "logistic" else (1, 28, 28)
    spec = {"name": name, "hidden": (), "channels": (16, 32), "activation": "relu"}
    model = build_model(spec, shape, 2, seed=0)
    plan = DpSgdPlan(
        unit=Unit.RECORD, rate=1.0, noise_multiplier=1.0, clip=1.0, denominator=1.0, steps=1
    )
    mechanism = DpSgd(model, functional.cross_entropy, plan, learning_rate=0.1)
    rows = np.random.default_rng(0).random((500, *shape), dtype=np.float32)
    mechanism.probabilities(rows[:10])
    begun = time.perf_counter()
    mechanism.probabilities(rows)
    alone = time.perf_counter() - begun
    claims.report(f"{name}: evaluating a row alone", alone / len(rows) * 1e6, "us")


if __name__ == "__main__":
    main("places", measure, __doc__)

"""Convolutions in one, two and three dimensions, with groups, stride, dilation and padding.

A convolution is a linear map of patches: with A the matrix of patches [T, in times kernel], one
per position of the output, the gradient is sum_t g_t a_t^T in every group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from privacy.mechanisms.clipping.parts import Part
from privacy.mechanisms.clipping.products import products
from privacy.mechanisms.clipping.recorder import Recorder, Unknown, cut, handles

Sizes = int | Sequence[int]

NARROW = 12
"""Width below which entries of patches are gathered one by one, which is faster than in lines."""


def patches(
    images: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return [rows, channels, *sizes] as [rows, groups, positions, in times kernel]."""
    if any(before or after for before, after in padding):
        images = functional.pad(images, [n for pair in reversed(padding) for n in pair])
    rows, channels, *_ = images.shape
    if images.shape[-1] < NARROW:
        index = _index(tuple(images.shape[1:]), *map(tuple, (kernel, stride, dilation)), groups)
        taken = images.reshape(rows, -1).index_select(1, index.to(images.device))
        return taken.view(rows, groups, channels // groups * prod(kernel), -1).mT
    return _strided(images, kernel, stride, dilation, groups)


@lru_cache(maxsize=64)
def _index(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Where the patches' entries stand in an image, flat."""
    image = torch.arange(prod(shape)).view(1, *shape)
    return _strided(image, kernel, stride, dilation, groups).mT.flatten()


def _strided(
    images: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    rows, channels, *sizes = images.shape
    of_row, of_channel, *steps = images.stride()
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    positions = [(n - m) // s + 1 for n, m, s in zip(sizes, spans, stride, strict=True)]
    inside = channels // groups
    view = images.as_strided(
        (rows, groups, inside, *kernel, *positions),
        (
            of_row,
            inside * of_channel,
            of_channel,
            *(n * d for n, d in zip(steps, dilation, strict=True)),
            *(n * s for n, s in zip(steps, stride, strict=True)),
        ),
        images.storage_offset(),
    )
    return view.reshape(rows, groups, inside * prod(kernel), prod(positions)).mT


@handles(torch.conv1d, torch.conv2d, torch.conv3d)
def conv(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Gradient sum_t g_t a_t^T of the weight over patches, sum_t g_t of the bias."""
    kernel = weight.shape[2:]
    convolve: Callable[..., Tensor] = (torch.conv1d, torch.conv2d, torch.conv3d)[len(kernel) - 1]
    found = recorder.places(weight, bias)
    if found is None:
        return convolve(input, weight, bias, stride, padding, dilation, groups)
    if input.dim() != weight.dim():
        raise Unknown(f"gets {list(input.shape)}, which has no batch")
    of_weight, of_bias = found
    images = recorder.rows(input)
    strides, dilations = _each(stride, kernel), _each(dilation, kernel)
    paddings = _padding(padding, kernel, dilations)

    def inputs(some: slice) -> Tensor:
        return patches(images[some], kernel, strides, paddings, dilations, groups)

    def parts(gradient: Tensor) -> Iterator[Part]:
        grads = recorder.rows(gradient)
        grads = grads.reshape(len(grads), groups, weight.shape[0] // groups, -1).mT
        return products(recorder, of_weight, of_bias, inputs, grads, prod(weight.shape[1:]))

    output = convolve(
        recorder.root(input),
        cut(weight, of_weight),
        cut(bias, of_bias),
        stride,
        padding,
        dilation,
        groups,
    )
    return recorder.watch(output, input, parts)


def _each(value: Sizes, kernel: Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * len(kernel) if len(values) == 1 else values


def _padding(
    value: Sizes | str, kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    if value == "same":  # an odd one goes behind
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(n // 2, n - n // 2) for n in whole]
    numbers = [0] * len(kernel) if isinstance(value, str) else _each(value, kernel)
    return [(n, n) for n in numbers]

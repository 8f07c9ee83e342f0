"""Embeddings: a row's gradient has one line for every word that occurs in it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping.parts import Part, Words
from privacy.mechanisms.clipping.recorder import Recorder, handles


@handles(functional.embedding)
def embedding(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Gradient sum_t g_t of every word, over the positions at which it stands."""
    found = recorder.places(weight)
    if max_norm is not None or (found is not None and scale_grad_by_freq):
        option = "max_norm" if max_norm is not None else "scale_grad_by_freq"
        raise UnsafeModel(
            f"an embedding with {option} lets the rows of a batch change one another's gradients",
            field="model",
            value=option,
        )
    if found is None:
        return functional.embedding(input, weight, padding_idx)
    place = found[0]
    words = recorder.rows(input)
    words = words.reshape(len(words), -1)
    width = weight.shape[1]
    padding = padding_idx if padding_idx is None or padding_idx >= 0 else len(weight) + padding_idx

    def parts(gradient: Tensor) -> Iterator[Part]:
        grads = recorder.rows(gradient)
        grads = grads.reshape(*words.shape, width)
        of = words
        if padding is not None:
            grads = grads * (words != padding)[:, :, None]
        if recorder.units is not None:
            of = recorder.units.gather(words[:, None, :, None], weighted=False)[:, 0, :, 0]
            grads = recorder.units.gather(grads[:, None], weighted=True)[:, 0]
        if place is not None:
            yield Words(place, of, grads, width)

    # Words have no gradient: the weight's own is what the output hangs on.
    output = functional.embedding(input, weight.detach().requires_grad_(), padding_idx)
    return recorder.watch(output, input, parts)

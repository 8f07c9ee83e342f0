"""The issue's gates at their sizes; time is `benchmarks/equivariant.py`'s."""

from __future__ import annotations

import pytest
import torch
from tests_models import decoder, encoder, tokens

from secure.equivariant.attacks import matching

SIZES = {
    "decoder of 6 layers": (
        decoder,
        dict(layers=6, heads=8, kv_heads=4, head_width=32, hidden=688),
    ),
    "encoder of 12 layers": (encoder, dict(layers=12, heads=8, hidden=1024)),
}


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_exact_at_a_thousand_positions_and_known_to_who_has_the_base(name, dtype):
    make, sizes = SIZES[name]
    model = make(dtype, vocabulary=2000, width=256, **sizes)
    sealed, done = model.transform(b"g" * 32)
    ids = tokens(model, 20, 50)
    plain = model.run({"tokens": ids})
    answer = sealed.run(model.architecture.takes.sealed({"tokens": ids}, done.input))
    found = done.output.to(dtype).inverted().apply(answer)
    limit = 1e-10 if dtype == torch.float64 else 1e-4
    assert float((found - plain).abs().max() / plain.abs().max()) <= limit
    assert torch.equal(found.argmax(-1), plain.argmax(-1))
    guess, _ = matching.match_tokens(sealed, model)
    assert float((guess == done.input.order).double().mean()) >= 0.99

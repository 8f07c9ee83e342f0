"""The secret numbers: from their distributions, and only from the seed and the label."""

from __future__ import annotations

import hashlib
import hmac

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure.equivariant.stream import Stream, derive

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS, st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_every_draw_has_its_form(seed, n):
    stream = Stream(seed, "form")
    assert sorted(stream.permutation(n).tolist()) == list(range(n))
    assert set(stream.signs(n).tolist()) <= {-1.0, 1.0}
    scales = stream.scales(n)
    assert bool(((scales > 0.5) & (scales < 2)).all())
    assert stream.normal(n).shape == (n,)


@given(SEEDS, st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_orthogonal_matrices_are_orthogonal(seed, n):
    matrix = Stream(seed, "turn").orthogonal(n)
    assert torch.allclose(matrix @ matrix.T, torch.eye(n).double(), atol=1e-12, rtol=0)


def test_a_stream_is_that_of_its_seed_and_label_alone():
    draw = lambda seed, *label: Stream(seed, *label).bits(4).tolist()  # noqa: E731
    one = draw(b"a" * 32, "layer", 1)
    assert one == draw(b"a" * 32, "layer", 1)
    others = [draw(b"b" * 32, "layer", 1), draw(b"a" * 32, "layer", 11), draw(b"a" * 32, "laye")]
    others += [draw(b"a" * 32, "layer1"), draw(b"a" * 32, "layer", "1")]
    assert one not in others and len({tuple(o) for o in others}) == len(others)


def test_keys_are_those_of_hkdf():
    # RFC 5869 by hand: extract under a salt of zeros, one block of expand.
    info = msgpack.packb(["tacit equivariant 1", "layer", 1])
    extracted = hmac.new(bytes(32), b"s" * 32, hashlib.sha256).digest()
    expanded = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    assert derive(b"s" * 32, "layer", 1) == expanded


@pytest.mark.parametrize(
    ("name", "law"),
    [("normal", stats.norm()), ("uniform", stats.uniform()), ("scales", stats.reciprocal(0.5, 2))],
)
def test_distributions(name, law):
    # A fixed seed: the p-value is a number, not a chance.
    drawn = getattr(Stream(b"d" * 32, name), name)(20_000).numpy()
    assert stats.kstest(drawn, law.cdf).pvalue > 0.01


def test_permutations_and_turns_are_uniform():
    stream = Stream(b"u" * 32, "uniform")
    orders = [tuple(stream.permutation(3).tolist()) for _ in range(3000)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 0.01
    # Haar's measure: an entry of a 3 by 3 turn is uniform in [-1, 1] (Archimedes).
    entries = [float(stream.orthogonal(3)[0, 2]) for _ in range(2000)]
    assert stats.kstest(entries, stats.uniform(-1, 2).cdf).pvalue > 0.01

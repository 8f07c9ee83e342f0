"""Chunks: any size, any order, sent twice; what makes no sense is refused."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure.errors import BadMessage
from secure.exchange import chunks
from secure.exchange.chunks import CHUNK, Assembler, split


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PIECE", 64)


@given(st.lists(st.binary(max_size=1000), min_size=1, max_size=4), st.integers(0, 2**32))
@settings(deadline=None)
def test_whole_messages_come_out_in_whatever_order_their_chunks_come(
    messages: list[bytes], seed: int
) -> None:
    dealt = [(number, chunk) for number, m in enumerate(messages) for chunk in split(m)]
    random.Random(seed).shuffle(dealt)
    assembler, out = Assembler(), {}
    for ticket, (number, chunk) in enumerate(dealt):
        whole = assembler.add("north", chunk, ticket)
        if whole is not None:
            out[number] = whole.sealed
            assert sorted(whole.tickets) == [t for t, (n, _) in enumerate(dealt) if n == number]
    assert out == dict(enumerate(messages))
    assert assembler.missing("north") == 0


def test_it_knows_what_the_newest_message_lacks_and_keeps_few_unfinished() -> None:
    assembler, tickets = Assembler(), itertools.count()
    for begun in range(6):
        chunk, *_ = split(os.urandom(64 * 5))
        assert assembler.add("north", chunk, next(tickets)) is None
        assert assembler.missing("north") == 4
        assert assembler.overdue("north") == ([begun - 4] if begun >= 4 else [])
    assert assembler.missing("south") == 0 and assembler.overdue("south") == []


def test_a_damaged_foreign_or_oversize_chunk_is_refused() -> None:
    first, second, _ = split(bytes(150))
    for wrong in (
        first[:-1],
        first + b"x",
        first[:-1] + b"x",
        first[:39],
        b"",
        first[:20] + b"\0\0\0\0" + first[24:],
        first[:16] + b"\xff" * 4 + first[20:],
        first[:20] + b"\xff" * 4 + first[24:],
        bytes(CHUNK + 1),
    ):
        with pytest.raises(BadMessage):
            Assembler().add("north", wrong, None)
    assembler = Assembler()
    assembler.add("north", first, None)
    with pytest.raises(BadMessage, match="differ"):
        assembler.add("north", second[:20] + b"\0\0\0\4" + second[24:], None)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_typed_error(noise: bytes) -> None:
    with pytest.raises(BadMessage):
        Assembler().add("north", noise, None)

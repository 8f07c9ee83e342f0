"""Ten thousand envelopes that nobody honest made: each is refused with a typed error."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure.errors import SecureError
from secure.exchange.chunks import Assembler, split
from secure.exchange.envelope import Header, open_envelope, seal
from secure.exchange.sealing import seal_for, unseal
from secure.keys import SigningKey

KEYS = {name: SigningKey(bytes([i]) * 32) for i, name in enumerate(("coordinator", "north"), 1)}
PUBLIC = {name: key.public for name, key in KEYS.items()}
HONEST = seal(Header("fed", "j", 0, "update", "north", "coordinator"), b"body", KEYS["north"])
HEAD, SIGNATURE, BODY = msgpack.unpackb(HONEST)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=300),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw: Any) -> bytes:
    """The honest bytes, cut, flipped, doubled or spliced."""
    packed = bytearray(HONEST)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(packed)))
        match draw(st.sampled_from(["cut", "flip", "insert", "repeat"])):
            case "cut":
                del packed[at:]
            case "flip" if at < len(packed):
                packed[at] ^= draw(st.integers(1, 255))
            case "insert":
                packed[at:at] = draw(st.binary(min_size=1, max_size=40))
            case _:
                packed += packed[:at]
    return bytes(packed)


@st.composite
def made_up(draw: Any) -> bytes:
    """An envelope of other parts, some of them rightly signed."""
    said = {
        "federation": "fed",
        "job": "j",
        "round": 0,
        "name": "update",
        "sender": "north",
        "receiver": "coordinator",
        "digest": "",
    }
    for name in draw(st.lists(st.sampled_from(sorted(said)), max_size=3)):
        said[name] = draw(values)
    for name in draw(st.lists(st.text(max_size=8), max_size=1)):
        said[name] = draw(values)
    head = draw(st.one_of(st.just(msgpack.packb(said)), values))
    signed = KEYS["north"].sign(head) if isinstance(head, bytes) else SIGNATURE
    signature = draw(st.one_of(st.just(signed), values))
    parts = [head, signature, draw(st.one_of(st.just(BODY), values))]
    packed: bytes = msgpack.packb(draw(st.one_of(st.just(parts), values)))
    return packed


def survive(packed: bytes) -> None:
    """Open it as a receiver does; only what the sender signed comes out."""
    try:
        message = open_envelope(packed, PUBLIC, federation="fed", job="j", receiver="coordinator")
    except SecureError:
        return
    assert (message.body, message.header.sender) == (BODY, "north")


@pytest.mark.parametrize(
    "examples", [pytest.param(300, id="some"), pytest.param(10_000, marks=pytest.mark.large)]
)
def test_no_envelope_crashes_a_receiver_or_says_what_nobody_signed(examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.one_of(damaged(), made_up(), st.binary(max_size=400)))
    def fuzz(packed: bytes) -> None:
        survive(packed)

    fuzz()


@given(st.one_of(damaged(), made_up()), st.data())
@settings(deadline=None, max_examples=200)
def test_the_whole_way_in_bears_it_too(packed: bytes, data: Any) -> None:
    box = seal_for(PUBLIC["coordinator"], packed)
    assembler = Assembler()
    for chunk in split(box):
        wrong = bytearray(chunk)
        if data.draw(st.booleans()):
            wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            whole = assembler.add("north", bytes(wrong), None)
            if whole is not None:
                survive(unseal(KEYS["coordinator"], whole.sealed))
        except SecureError:
            continue

"""Messages: one encoding each, and a typed error for everything else."""

import dataclasses

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_silos import Play, facts

from secure.aggregation.messages import (
    Advertise,
    Consent,
    Consents,
    Delivery,
    EncryptedShares,
    MaskedInput,
    Opened,
    Roster,
    Shares,
    Survivors,
)
from secure.aggregation.packing import pack, unpack
from secure.errors import BadMessage, SecureError

KINDS = (
    Advertise,
    Roster,
    EncryptedShares,
    Shares,
    Delivery,
    MaskedInput,
    Survivors,
    Consent,
    Consents,
    Opened,
)


def _samples():
    """One honest message of each kind."""
    play = Play(facts(4)).until(2).until(5, {phase: ["silo-03"] for phase in (2, 3, 4)})
    of = play.facts
    sent = [phase["silo-00"] for phase in play.sent]
    mail = [play.history[phase]["silo-00"] for phase in range(4)]
    part = unpack(of, Delivery, mail[1]).sealed[0]
    return dict(
        zip(
            KINDS,
            (sent[0], mail[0], part, sent[1], mail[1], sent[2], mail[2], sent[3], mail[3], sent[4]),
            strict=True,
        )
    )


FACTS = facts(4)
SAMPLES = _samples()
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=9)
    | st.sampled_from(list(FACTS.members)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TYPE)


@kinds
def test_an_honest_message_is_read_and_packed_to_the_same_bytes(kind):
    message = unpack(FACTS, kind, SAMPLES[kind])
    assert pack(FACTS, message) == SAMPLES[kind]


@kinds
def test_an_unknown_or_missing_field_is_refused(kind):
    data = msgpack.unpackb(SAMPLES[kind])
    for changed in (
        data | {"more": 1},
        *({k: v for k, v in data.items() if k != gone} for gone in data),
        list(data.items()),
    ):
        with pytest.raises(BadMessage, match="other fields") as caught:
            unpack(FACTS, kind, msgpack.packb(changed))
        assert caught.value.code == "SECURE-002"


@kinds
def test_another_type_federation_job_round_or_member_list_is_refused(kind):
    data = msgpack.unpackb(SAMPLES[kind])
    for name, value in (
        ("type", "other"),
        ("federation", "x"),
        ("job", "x"),
        ("round", 1),
        ("round", False),
        ("round", 0.0),
        ("facts", bytes(32)),
        ("facts", "x"),
        ("type", b"advertise"),
    ):
        with pytest.raises(BadMessage) as caught:
            unpack(FACTS, kind, msgpack.packb(data | {name: value}))
        assert caught.value.field == name


@kinds
def test_two_encodings_of_one_content_are_not_both_read(kind):
    packed = SAMPLES[kind]
    data = msgpack.unpackb(packed)
    for other in (
        msgpack.packb(dict(reversed(list(data.items())))),
        packed + b"\0",
        packed[:-1],
        b"\xde" + len(data).to_bytes(2, "big") + packed[1:],  # the length of the map in 16 bits
        bytes([packed[0] + 1]) + packed[1:] + msgpack.packb("type") + msgpack.packb(kind.TYPE),
        b"",
    ):
        with pytest.raises(BadMessage):
            unpack(FACTS, kind, other)


@kinds
@settings(max_examples=60)
@given(data=st.data())
def test_no_field_takes_anything_else(kind, data):
    body = msgpack.unpackb(SAMPLES[kind])
    name = data.draw(st.sampled_from(sorted(body)))
    value = data.draw(ANYTHING)
    changed = body | {name: value}
    try:
        message = unpack(FACTS, kind, msgpack.packb(changed))
    except BadMessage:
        return
    # What is read is of the declared type and length.
    for item in dataclasses.fields(message):
        assert type(getattr(message, item.name)) is type(body[item.name])
        if type(body[item.name]) is bytes:
            assert len(getattr(message, item.name)) == len(body[item.name])


@kinds
@settings(max_examples=60)
@given(position=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_read_strictly(kind, position, flip):
    packed = bytearray(SAMPLES[kind])
    packed[position % len(packed)] ^= flip
    try:
        message = unpack(FACTS, kind, bytes(packed))
    except BadMessage:
        return
    assert pack(FACTS, message) == packed


@kinds
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(kind, noise):
    with pytest.raises(BadMessage):
        unpack(FACTS, kind, noise)


@settings(max_examples=100)
@given(ANYTHING)
def test_any_other_document_is_refused(document):
    for kind in KINDS:
        with pytest.raises(BadMessage):
            unpack(FACTS, kind, msgpack.packb(document))


@pytest.mark.parametrize(
    "packed",
    [
        b"\xdf\xff\xff\xff\xff",  # a map of four thousand million entries
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\xd6\xff\0\0\0\0",  # a timestamp
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\x81\x90\x00",  # a list as a key
    ],
)
def test_hostile_encodings_are_refused(packed):
    with pytest.raises(BadMessage):
        unpack(FACTS, Advertise, packed)


def test_a_message_too_large_is_refused_before_it_is_read():
    with pytest.raises(BadMessage, match="too large"):
        unpack(FACTS, Advertise, bytes(20_000))


@settings(max_examples=40, deadline=None)
@given(phase=st.integers(1, 4), position=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_no_flipped_byte_from_the_coordinator_changes_what_a_silo_does(phase, position, flip):
    play = Play(facts(4)).until(phase)
    packed = bytearray(play.mail["silo-00"])
    packed[position % len(packed)] ^= flip
    play.mail["silo-00"] = bytes(packed)
    with pytest.raises(SecureError):
        play.answer("silo-00")


@pytest.mark.parametrize("phase", range(5))
@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_no_flipped_byte_from_a_silo_is_taken_unless_it_is_the_masked_vector(phase, position, flip):
    play = Play(facts(4)).until(phase)
    packed = bytearray(play.answer("silo-00"))
    at = position % (len(packed) - (play.facts.size if phase == 2 else 0))
    packed[at] ^= flip
    with pytest.raises(SecureError):
        play.server.receive("silo-00", bytes(packed))


def test_bytes_show_in_no_repr():
    for kind in KINDS:
        message = unpack(FACTS, kind, SAMPLES[kind])
        for item in dataclasses.fields(message):
            value = getattr(message, item.name)
            if type(value) is bytes:
                assert repr(value) not in repr(message)
            if type(value) is dict:
                assert "b'" not in repr(message) and 'b"' not in repr(message)

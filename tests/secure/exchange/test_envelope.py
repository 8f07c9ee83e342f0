"""Envelopes: bound to federation, job, sender, receiver and body, and strict about all of it."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure.errors import BadMessage, BadSignature, SecureError
from secure.exchange.envelope import Header, open_envelope, seal
from secure.exchange.sealing import seal_for, unseal
from secure.keys import SigningKey

KEYS = {name: SigningKey.generate() for name in ("coordinator", "north", "south")}
PUBLIC = {name: key.public for name, key in KEYS.items()}


def sealed(body=b"body", sender="north", receiver="coordinator", job="j", key=None):
    header = Header("fed", job, 0, "update", sender, receiver)
    return seal(header, body, key or KEYS[sender])


def opened(packed, federation="fed"):
    return open_envelope(packed, PUBLIC, federation=federation, job="j", receiver="coordinator")


def test_an_honest_envelope_opens():
    assert opened(sealed()).body == b"body"


def test_another_signer_receiver_federation_job_or_body_is_refused():
    with pytest.raises(BadSignature):
        opened(sealed(key=KEYS["south"]))
    with pytest.raises(BadMessage, match="somebody else"):
        opened(sealed(receiver="south"))
    with pytest.raises(BadMessage, match="somebody else"):
        opened(sealed(), federation="other")
    with pytest.raises(BadMessage, match="another job"):
        opened(sealed(job="another"))
    head, signature, _ = msgpack.unpackb(sealed())
    with pytest.raises(BadMessage, match="not the one that was signed"):
        opened(msgpack.packb([head, signature, b"other"]))


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unseen(position, flip):
    packed = bytearray(sealed())
    packed[position % len(packed)] ^= flip
    with pytest.raises(SecureError):
        opened(bytes(packed))


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_typed_error(noise):
    with pytest.raises(SecureError):
        opened(noise)
    with pytest.raises(BadMessage):
        unseal(KEYS["north"], noise)


@given(body=st.binary(max_size=300), flip=st.integers(1, 255), position=st.integers(0, 1000))
def test_only_the_receiver_opens_what_was_sealed_and_only_undamaged(body, flip, position):
    box = bytearray(seal_for(PUBLIC["north"], body))
    assert unseal(KEYS["north"], bytes(box)) == body
    with pytest.raises(BadMessage):
        unseal(KEYS["south"], bytes(box))
    box[position % len(box)] ^= flip
    with pytest.raises(BadMessage):
        unseal(KEYS["north"], bytes(box))

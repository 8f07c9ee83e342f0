"""The contract of an exchange, over every back end there is."""

import threading
import time

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure.errors import BadMessage, BadSignature, ExchangeClosed, ExchangeTimeout, SecureError
from secure.exchange.envelope import Header, open_envelope, seal
from secure.exchange.memory import MemoryExchange
from secure.keys import SigningKey

KEYS = {name: SigningKey.generate() for name in ("coordinator", "north", "south")}
PUBLIC = {name: key.public for name, key in KEYS.items()}


def memory():
    hub = MemoryExchange("fed", PUBLIC)
    return {name: hub.endpoint(name, key) for name, key in KEYS.items()}


@pytest.fixture(params=[memory])
def ends(request):
    return request.param()


def test_messages_arrive_in_order_with_their_header(ends):
    for i in range(3):
        ends["coordinator"].send("north", job="j", round=i, name="update", body=bytes([i]))
    for i in range(3):
        message = ends["north"].receive(deadline=1)
        assert message.body == bytes([i])
        assert (message.header.round, message.header.sender) == (i, "coordinator")


def test_a_deadline_is_kept(ends):
    begun = time.monotonic()
    with pytest.raises(ExchangeTimeout):
        ends["north"].receive(deadline=0.05)
    assert 0.04 < time.monotonic() - begun < 2


def test_closing_wakes_the_one_that_waits(ends):
    seen = []

    def wait():
        try:
            ends["north"].receive(deadline=30)
        except ExchangeClosed as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ends["north"].close()
    thread.join(5)
    assert seen


def test_a_stranger_cannot_be_written_to(ends):
    with pytest.raises(ExchangeClosed):
        ends["north"].send("nobody", job="j", round=0, name="x", body=b"")


def sealed(body=b"body", sender="north", receiver="coordinator", key=None):
    header = Header("fed", "j", 0, "update", sender, receiver)
    return seal(header, body, key or KEYS[sender])


def opened(packed):
    return open_envelope(packed, PUBLIC, federation="fed", receiver="coordinator")


def test_an_honest_envelope_opens():
    assert opened(sealed()).body == b"body"


def test_another_signer_receiver_federation_or_body_is_refused():
    with pytest.raises(BadSignature):
        opened(sealed(key=KEYS["south"]))
    with pytest.raises(BadMessage, match="somebody else"):
        opened(sealed(receiver="south"))
    with pytest.raises(BadMessage, match="somebody else"):
        open_envelope(sealed(), PUBLIC, federation="other", receiver="coordinator")
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

"""The contract of an exchange, over every back end there is."""

import threading
import time

import pytest
from tests_backends import FEDERATION, KEYS

from secure.errors import BadMessage, BadSignature, ExchangeClosed, ExchangeTimeout
from secure.exchange.envelope import Header, seal
from secure.keys import SigningKey


def test_messages_arrive_in_order_with_their_header(exchange):
    coordinator, north = exchange.open("coordinator"), exchange.open("north")
    for i in range(3):
        coordinator.send("north", round=i, name="update", body=bytes([i]))
    for i in range(3):
        message = north.receive(deadline=5)
        assert message.body == bytes([i])
        header = message.header
        assert (header.round, header.sender, header.job) == (i, "coordinator", exchange.job)
        north.acknowledge(message)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 200, (1 << 20) + 1, 9 << 20])
def test_a_body_of_any_size_arrives_whole(exchange, size):
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    exchange.open("north").send("coordinator", round=0, name="update", body=body)
    assert exchange.open("coordinator").receive(deadline=20).body == body


def test_messages_of_two_senders_do_not_mix(exchange):
    size, coordinator = 5 << 20, exchange.open("coordinator")
    threads = [
        threading.Thread(
            target=exchange.open(party).send,
            args=("coordinator",),
            kwargs={"round": 0, "name": "update", "body": party[:1].encode() * size},
        )
        for party in ("north", "south")
    ]
    for thread in threads:
        thread.start()
    got = {}
    while len(got) < 2:
        message = coordinator.receive(deadline=20)
        got[message.header.sender] = message.body
        coordinator.acknowledge(message)
    assert got == {"north": b"n" * size, "south": b"s" * size}
    for thread in threads:
        thread.join()


def test_a_deadline_is_kept(exchange):
    north, begun = exchange.open("north"), time.monotonic()
    with pytest.raises(ExchangeTimeout):
        north.receive(deadline=0.05)
    assert 0.04 < time.monotonic() - begun < 2


def test_closing_wakes_the_one_that_waits(exchange):
    north, seen = exchange.open("north"), []

    def wait():
        try:
            north.receive(deadline=30)
        except ExchangeClosed as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    north.close()
    thread.join(5)
    assert seen
    with pytest.raises(ExchangeClosed):
        north.receive(deadline=1)


def test_a_stranger_cannot_be_written_to(exchange):
    with pytest.raises(ExchangeClosed):
        exchange.open("north").send("nobody", round=0, name="x", body=b"")


def test_a_message_waits_for_a_receiver_that_is_not_there_yet_and_outlives_its_sender(exchange):
    sender = exchange.open("coordinator")
    sender.send("north", round=0, name="update", body=b"early")
    sender.close()
    assert exchange.open("north").receive(deadline=5).body == b"early"


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(exchange, size):
    coordinator, north = exchange.open("coordinator"), exchange.open("north")
    for i in range(2):
        coordinator.send("north", round=i, name="update", body=bytes([i]) * size)
    north.acknowledge(north.receive(deadline=10))
    assert north.receive(deadline=10).header.round == 1
    north.close()  # it died with that one in its hands
    again = exchange.open("north")
    message = again.receive(deadline=10 + exchange.patience)
    assert (message.header.round, message.body) == (1, b"\1" * size)
    again.acknowledge(message)
    again.close()
    with pytest.raises(ExchangeTimeout):
        exchange.open("north").receive(deadline=0.1 + 2 * exchange.patience)


def envelope(exchange, key, **changes):
    said = {
        "federation": FEDERATION,
        "job": exchange.job,
        "round": 0,
        "name": "update",
        "sender": "north",
        "receiver": "coordinator",
    }
    return seal(Header(**(said | changes)), b"body", key)


@pytest.mark.parametrize(
    ("key", "changes", "error"),
    [
        (SigningKey.generate(), {}, BadSignature),
        (KEYS["south"], {}, BadSignature),
        (KEYS["north"], {"federation": "other"}, BadMessage),
        (KEYS["north"], {"job": "another"}, BadMessage),
        (KEYS["north"], {"receiver": "south"}, BadMessage),
        (KEYS["north"], {"sender": "nobody"}, BadMessage),
    ],
)
def test_what_is_not_valid_is_told_once_and_does_not_come_again(exchange, key, changes, error):
    exchange.put("north", "coordinator", envelope(exchange, key, **changes))
    exchange.open("north").send("coordinator", round=7, name="update", body=b"good")
    coordinator = exchange.open("coordinator")
    with pytest.raises(error):
        coordinator.receive(deadline=5)
    assert coordinator.receive(deadline=5).header.round == 7
    coordinator.close()
    time.sleep(exchange.patience)
    assert exchange.open("coordinator").receive(deadline=5).header.round == 7

"""A coordinator that asks for more, silos that send what they must not: a typed error each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_encrypting import KEYS, Play, silo, terms, vectors

from secure.aggregation.ckks.coordinator import Adder, roster_of
from secure.aggregation.ckks.facts import SEED
from secure.aggregation.ckks.messages import (
    Advert,
    Deal,
    Encrypted,
    Half,
    Opened,
    Opening,
    Roster,
)
from secure.aggregation.ckks.parameters import DATA, DEGREE
from secure.aggregation.ckks.residues import from_bytes, to_bytes
from secure.aggregation.ckks.silo import Silo
from secure.aggregation.packing import pack, signed, unpack
from secure.errors import BadMessage, BadSignature, RoundRefused, SecureError

TERMS = terms(4)
PLAY = Play(TERMS)
INPUTS = vectors(TERMS)
SENT = [PLAY.encrypted(round, INPUTS) for round in (0, 1)]
OPENING = [PLAY.added(round, SENT[round]).opening() for round in (0, 1)]
ANSWERS = PLAY.opened(0, OPENING[0])
FACTS = TERMS.at(0)
HALVES = unpack(FACTS, Opening, OPENING[0]).halves


def opening(halves: list[bytes]) -> bytes:
    return pack(FACTS, Opening(halves))


def resigned(half: bytes, key: str, **changes: Any) -> bytes:
    changed = replace(unpack(FACTS, Half, half), **changes)
    return pack(FACTS, signed(FACTS, changed, KEYS[key]))


# A coordinator


@pytest.mark.parametrize(
    "asked",
    [
        opening(HALVES[:3]),
        opening(HALVES[:1]),
        opening([HALVES[0]] * 4),
        opening([HALVES[0], *HALVES[:3]]),
        opening([HALVES[1], HALVES[0], *HALVES[2:]]),
        opening([]),
    ],
    ids=["without one", "one alone", "one four times", "one twice", "another order", "none"],
)
def test_nothing_is_opened_but_the_sum_of_all(asked: bytes) -> None:
    with pytest.raises(BadMessage):
        PLAY.silos["silo-00"].open(PLAY.deal, 0, asked)


@pytest.mark.parametrize(
    "half",
    [
        resigned(HALVES[3], "silo-00"),  # signed by another
        resigned(HALVES[3], "silo-00", sender="silo-00"),  # of another, with its signature
        pack(FACTS, replace(unpack(FACTS, Half, HALVES[3]), seeds=bytes(SEED))),  # not signed
        unpack(TERMS.at(1), Opening, OPENING[1]).halves[3],  # of another round
        pack(FACTS, replace(unpack(FACTS, Half, HALVES[3]), signature=bytes(64))),
    ],
)
def test_a_half_that_its_silo_did_not_sign_for_the_round_opens_nothing(half: bytes) -> None:
    with pytest.raises((BadMessage, BadSignature)):
        PLAY.silos["silo-00"].open(PLAY.deal, 0, opening([*HALVES[:3], half]))


@pytest.mark.parametrize(
    "other", [{"job": "another"}, {"federation": "another"}, {"rounds": 5}, {"length": 6}]
)
def test_nothing_of_another_job_is_taken(other: dict[str, Any]) -> None:
    strange = Play(terms(4, **other))
    for step in (
        lambda s: s.open(strange.deal, 0, OPENING[0]),
        lambda s: s.encrypt(strange.deal, 0, INPUTS["silo-01"]),
        lambda s: s.open(PLAY.deal, 1, OPENING[0]),
    ):
        with pytest.raises(BadMessage):
            step(silo(TERMS, "silo-01"))
    with pytest.raises(BadMessage):
        Adder(FACTS).receive("silo-01", SENT[1]["silo-01"])


def dealt(sender: str, **changes: Any) -> bytes:
    deal = replace(unpack(TERMS, Deal, PLAY.deal), **({"sender": sender} | changes))
    return pack(TERMS, signed(TERMS, deal, KEYS[sender]))


def test_a_key_comes_from_the_first_silo_only() -> None:
    mallory = terms(4)
    own = Silo(mallory, "silo-03", KEYS["silo-03"], bytes(32))
    for deal, error in (
        (dealt("silo-03"), BadMessage),
        (pack(TERMS, replace(unpack(TERMS, Deal, PLAY.deal), key=bytes(32))), BadSignature),
        (dealt("silo-00", key=unpack(TERMS, Advert, own.advertise()).key), BadMessage),
        (dealt("silo-00", sealed={}), BadMessage),
        (dealt("silo-00", key=bytes(32)), BadMessage),  # a point of small order
    ):
        with pytest.raises(error):
            silo(TERMS, "silo-01").encrypt(deal, 0, INPUTS["silo-01"])


def test_a_roster_holds_every_silo_once_and_signed() -> None:
    adverts = PLAY.adverts
    names = list(adverts)
    swapped = adverts | {"silo-01": adverts["silo-02"]}
    with pytest.raises(BadMessage):
        roster_of(TERMS, swapped)
    forged = pack(TERMS, replace(unpack(TERMS, Advert, adverts["silo-01"]), key=bytes([9]) * 32))
    with pytest.raises(BadSignature):
        PLAY.silos["silo-00"].deal(
            pack(TERMS, Roster([adverts[names[0]], forged, *(adverts[n] for n in names[2:])]))
        )
    for kept in (names[:3], [*names, names[0]], names[::-1]):
        with pytest.raises(BadMessage):
            PLAY.silos["silo-00"].deal(pack(TERMS, Roster([adverts[n] for n in kept])))


def test_a_job_has_one_key() -> None:
    """A hostile first silo that deals twice: whoever has the first key takes no second."""
    other = Silo(TERMS, "silo-00", KEYS["silo-00"], b"another secret".ljust(32))
    second = other.deal(roster_of(TERMS, PLAY.adverts | {"silo-00": other.advertise()}))
    honest = silo(TERMS, "silo-01")
    honest.encrypt(PLAY.deal, 0, INPUTS["silo-01"])
    with pytest.raises(RoundRefused, match="one key"):
        honest.encrypt(second, 1, INPUTS["silo-01"])


def test_another_list_of_a_round_gets_another_flood() -> None:
    """A silo that signs twice: the difference of what is opened still hides the key."""
    seeds = [bytes(SEED), unpack(FACTS, Half, HALVES[3]).seeds]
    opener = PLAY.silos["silo-00"]
    opened = []
    for own in seeds:
        asked = opening([*HALVES[:3], resigned(HALVES[3], "silo-03", seeds=own)])
        opened.append(unpack(FACTS, Opened, opener.open(PLAY.deal, 0, asked)).values)
    primes = np.array(DATA, dtype=np.uint64)[:, None]
    key = opener._held(PLAY.deal)
    first, second = (from_bytes(one, 2, TERMS.length) for one in opened)
    apart = (first + primes - second) % primes
    known = (key.times(seeds[:1]) + primes - key.times(seeds[1:])) % primes
    assert not (apart == known[:, : TERMS.length]).any()


# Silos


def encrypted(values: np.ndarray) -> bytes:
    message = unpack(FACTS, Encrypted, SENT[0]["silo-01"])
    return pack(FACTS, replace(message, values=to_bytes(values)))


def test_a_residue_beyond_its_prime_is_refused() -> None:
    words = from_bytes(unpack(FACTS, Encrypted, SENT[0]["silo-01"]).values, 1, 2, DEGREE).copy()
    Adder(FACTS).receive("silo-01", encrypted(words))
    words[0, 1, 7] = DATA[1]
    with pytest.raises(BadMessage, match="below its prime"):
        Adder(FACTS).receive("silo-01", encrypted(words))


def test_a_silo_is_in_a_sum_once_and_by_its_own_name() -> None:
    adder = Adder(FACTS)
    adder.receive("silo-01", SENT[0]["silo-01"])
    with pytest.raises(RoundRefused, match="already"):
        adder.receive("silo-01", SENT[0]["silo-01"])
    with pytest.raises(BadMessage, match="sent a message of"):
        adder.receive("silo-02", SENT[0]["silo-03"])
    with pytest.raises(RoundRefused, match="without some silo"):
        adder.opening()


def answers(change: Callable[[np.ndarray], np.ndarray], both: bool) -> dict[str, bytes]:
    values = unpack(FACTS, Opened, ANSWERS["silo-00"]).values
    residues = change(from_bytes(values, 2, TERMS.length).copy())
    forged = pack(FACTS, Opened(to_bytes(residues)))
    return {"silo-00": forged, "silo-01": forged if both else ANSWERS["silo-01"]}


def step(residues: np.ndarray) -> np.ndarray:
    """Another sum on the grid: one of the two alone cannot pass it off."""
    primes = np.array(DATA, dtype=np.uint64)[:, None]
    grid = np.array([[pow(2, TERMS.budget.shift, prime)] for prime in DATA], dtype=np.uint64)
    return (residues + grid) % primes


def test_who_opens_wrongly_is_noticed() -> None:
    adder = PLAY.added(0, SENT[0])
    np.testing.assert_array_equal(adder.total(ANSWERS), sum(INPUTS.values()))
    with pytest.raises(BadMessage, match="same sum"):
        adder.total(answers(step, both=False))
    with pytest.raises(BadMessage, match=r"grid|range"):
        adder.total(answers(lambda residues: residues[::-1] % DATA[0] % DATA[1], both=True))
    with pytest.raises(RoundRefused, match="two silos"):
        adder.total({"silo-00": ANSWERS["silo-00"]})
    # Both together are believed: that is what the package says.
    np.testing.assert_array_equal(adder.total(answers(step, both=True)), sum(INPUTS.values()) + 1)


def test_a_ciphertext_under_another_key_is_noticed() -> None:
    other = Silo(TERMS, "silo-00", KEYS["silo-00"], b"another secret".ljust(32))
    second = other.deal(roster_of(TERMS, PLAY.adverts | {"silo-00": other.advertise()}))
    sent = SENT[0] | {"silo-02": silo(TERMS, "silo-02").encrypt(second, 0, INPUTS["silo-02"])}
    adder = PLAY.added(0, sent)
    with pytest.raises(BadMessage, match=r"grid|range"):
        adder.total(PLAY.opened(0, adder.opening()))


# Bytes that are no message

READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "encrypted": (SENT[0]["silo-02"], lambda b: Adder(FACTS).receive("silo-02", b)),
    "roster": (roster_of(TERMS, PLAY.adverts), PLAY.silos["silo-00"].deal),
    "deal": (
        PLAY.deal,
        lambda b: PLAY.silos["silo-01"].encrypt(b, 0, INPUTS["silo-01"]),
    ),
    "opening": (OPENING[0], lambda b: PLAY.silos["silo-00"].open(PLAY.deal, 0, b)),
    "opened": (
        ANSWERS["silo-00"],
        lambda b: PLAY.added(0, SENT[0]).total({"silo-00": b, "silo-01": ANSWERS["silo-01"]}),
    ),
}


def tampered(name: str, at: float, change: int, cut: float, more: bytes) -> None:
    honest, read = READERS[name]
    body = bytearray(honest)
    body[int(at * (len(body) - 1))] ^= change
    wrong = bytes(body[: int(len(body) * cut)]) + more
    if wrong == honest:
        return
    try:
        read(wrong)
    except SecureError as error:
        assert error.code.startswith("SECURE-")
    else:
        # Only residues are not bound by a signature here: the envelope's binds them.
        assert name == "encrypted" and len(wrong) == len(honest)


WAYS = (
    st.sampled_from(sorted(READERS)),
    st.floats(0, 1),
    st.integers(0, 255),
    st.sampled_from([1.0, 1.0, 1.0, 0.99, 0.5, 0.0]),
    st.binary(max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(*WAYS)
def test_tampered_bytes_raise_a_typed_error(
    name: str, at: float, change: int, cut: float, more: bytes
) -> None:
    tampered(name, at, change, cut, more)


@pytest.mark.large
@settings(max_examples=10_000, deadline=None)
@given(*WAYS)
def test_ten_thousand_tampered_messages(
    name: str, at: float, change: int, cut: float, more: bytes
) -> None:
    tampered(name, at, change, cut, more)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200))
def test_any_bytes_raise_a_typed_error(name: str, body: bytes) -> None:
    with pytest.raises(SecureError):
        READERS[name][1](body)


@pytest.mark.parametrize("name", sorted(READERS))
def test_bytes_beyond_the_limit_are_not_read(name: str) -> None:
    with pytest.raises(BadMessage, match="too large"):
        READERS[name][1](msgpack.packb(bytes(TERMS.limit)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=SEED, max_size=SEED), min_size=1, max_size=4))
def test_any_seed_is_expanded(seeds: list[bytes]) -> None:
    """What a hostile silo has in its hand of what SEAL reads."""
    key = PLAY.silos["silo-00"]._held(PLAY.deal)
    assert key.times(seeds).shape == (2, DEGREE)

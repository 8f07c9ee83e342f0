"""Shamir's scheme against closed forms, an independent inversion, and every other secret."""

import itertools

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from secure.aggregation import shamir
from secure.aggregation.shamir import PRIME, combine, element, lagrange, split
from secure.errors import BadMessage, BadParameters

SECRETS = st.binary(min_size=32, max_size=32)


def test_the_prime_is_the_least_above_two_to_the_256():
    assert sympy.isprime(PRIME)
    assert sympy.nextprime(1 << 256) == PRIME


def test_a_line_and_a_parabola(monkeypatch):
    drawn = itertools.cycle([7, 11])
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda limit: next(drawn))
    line = split((5).to_bytes(32, "big"), 2, 3)
    assert [element(share) for share in line] == [12, 19, 26]  # 5 + 7x
    drawn = itertools.cycle([7, 11])
    parabola = split((5).to_bytes(32, "big"), 3, 3)
    assert [element(share) for share in parabola] == [23, 63, 125]  # 5 + 7x + 11x^2


def test_weights_at_zero_in_closed_form():
    # Over 1..k the weight of i is (-1)^(i+1) binomial(k, i).
    assert lagrange([1, 2, 3, 4]) == [4, -6 % PRIME, 4, -1 % PRIME]


@given(SECRETS, st.data())
def test_any_threshold_of_shares_gives_the_secret(secret, data):
    silos = data.draw(st.integers(1, 64))
    threshold = data.draw(st.integers(1, silos))
    shares = split(secret, threshold, silos)
    count = data.draw(st.integers(threshold, silos))
    at = data.draw(st.permutations(range(1, silos + 1)))[:count]
    assert combine({point: shares[point - 1] for point in at}) == secret


@given(SECRETS, SECRETS, st.integers(2, 9), st.data())
def test_one_share_fewer_is_consistent_with_every_secret(secret, other, threshold, data):
    silos = data.draw(st.integers(threshold, 12))
    shares = split(secret, threshold, silos)
    known = data.draw(st.permutations(range(1, silos + 1)))[: threshold - 1]
    # Solve for the last share that makes the known ones shares of the other secret.
    missing = next(i for i in range(1, silos + 1) if i not in known)
    weights = dict(zip([*known, missing], lagrange([*known, missing]), strict=True))
    partial = sum(weights[i] * element(shares[i - 1]) for i in known)
    value = (int.from_bytes(other, "big") - partial) * pow(weights[missing], -1, PRIME) % PRIME
    forged = {i: shares[i - 1] for i in known} | {missing: value.to_bytes(33, "big")}
    assert combine(forged) == other


def test_shares_of_one_secret_differ_each_time():
    assert split(bytes(32), 2, 3) != split(bytes(32), 2, 3)


def test_what_is_no_share_is_refused():
    shares = split(bytes(32), 2, 3)
    for bad in (shares[0][:-1], b"\0" + shares[0], PRIME.to_bytes(33, "big"), b"\xff" * 33):
        with pytest.raises(BadMessage):
            combine({1: bad, 2: shares[1]})
    with pytest.raises(BadMessage):  # the constant 2^256 is in the field, and no secret
        combine({1: (1 << 256).to_bytes(33, "big")})
    for secret, threshold, silos in ((bytes(31), 2, 3), (bytes(32), 4, 3), (bytes(32), 0, 3)):
        with pytest.raises(BadParameters):
            split(secret, threshold, silos)

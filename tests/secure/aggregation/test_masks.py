"""Masks: the standards' own vectors, both sides alike, and masked vectors that look uniform."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests_silos import KEYS, Play, facts

from secure.aggregation import masks
from secure.aggregation.messages import MaskedInput
from secure.aggregation.packing import unpack
from secure.errors import BadMessage

FALSE_ALARM = 1e-6


def test_the_key_stream_of_rfc_8439():
    # RFC 8439, appendix A.1, test vector 1: key 0, nonce 0, block counter 0.
    total = np.zeros(4, dtype="<u4")
    masks.apply(total, bytes(32))
    assert total.tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_key_agreement_of_rfc_7748():
    # RFC 7748, section 5.2, first vector.
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    agreed = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert masks.agree(scalar, point).hex() == agreed


@given(st.integers(1, 50_000), st.sampled_from([32, 64]), st.binary(min_size=32, max_size=32))
def test_a_mask_is_one_key_stream_and_leaves_by_subtraction(length, bits, key):
    total = np.arange(length, dtype=f"<u{bits // 8}")
    masks.apply(total, key)
    prefix = np.zeros(min(length, 7), dtype=total.dtype)
    masks.apply(prefix, key)
    np.testing.assert_array_equal(total[:7], prefix + np.arange(len(prefix), dtype=total.dtype))
    masks.apply(total, key, subtract=True)
    np.testing.assert_array_equal(total, np.arange(length))


def test_a_pair_has_one_key_and_each_round_use_and_pair_its_own():
    here = facts(3)
    a, b = bytes([1]) * 32, bytes([2]) * 32
    key = masks.pair_key(here, a, masks.public_of(b), "silo-00", "silo-01")
    assert key == masks.pair_key(here, b, masks.public_of(a), "silo-01", "silo-00")
    members = {name: KEYS[name].public for name in ("silo-00", "silo-01", "silo-03")}
    others = [
        masks.pair_key(elsewhere, a, masks.public_of(b), "silo-00", "silo-01")
        for elsewhere in (
            facts(3, number=1),
            facts(3, job="other"),
            facts(3, federation="other"),
            facts(4),
            facts(3, members=members),
        )
    ]
    others.append(masks.pair_key(here, a, masks.public_of(b), "silo-00", "silo-02"))
    others.append(masks.derive(here, "shares", masks.agree(a, masks.public_of(b)), "silo-00"))
    assert len({key, *others}) == 8


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_a_public_key_of_small_order_is_refused(point):
    with pytest.raises(BadMessage, match="nothing secret"):
        masks.agree(bytes([1]) * 32, point)


def test_encrypted_shares_open_only_where_they_were_meant():
    sealed = masks.seal_shares(bytes(32), bytes(66), b"bound")
    assert len(sealed) == masks.SEALED
    assert masks.open_shares(bytes(32), sealed, b"bound") == bytes(66)
    for key, changed, bound in (
        (bytes([1]) * 32, sealed, b"bound"),
        (bytes(32), sealed[:-1] + bytes([sealed[-1] ^ 1]), b"bound"),
        (bytes(32), sealed, b"other"),
    ):
        with pytest.raises(BadMessage, match="does not open"):
            masks.open_shares(key, changed, bound)
    with pytest.raises(BadMessage, match="length"):
        masks.open_shares(bytes(32), masks.seal_shares(bytes(32), bytes(65), b""), b"")


@pytest.mark.parametrize("value", [0, 1000])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_masked_vector_alone_is_uniform(value, bits):
    # Every byte of y_u, for a constant input: chi-square with 255 degrees of freedom.
    round_ = facts(3, length=40_000, bits=bits)
    inputs = {name: np.full(round_.length, value) for name in round_.members}
    play = Play(round_, inputs).until(3)
    limit = stats.chi2.isf(FALSE_ALARM / 12, 255)
    for packed in play.sent[2].values():
        values = np.frombuffer(unpack(round_, MaskedInput, packed).values, dtype=np.uint8)
        counts = np.bincount(values, minlength=256)
        expected = len(values) / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < limit


def test_two_inputs_give_the_same_distribution():
    # Two samples of the top byte of one value of y_u, over rounds with fresh keys.
    tops = []
    for value in (-1000, 1000):
        round_ = facts(3, length=1)
        drawn = []
        for _ in range(300):
            play = Play(round_, {name: np.array([value]) for name in round_.members}).until(3)
            drawn += [
                unpack(round_, MaskedInput, packed).values[3] // 16
                for packed in play.sent[2].values()
            ]
        tops.append(np.bincount(drawn, minlength=16))
    statistic = stats.chi2_contingency(np.array(tops)).statistic
    assert statistic < stats.chi2.isf(FALSE_ALARM, 15)
    assert math.isfinite(statistic)

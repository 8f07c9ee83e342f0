"""The sum: bit-equal to the plain one for any drop-outs above the threshold, nothing below it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_silos import Play, facts, vectors

from secure.aggregation import masks
from secure.aggregation.messages import MaskedInput
from secure.aggregation.packing import unpack
from secure.aggregation.quantize import Quantizer
from secure.aggregation.server import PHASES
from secure.errors import BadParameters, RoundRefused, TooFewSilos


@st.composite
def rounds(draw):
    """Members, modulus, bound, inputs, and who leaves before which phase, t remaining."""
    n = draw(st.integers(3, 9))
    bits = draw(st.sampled_from([32, 64]))
    bound = draw(st.integers(1, min((1 << (bits - 1)) // n - 1, 1 << 61)))
    of = facts(n, bits=bits, bound=bound, length=draw(st.integers(1, 40)))
    names = draw(st.permutations(list(of.members)))
    leave: dict[int, list[str]] = {}
    for name in names[: n - of.threshold]:
        leave.setdefault(draw(st.integers(0, 5)), []).append(name)
    gone: list[str] = []
    for phase in range(5):
        gone += leave.get(phase, [])
        leave[phase] = list(gone)
    ends = draw(st.booleans())
    if ends:  # every value at one end: the largest sum there is
        inputs = {
            name: np.full(of.length, draw(st.sampled_from([-bound, bound]))) for name in names
        }
    else:
        inputs = vectors(of, draw(st.integers(0, 1 << 32)))
    return of, inputs, leave


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_the_sum_is_the_plain_sum_of_the_survivors(drawn):
    of, inputs, leave = drawn
    play = Play(of, inputs).until(5, leave)
    assert play.server.survivors == sorted(set(of.members) - set(leave[2]))
    np.testing.assert_array_equal(play.server.total(), play.plain())
    np.testing.assert_array_equal(play.server.total(), play.plain())  # asked again


@pytest.mark.large
def test_every_way_in_which_four_silos_can_leave():
    # Each silo leaves before one of the five phases, or stays: 6^4 ways, all of them.
    names = list(facts(4).members)
    whole = 0
    for ways in itertools.product(range(6), repeat=4):
        leave = {
            phase: [name for name, at in zip(names, ways, strict=True) if at <= phase]
            for phase in range(5)
        }
        play = Play(facts(4))
        if len(leave[4]) > 1:
            with pytest.raises(TooFewSilos):
                play.until(5, leave)
            with pytest.raises(RoundRefused):
                play.server.total()
        else:
            np.testing.assert_array_equal(play.until(5, leave).server.total(), play.plain())
            whole += 1
    assert whole == 1 + 4 * 5


def test_sixty_four_silos_of_which_twenty_one_leave():
    of = facts(64)
    names = list(of.members)
    leave = {0: names[:5], 1: names[:9], 2: names[:15], 3: names[:18], 4: names[:21]}
    play = Play(of).until(5, leave)
    assert len(play.server.survivors) == 49
    np.testing.assert_array_equal(play.server.total(), play.plain())


@pytest.mark.parametrize("n", [3, 4, 7])
@pytest.mark.parametrize("phase", range(5))
def test_below_the_threshold_nothing_is_opened(n, phase):
    of = facts(n)
    play = Play(of).until(phase)
    gone = list(of.members)[: n - of.threshold + 1]
    with pytest.raises(TooFewSilos) as caught:
        play.phase(gone)
    assert caught.value.value == of.threshold - 1
    assert play.server.phase == phase
    with pytest.raises(RoundRefused, match="no sum"):
        play.server.total()


def test_a_late_message_finishes_the_phase_that_was_short():
    play = Play(facts(3))
    with pytest.raises(TooFewSilos):
        play.phase(["silo-02"])
    play.server.receive("silo-02", play.silos["silo-02"].advertise())
    play.mail = play.server.advance()
    play.until(5)
    np.testing.assert_array_equal(play.server.total(), play.plain())


def test_a_masked_vector_that_comes_too_late_stays_masked():
    # The drop-out's mask key is opened, so its pair masks are known; its own mask is not.
    of, late = facts(4), "silo-03"
    play = Play(of).until(2)
    packed = play.answer(late)
    secrets = play.silos[late]._state
    play.until(5, {phase: [late] for phase in range(5)})
    before = play.server.total()
    with pytest.raises(RoundRefused):
        play.server.receive(late, packed)
    np.testing.assert_array_equal(play.server.total(), before)
    values = np.frombuffer(unpack(of, MaskedInput, packed).values, dtype=of.dtype).copy()
    for name in play.server.survivors:
        public = play.server._mask_keys[name]
        key = masks.pair_key(of, secrets.mask_secret, public, late, name)
        masks.apply(values, key, subtract=late < name)
    assert (values != play.inputs[late].astype(of.dtype)).all()
    masks.apply(values, masks.self_key(of, secrets.seed, late), subtract=True)
    np.testing.assert_array_equal(values, play.inputs[late].astype(of.dtype))


def test_the_same_bytes_again_change_nothing_and_others_are_refused():
    play = Play(facts(3)).until(2)
    first = {name: play.answer(name) for name in play.silos}
    for _ in range(2):
        for name, packed in first.items():
            play.server.receive(name, packed)
    with pytest.raises(RoundRefused, match="otherwise"):
        play.server.receive("silo-00", first["silo-01"])
    play.mail = play.server.advance()
    play.until(5)
    np.testing.assert_array_equal(play.server.total(), play.plain())


def test_the_coordinator_says_for_whom_it_waits():
    play = Play(facts(4))
    assert play.server.waiting() == set(play.silos)
    play.until(3, {0: [], 1: [], 2: ["silo-03"]})
    assert play.server.waiting() == set(play.silos) - {"silo-03"}
    play.until(5, {3: ["silo-03"], 4: ["silo-03"]})
    assert play.server.waiting() == frozenset()
    with pytest.raises(RoundRefused, match="over"):
        play.server.advance()
    assert len(PHASES) == play.server.phase


@pytest.mark.parametrize("bits", [32, 64])
def test_reals_come_back_within_the_stated_error(bits):
    rng = np.random.default_rng(3)
    quantizer = Quantizer(8.0, 1 << 22)
    of = facts(5, length=1000, bits=bits, bound=quantizer.bound)
    reals = {name: rng.uniform(-8, 8, 1000) for name in of.members}
    inputs = {name: quantizer.quantize(values).values for name, values in reals.items()}
    play = Play(of, inputs).until(5)
    error = np.abs(quantizer.dequantize(play.server.total()) - sum(reals.values()))
    assert error.max() <= quantizer.max_error(5)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(4, dtype=np.int64),
        np.zeros((5, 1), dtype=np.int64),
        np.zeros(5),
        np.array([0, 0, 0, 0, 1001]),
        np.array([0, 0, 0, 0, -1001]),
        np.full(5, -(1 << 63)),
    ],
)
def test_vectors_that_the_round_does_not_allow_are_refused(values):
    play = Play(facts(3)).until(2)
    with pytest.raises(BadParameters) as caught:
        play.silos["silo-00"].mask(play.mail["silo-00"], values)
    assert "1001" not in str(caught.value)
    play.until(5)  # nothing was begun
    np.testing.assert_array_equal(play.server.total(), play.plain())

"""The stored state: a silo goes on after being killed anywhere, and shows its secrets nowhere."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_silos import KEYS, Play, facts

from secure.aggregation.messages import Consents, Delivery, Roster, Survivors
from secure.aggregation.packing import pack, unpack
from secure.aggregation.participant import STEPS, Participant
from secure.errors import BadMessage, RoundRefused, SecureError

ROOT = Path(__file__).resolve().parents[3]


def again(silo: Participant) -> Participant:
    return Participant.from_state(silo.state(), silo.facts, silo.name, KEYS[silo.name])


def killed_before_and_after(silo, step):
    """Go on from the state before the step and from that after it; each silo is a new object."""
    before = again(silo)
    packed = step(before)
    after = again(before)
    assert step(after) == packed
    silo._state = after._state
    return packed


@pytest.mark.parametrize("bits", [32, 64])
def test_a_round_is_whole_when_every_silo_starts_again_around_every_step(bits):
    play = Play(facts(5, bits=bits), take=killed_before_and_after)
    play.until(5, {1: ["silo-00"], 2: ["silo-00"], 3: ["silo-00"], 4: ["silo-00"]})
    np.testing.assert_array_equal(play.server.total(), play.plain())


@pytest.mark.parametrize("step", range(5))
def test_a_step_that_was_stored_is_not_taken_otherwise_after_a_restart(step):
    play = Play(facts(5)).until(step)
    name = "silo-00"
    mail, values = play.mail[name], play.inputs[name]
    packed = play.answer(name)
    silo = again(play.silos[name])
    if step == 0:
        assert silo.advertise() == packed
        return
    others = {
        1: lambda: Roster(unpack(play.facts, Roster, mail).adverts[:4]),
        2: lambda: Delivery(name, unpack(play.facts, Delivery, mail).sealed[:3]),
        3: lambda: Survivors(unpack(play.facts, Survivors, mail).survivors[:4]),
        4: lambda: Consents(unpack(play.facts, Consents, mail).consents[:4]),
    }
    other = pack(play.facts, others[step]())
    with pytest.raises(RoundRefused, match="answers once"):
        if step == 2:
            silo.mask(other, values)
        else:
            getattr(silo, STEPS[step])(other)
    if step == 2:
        with pytest.raises(RoundRefused, match="answers once"):
            silo.mask(mail, np.zeros_like(values))
        assert silo.mask(mail, values) == packed


def test_a_state_of_another_round_silo_or_member_list_is_refused():
    play = Play(facts(4)).until(2)
    state = play.silos["silo-00"].state()
    with pytest.raises(RoundRefused, match="takes part in a round once"):
        Participant.from_state(state, play.facts, "silo-01", KEYS["silo-01"])
    for other in (facts(5), facts(4, number=1), facts(4, length=6)):
        with pytest.raises(RoundRefused, match="takes part in a round once"):
            Participant.from_state(state, other, "silo-00", KEYS["silo-00"])


@given(st.binary(max_size=200))
def test_noise_is_no_state(noise):
    with pytest.raises(SecureError):
        Participant.from_state(noise, facts(3), "silo-00", KEYS["silo-00"])


def test_a_state_that_lacks_something_is_refused():
    of = facts(3)
    body = msgpack.unpackb(Participant(of, "silo-00", KEYS["silo-00"]).state())
    for name in body:
        less = {key: value for key, value in body.items() if key != name}
        for changed in (less, body | {name: 7}, body | {"more": 1}):
            with pytest.raises(SecureError):
                Participant.from_state(msgpack.packb(changed), of, "silo-00", KEYS["silo-00"])
    with pytest.raises(BadMessage):
        Participant.from_state(msgpack.packb([1]), of, "silo-00", KEYS["silo-00"])


@pytest.mark.parametrize("phase", range(6))
def test_secrets_are_in_no_repr_pickle_copy_log_or_error(phase, caplog):
    caplog.set_level(logging.DEBUG)
    play = Play(facts(4)).until(phase)
    silo = play.silos["silo-00"]
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="does not travel"):
            travel(silo)
    body = msgpack.unpackb(silo.state())
    shares = [share for pair in body["held"].values() for share in pair]
    secrets = [body["mask_secret"], body["share_secret"], body["seed"], *shares]
    shown = repr(silo) + str(silo) + repr(silo._state) + repr(play.server) + caplog.text
    for step in (silo.share_keys, silo.consent, silo.unmask):
        try:
            step(b"\x80")
        except SecureError as error:
            shown += "".join(traceback.format_exception(error)) + repr(vars(error))
    for secret in filter(None, secrets):
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown


SILO = """
import os, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from secure.aggregation.participant import Participant
from secure.aggregation.rounds import Round
from secure.keys import SigningKey
place, die = Path(sys.argv[1]), sys.argv[2]
keys = {{f"silo-{{i:02}}": SigningKey(bytes([i + 1]) * 32) for i in range(4)}}
facts = Round("fed", "job", 0, {{n: k.public for n, k in keys.items()}}, 5, 32, 1000)
stored = place / "state"
def silo():
    if stored.exists():
        return Participant.from_state(stored.read_bytes(), facts, "silo-00", keys["silo-00"])
    return Participant(facts, "silo-00", keys["silo-00"])
def kill(where):
    if die == where:
        os.kill(os.getpid(), signal.SIGKILL)
me, mail = silo(), (place / "mail").read_bytes()
kill("before")
phase = int(sys.argv[3])
packed = (me.advertise, lambda: me.share_keys(mail), lambda: me.mask(mail, np.arange(5)),
          lambda: me.consent(mail), lambda: me.unmask(mail))[phase]()
kill("unstored")
(place / "new").write_bytes(me.state())
os.replace(place / "new", stored)
kill("unsent")
(place / "sent").write_bytes(packed)
kill("sent")
"""


@pytest.mark.parametrize("die", ["before", "unstored", "unsent", "sent"])
def test_a_silo_whose_process_is_killed_in_every_step_finishes_the_round(tmp_path, die):
    script = tmp_path / "silo.py"
    script.write_text(SILO.format(root=str(ROOT)))
    of = facts(4)
    play = Play(of)
    play.inputs["silo-00"] = np.arange(5)
    sent = tmp_path / "sent"

    def process(death: str) -> int:
        (tmp_path / "mail").write_bytes(play.mail["silo-00"])
        command = [sys.executable, script, tmp_path, death, str(play.server.phase)]
        return subprocess.run(command, timeout=60).returncode

    while play.server.phase < 5:
        sent.unlink(missing_ok=True)
        assert process(die) == -signal.SIGKILL
        first = sent.read_bytes() if sent.exists() else None
        assert process("never") == 0
        assert first in (None, sent.read_bytes())  # what left once leaves the same again
        play.server.receive("silo-00", sent.read_bytes())
        for name in sorted(play.mail.keys() - {"silo-00"}):
            play.server.receive(name, play.answer(name))
        play.mail = play.server.advance()
    np.testing.assert_array_equal(play.server.total(), play.plain())

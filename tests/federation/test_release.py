"""The gate: one release per request, the same bytes again, nothing unlogged."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from federation.errors import BadInput, IntegrityError, PolicyRefused
from federation.release import Gate, held
from privacy.events import All, Gaussian, Relation, Repeat, Unit
from privacy.ledger import AccountTerms, Ledger
from secure.keys import SigningKey, verify

EVENT = Gaussian(sigma=2.0)


def allowed():
    return frozenset({"dp"})


@pytest.fixture
def ledger(tmp_path):
    made = Ledger.create(
        f"sqlite:///{tmp_path}/ledger.db",
        silo="north",
        head=tmp_path / "ledger.head",
        signer=SigningKey.generate(),
        verify=verify,
    )
    terms = AccountTerms(
        source="d",
        unit=Unit.RECORD,
        relation=Relation.ADD_REMOVE,
        epsilon=10.0,
        delta=1e-5,
    )
    made.open_account(terms)
    made.reserve(
        key="job-1",
        job="job-1",
        events={terms.id: Repeat(times=8, of=EVENT)},
        releases={"update": 8},
        refundable=True,
        digest="0" * 64,
        expires=datetime.now(UTC) + timedelta(minutes=5),
    )
    made.start("job-1", go="0" * 64)
    made.mark_read("job-1")
    yield made
    made.close()


def gate(ledger, tmp_path):
    return Gate(ledger, "job-1", tmp_path / "releases", allowed, {"update": 3})


def release(gate, made, request=b"request", protection="dp", round=0):
    def produce():
        made.append(1)
        return bytes([len(made)])

    return gate.release(
        "update", round, request=request, protection=protection, event=EVENT, produce=produce
    )


def egress(ledger):
    return [json.loads(e.body) for e in ledger.entries() if e.kind == "egress"]


def test_the_same_request_gets_the_same_bytes_and_one_log_line(ledger, tmp_path):
    made = []
    first = release(gate(ledger, tmp_path), made)
    again = release(gate(ledger, tmp_path), made)  # a new process would open a new gate
    assert first == again and made == [1]
    assert len(egress(ledger)) == 1


def test_another_request_for_the_round_is_refused(ledger, tmp_path):
    made = []
    release(gate(ledger, tmp_path), made)
    with pytest.raises(IntegrityError, match="already released"):
        release(gate(ledger, tmp_path), made, request=b"other")
    assert made == [1] and len(egress(ledger)) == 1


def test_a_crash_between_storing_and_logging_is_logged_on_repeat(ledger, tmp_path):
    made = []

    class Dying:
        def record_egress(self, **_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release(Gate(Dying(), "job-1", tmp_path / "releases", allowed, {"update": 3}), made)
    assert egress(ledger) == []
    release(gate(ledger, tmp_path), made)
    assert made == [1] and len(egress(ledger)) == 1


def test_a_protection_that_policy_does_not_allow_makes_nothing(ledger, tmp_path):
    made = []
    with pytest.raises(PolicyRefused, match="unprotected"):
        release(gate(ledger, tmp_path), made, protection="unprotected")
    assert made == [] and egress(ledger) == []


def test_what_was_begun_counts_even_if_it_never_left(ledger, tmp_path):
    made = []
    there = gate(ledger, tmp_path)
    release(there, made)

    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        there.release("update", 1, request=b"r", protection="dp", event=EVENT, produce=fails)
    assert there.begun() == All(of=(Repeat(times=2, of=EVENT),))


def test_no_more_is_released_than_was_reserved(ledger, tmp_path):
    made = []
    for round in range(3):
        release(gate(ledger, tmp_path), made, round=round)
    opened = gate(ledger, tmp_path)
    for round in (3, 999_999, 10**9, -1):
        with pytest.raises(IntegrityError) as caught:
            release(opened, made, round=round)
        assert caught.value.field == "round"
    assert len(made) == 3
    assert release(opened, made, round=2) == bytes([3])  # what was released is told again


def test_a_release_that_no_quote_names_is_refused(ledger, tmp_path):
    opened = Gate(ledger, "job-1", tmp_path / "releases", allowed, {"evaluate": 1})
    with pytest.raises(IntegrityError):
        release(opened, [])


def test_a_crash_between_beginning_and_storing_counts_once_and_is_made_again(ledger, tmp_path):
    def dies():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gate(ledger, tmp_path).release(
            "update", 0, request=b"request", protection="dp", event=EVENT, produce=dies
        )
    again = gate(ledger, tmp_path)
    with pytest.raises(IntegrityError, match="already released"):
        release(again, made := [], request=b"other")
    assert release(again, made) == b"\x01"
    assert again.begun() == All(of=(Repeat(times=1, of=EVENT),))


def test_a_name_that_no_quote_has_never_becomes_a_path(ledger, tmp_path):
    (tmp_path / "outside").mkdir()
    opened = gate(ledger, tmp_path)
    with pytest.raises(IntegrityError, match="does not name"):
        opened.release(
            "../../outside/x", 0, request=b"", protection="dp", event=EVENT, produce=lambda: b"x"
        )
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_policy_that_closes_closes_the_gate_at_once(ledger, tmp_path):
    said = {"dp", "unprotected"}
    opened = Gate(ledger, "job-1", tmp_path / "releases", lambda: said, {"update": 3})
    release(opened, made := [], protection="unprotected")
    assert opened.unprotected() and len(made) == 1
    said.discard("unprotected")
    for round in (0, 1):
        with pytest.raises(PolicyRefused):
            release(opened, made, protection="unprotected", round=round)
    assert len(made) == 1


def test_what_is_begun_says_how_it_was_protected(ledger, tmp_path):
    opened = gate(ledger, tmp_path)
    release(opened, [])
    assert not opened.unprotected()


def test_dashes_in_a_name_count_as_one_name(ledger, tmp_path):
    for _ in range(2):  # a new gate reads the names from the files again
        opened = Gate(ledger, "job-1", tmp_path / "releases", allowed, {"mask-share": 1})
        with pytest.raises(RuntimeError):
            opened.release(
                "mask-share", 0, request=b"r", protection="dp", event=EVENT, produce=_fails
            )
    with pytest.raises(IntegrityError, match="beyond the 1"):
        opened.release("mask-share", 1, request=b"r", protection="dp", event=EVENT, produce=_fails)


def _fails():
    raise RuntimeError


def test_a_job_is_held_by_one_at_a_time(tmp_path):
    with held(tmp_path / "job-1"):
        with pytest.raises(BadInput, match="another session"), held(tmp_path / "job-1"):
            pass
        with held(tmp_path / "job-2"):
            pass
    with held(tmp_path / "job-1"):
        pass

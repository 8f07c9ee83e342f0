"""A coordinator that asks for more than it reserved, or for something else, at a real silo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from safetensors.torch import save
from tests_jobs_here import allow, spec

from federation import lifecycle
from federation.attendance import Attendance
from federation.books import open_mirror
from federation.embedded import Embedded
from federation.errors import BadInput
from federation.home import Home
from federation.jobs.base import PartyQuote
from federation.models import build_model
from federation.record import Job
from privacy.ledger import Ledger, State, Stop
from secure.exchange.envelope import Header, seal
from secure.keys import SigningKey

SILO = "silo-1"


class Session:
    """A job started at every silo, to which a coordinator may say what it likes."""

    def __init__(self, parties: Embedded, mirror: Any, asked: Any) -> None:
        self.parties = parties
        self.job = Job.create(parties.home, asked)
        lifecycle.reserve(self.job, parties, mirror)
        lifecycle.start(self.job, parties, mirror)
        self.facts = parties.facts(asked.dataset)[SILO]
        shape, classes = self.facts.dataset.input_shape, self.facts.dataset.n_classes
        model = build_model(asked.model.model_dump(), shape, classes, seed=0)
        self.body = save(dict(model.state_dict()))

    @contextmanager
    def serve(self) -> Iterator[Any]:
        attendance = Attendance(self.job.directory / "attendance.jsonl", [SILO])
        with self.parties.serve(self.job.id, attendance) as endpoint:
            yield endpoint

    def say(self, endpoint: Any, name: str, round: int) -> None:
        endpoint.send(SILO, round=round, name=name, body=self.body)

    def ask(self, endpoint: Any, name: str, round: int) -> tuple[str, bytes]:
        self.say(endpoint, name, round)
        message = endpoint.receive(deadline=60)
        return message.header.name, message.body

    @property
    def ledger(self) -> Ledger:
        return self.parties._silos[SILO].ledger

    @property
    def state(self) -> State:
        charge = self.ledger.charge(self.job.id)
        assert charge is not None
        return charge.state

    @property
    def used(self) -> float:
        return self.ledger.account(self.facts.source, "record").used

    @property
    def quoted(self) -> float:
        """The share of the account that the whole job was quoted to take."""
        manifest = self.job.document("manifest")
        assert manifest is not None
        event = PartyQuote.read(manifest["body"]["quotes"][SILO]).event
        # The other charges of the account, none here, would not change what this one takes.
        admission = self.ledger.would_admit(f"{self.facts.source}/record", event)
        return admission.charge_share

    @property
    def egress(self) -> list[tuple[str, int]]:
        lines = [json.loads(e.body) for e in self.ledger.entries() if e.kind == "egress"]
        return [(line["name"], line["round"]) for line in lines]


@contextmanager
def started(home: Home, asked: Any = None) -> Iterator[Session]:
    with Embedded(home) as parties, open_mirror(home) as mirror:
        yield Session(parties, mirror, asked or spec())


def ask(home: Home, requests: list[tuple[str, int]]) -> tuple[list[Any], Any, Any]:
    """Start a job at every silo, put requests to one and settle: answers, charge, account."""
    with started(home) as session:
        answers = []
        with session.serve() as endpoint:
            for name, round in requests:
                answers.append(session.ask(endpoint, name, round))
                if answers[-1][0] == "fault":
                    break
        session.parties.settle(SILO, session.job.id)
        charge = session.ledger.charge(session.job.id)
        return answers, charge, session.ledger.account(session.facts.source, "record")


@pytest.mark.parametrize(
    ("requests", "released"),
    [
        ([("update", r) for r in range(5)], 4),  # one round more than the spec's four
        ([("update", 0), ("update", 900_000), ("update", -1)], 2),
        ([("evaluate", 0), ("evaluate", 1)], 1),  # one histogram was priced
        ([("rows", 0)], 0),
    ],
)
def test_more_than_was_reserved_is_never_released(
    home: Home, requests: list[tuple[str, int]], released: int
) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(), parties)["silos"][SILO]
    answers, charge, account = ask(home, requests)
    assert [name for name, _ in answers].count("fault") == 1 and answers[-1][0] == "fault"
    assert len(answers) - 1 == released
    assert isinstance(msgpack.unpackb(answers[-1][1]), str)  # a code, nothing else
    assert charge.state is State.SETTLED
    # What was read is charged whole; of rows that were never read there is nothing to charge.
    assert account.used == pytest.approx(quoted["charge"] if released else 0.0, rel=1e-6)


def test_a_second_session_of_a_job_is_refused_and_changes_nothing(home: Home) -> None:
    with started(home) as session:
        with session.serve() as first:
            assert session.ask(first, "update", 0)[0] == "update"
            with session.serve() as second:
                assert second.receive(deadline=30).header.name == "fault"
            # The first session goes on, to the end of what was reserved and no further.
            answers = [session.ask(first, "update", round)[0] for round in (1, 2, 3, 4)]
            assert answers == ["update"] * 3 + ["fault"]
        assert session.egress == [("update", round) for round in range(4)]
        session.parties.settle(SILO, session.job.id)
        assert session.used == pytest.approx(session.quoted, rel=1e-6)


def test_nothing_is_settled_while_a_session_is_at_work(home: Home) -> None:
    with started(home) as session:
        with session.serve() as endpoint:
            session.ask(endpoint, "update", 0)
            for end in (session.parties.end, session.parties.settle):
                with pytest.raises(BadInput, match="another session"):
                    end(SILO, session.job.id)
            assert session.state is State.READ
            assert session.ask(endpoint, "update", 1)[0] == "update"
        session.parties.end(SILO, session.job.id)
        assert session.state is State.SETTLED
        assert session.egress == [("update", 0), ("update", 1)]
        assert session.used > 0


def test_nothing_is_released_while_a_job_is_settled(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that opens as the silo settles what it found is refused; so is one after."""
    honest = Ledger.settle
    with started(home) as session:
        with session.serve() as endpoint:
            session.ask(endpoint, "update", 0)
        answers = []

        def slow(self: Ledger, *args: Any, **kwargs: Any) -> Any:
            with session.serve() as endpoint:
                answers.append(session.ask(endpoint, "update", 1)[0])
            return honest(self, *args, **kwargs)

        monkeypatch.setattr(Ledger, "settle", slow)
        session.parties.end(SILO, session.job.id)
        with session.serve() as endpoint:
            answers.append(session.ask(endpoint, "update", 1)[0])
        assert answers == ["fault", "fault"]
        assert session.egress == [("update", 0)]


def test_what_is_logged_while_a_job_is_settled_is_charged(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's own check, where a session got past the lock: it is counted again."""
    import federation.silo

    honest = Ledger.settle
    with started(home) as session:
        with session.serve() as endpoint:
            assert session.ask(endpoint, "update", 0)[0] == "update"
            late = iter([1, 2, 3])

            def slow(self: Ledger, *args: Any, **kwargs: Any) -> Any:
                for round in late:
                    assert session.ask(endpoint, "update", round)[0] == "update"
                return honest(self, *args, **kwargs)

            monkeypatch.setattr(Ledger, "settle", slow)
            monkeypatch.setattr(federation.silo, "held", lambda directory: _nobody())
            silo = session.parties._silos[SILO]
            silo._files(session.job.id).keep_stop(Stop.OTHER_PARTY)
            receipt = silo.settle(session.job.id)
        assert receipt.data["released"] == 4 and len(session.egress) == 4
        steps = receipt.data["executed"]["breast-cancer/record"]["of"][0]
        assert steps["times"] == 4


@contextmanager
def _nobody() -> Iterator[None]:
    yield


# What a stop depends on

EXACT = {"evaluation": {"release": "exact", "every": 1}}


@pytest.mark.parametrize("farewell", ["finish", None])
def test_a_stop_that_may_depend_on_exact_counts_gives_nothing_back(
    home: Home, farewell: str | None
) -> None:
    allow(home, exact_evaluation=True)
    with started(home, spec(**EXACT)) as session:
        quoted = session.quoted
        with session.serve() as endpoint:
            session.ask(endpoint, "update", 0)
            session.ask(endpoint, "evaluate", 1)
            if farewell:
                session.say(endpoint, farewell, 1)
                time.sleep(0.5)
        session.parties.end(SILO, session.job.id)
        assert session.used == pytest.approx(quoted, rel=1e-6)


def test_a_stop_before_exact_counts_were_begun_gives_the_rest_back(home: Home) -> None:
    allow(home, exact_evaluation=True)
    with started(home, spec(**EXACT)) as session:
        quoted = session.quoted
        with session.serve() as endpoint:
            session.ask(endpoint, "update", 0)
        session.parties.end(SILO, session.job.id)
        assert 0 < session.used < 0.5 * quoted


@pytest.mark.parametrize("round", [-1, 0, 1, 4, 10**15])
def test_a_finish_of_any_round_never_charges_less_than_what_was_begun(
    home: Home, round: int
) -> None:
    with started(home) as session:
        quoted = session.quoted
        with session.serve() as endpoint:
            session.ask(endpoint, "update", 0)
            session.say(endpoint, "finish", round)
            time.sleep(0.5)
        session.parties.settle(SILO, session.job.id)
        # One of four rounds, by the filter's orders; or, where it says that all were run, all.
        share = session.used / quoted
        assert share == pytest.approx(1.0) if round >= 4 else 0.1 < share < 0.5


def test_a_policy_that_closes_in_the_middle_of_a_job_stops_what_it_closed(home: Home) -> None:
    allow(home, exact_evaluation=True)
    with started(home, spec(**EXACT)) as session:
        with session.serve() as endpoint:
            assert session.ask(endpoint, "evaluate", 0)[0] == "evaluate"
            allow(home, exact_evaluation=False)
            assert session.ask(endpoint, "evaluate", 1) == ("fault", msgpack.packb("FED-003"))
        with session.serve() as endpoint:  # and it does not resume
            assert endpoint.receive(deadline=30).header.name == "fault"
        assert session.egress == [("evaluate", 0)]


def test_a_kind_that_the_policy_closed_is_not_taken_part_in(home: Home) -> None:
    with started(home) as session:
        allow(home, kinds=["infer"])
        with session.serve() as endpoint:
            assert endpoint.receive(deadline=30).header.name == "fault"
        assert session.egress == [] and session.state is State.STARTED


# Strangers on the transport


def forgeries(session: Session) -> dict[str, Callable[[], bytes]]:
    parties = session.parties
    federation, job = parties.federation.name, session.job.id

    def envelope(key: SigningKey, **changes: Any) -> bytes:
        said = {
            "federation": federation,
            "job": job,
            "round": 0,
            "name": "rows",
            "sender": "coordinator",
            "receiver": SILO,
        }
        return seal(Header(**(said | changes)), session.body, key)

    stranger, member = SigningKey.generate(), parties._silos["silo-2"].key
    return {
        "noise": lambda: b"\x93\xc1garbage",
        "nothing": lambda: b"",
        "forged": lambda: envelope(stranger),
        "unknown": lambda: envelope(stranger, sender="nobody"),
        "member": lambda: envelope(member, sender="silo-2", job="another-job"),
        "as coordinator": lambda: envelope(member),
        "elsewhere": lambda: envelope(parties.key, federation="other"),
        "for another": lambda: envelope(parties.key, receiver="silo-2"),
        "other job": lambda: envelope(parties.key, job="another-job"),
        "cut": lambda: envelope(parties.key)[:-7],
    }


def test_no_stranger_ends_a_session(home: Home) -> None:
    with started(home) as session, session.serve() as endpoint:
        inbox = endpoint._hub.inbox(SILO)
        for forge in forgeries(session).values():
            inbox.put(forge())
        assert session.ask(endpoint, "update", 0)[0] == "update"
        dropped = session.parties._silos[SILO]._files(session.job.id)._directory / "dropped.log"
        assert len(dropped.read_text().splitlines()) == len(forgeries(session))


def test_a_request_sent_again_by_anybody_gets_the_bytes_it_got_and_costs_nothing(
    home: Home,
) -> None:
    with started(home) as session:
        with session.serve() as endpoint:
            inbox = endpoint._hub.inbox(SILO)
            first = session.ask(endpoint, "update", 0)
            header = Header(
                session.parties.federation.name, session.job.id, 0, "update", "coordinator", SILO
            )
            envelope = seal(header, session.body, session.parties.key)
            for _ in range(3):
                inbox.put(envelope)
                again = endpoint.receive(deadline=30)
                assert (again.header.name, again.body) == first
        assert session.egress == [("update", 0)]

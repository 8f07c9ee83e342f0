"""Any schedule of reserve, start, read, settle, release, expiry, crash and capacity change.

The reference is brute force: a list of what really ran and what is really held, priced by the
closed form of the Gaussian in exact fractions, against limits computed apart from the ledger.
"""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from privacy.errors import Refused, WrongState
from privacy.events import Gaussian, Repeat
from privacy.ledger import AccountTerms, Ledger, State, Stop, heads
from privacy.ledger.rows import Rows
from secure.keys import SigningKey, verify

ACCOUNT = "heart/record"
DELTA = 1e-5
START = datetime(2026, 11, 23, tzinfo=UTC)
TOLERANCE = Fraction(1, 10**6)
EPSILON = 1.5
SIGMA = 60.0
FACTORS, SHARES = (0.25, 0.5, 0.8), (0.1, 0.3, 0.6)


def orders(epsilon: float) -> list[float]:
    log = math.log(1 / DELTA)
    rho = (math.sqrt(epsilon + log) - math.sqrt(log)) ** 2
    best = 1 + math.sqrt(log / rho)
    return [1 + (best - 1) * factor for factor in FACTORS]


ORDERS = orders(EPSILON)


def limits(epsilon: float) -> list[float]:
    exact = [
        epsilon + (math.log(DELTA * w) + math.log(a)) / (a - 1) - math.log(1 - 1 / a)
        for a, w in zip(ORDERS, SHARES, strict=True)
    ]
    return [max(limit, 0.0) for limit in exact]  # what costs nothing leaks nothing


def losses(steps: int) -> list[Fraction]:
    return [Fraction(a) * steps / (2 * Fraction(SIGMA) ** 2) for a in ORDERS]


def event(steps: int) -> Repeat:
    return Repeat(times=steps, of=Gaussian(sigma=SIGMA))


@dataclass
class Job:
    """What the model knows: `steps` are held against the account, `ran` were really run."""

    steps: int
    refundable: bool
    expires: float
    state: State = State.RESERVED
    ran: int = 0


class CrashError(Exception):
    pass


class Machine(RuleBasedStateMachine):
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.where = Path(tempfile.mkdtemp(prefix="tacit-machine-"))
        shutil.copytree(template(), self.where, dirs_exist_ok=True)
        self.key = SigningKey.load(self.where / "key")
        self.time = 0.0
        self.jobs: dict[str, Job] = {}
        self.capacity = self.largest = EPSILON
        self.breached = False
        self.ledger = self.opened()

    def opened(self) -> Ledger:
        return open_at(self.where, self.key, lambda: START + timedelta(seconds=self.time))

    def teardown(self) -> None:
        checked = self.ledger.verify()
        assert checked.ok, checked
        self.ledger.close()
        shutil.rmtree(self.where)

    def held(self, job: Job) -> bool:
        return job.state not in (State.RELEASED, State.EXPIRED)

    def sums(self) -> list[Fraction]:
        held = [losses(job.steps) for job in self.jobs.values() if self.held(job)]
        return [sum((loss[i] for loss in held), Fraction(0)) for i in range(3)]

    def attempt(self, call: Any, crash: str) -> Any:
        """Run a call, perhaps crashing in it; a crashed call is made again on a new ledger."""
        if crash == "none":
            return call()
        with pytest.MonkeyPatch.context() as patch:

            def die(*_: Any, **__: Any) -> None:
                raise CrashError

            if crash == "before commit":
                write = Rows.write

                def write_and_die(rows: Rows, *args: Any) -> None:
                    write(rows, *args)
                    die()

                patch.setattr(Rows, "write", write_and_die)
            else:
                patch.setattr(heads.HeadFile, "write", die)
            try:
                return call()
            except CrashError:
                pass
        self.ledger.close()
        self.ledger = self.opened()
        assert self.ledger.verify().ok
        return call()

    CRASHES = st.sampled_from(["none", "none", "none", "before commit", "after commit"])

    @rule(
        target=keys,
        steps=st.integers(0, 400),
        refundable=st.booleans(),
        life=st.integers(1, 400),
        crash=CRASHES,
    )
    def reserve(self, steps: int, refundable: bool, life: int, crash: str) -> str:
        key = f"job-{len(self.jobs)}-{int(self.time * 1000)}-{steps}"
        if key in self.jobs:
            return key
        self.sweep()
        before = self.sums()
        fits = [
            total + loss <= Fraction(limit)
            for total, loss, limit in zip(before, losses(steps), limits(self.capacity), strict=True)
        ]
        try:
            self.attempt(
                lambda: self.ledger.reserve(
                    key=key,
                    job=key,
                    events={ACCOUNT: event(steps)},
                    releases={},
                    refundable=refundable,
                    digest="d",
                    expires=START + timedelta(seconds=self.time + life),
                ),
                crash,
            )
        except Refused:
            # rounding is one unit of 1e-12 per charge; no schedule here comes that close
            assert self.breached or not any(fits[i] for i in range(3) if not self.saturated(i))
            return key
        assert any(fits) and not self.breached
        self.jobs[key] = Job(steps, refundable, self.time + life)
        return key

    @rule(target=keys, steps=st.integers(100, 600), refundable=st.booleans())
    def run_job(self, steps: int, refundable: bool) -> str:
        """Reserve, start and read in one go, so that schedules get far."""
        key = self.reserve(steps, refundable, 400, "none")
        if key in self.jobs:
            self.start(key, "none")
            self.read(key, "none")
        return key

    def saturated(self, i: int) -> bool:
        """Whether an active charge has used this order up (by the ledger's own record)."""
        return any(spend.charge.losses[i] is None for spend in self.ledger.history(ACCOUNT))

    def sweep(self) -> None:
        for job in self.jobs.values():
            if job.state is State.RESERVED and job.expires <= self.time:
                job.state = State.EXPIRED

    @rule(key=keys, crash=CRASHES)
    def start(self, key: str, crash: str) -> None:
        job = self.jobs.get(key)
        try:
            self.attempt(lambda: self.ledger.start(key, go="g"), crash)
        except WrongState:
            assert (
                job is None
                or job.state not in (State.RESERVED, State.STARTED, State.READ)
                or job.expires <= self.time
            )
            return
        assert job is not None
        if job.state is State.RESERVED:
            assert job.expires > self.time
            job.state = State.STARTED

    @rule(key=keys, crash=CRASHES)
    def read(self, key: str, crash: str) -> None:
        job = self.jobs.get(key)
        try:
            self.attempt(lambda: self.ledger.mark_read(key), crash)
        except WrongState:
            assert job is None or job.state not in (State.STARTED, State.READ)
            return
        assert job is not None
        job.state = State.READ

    @rule(key=keys, part=st.integers(0, 600), stop=st.sampled_from(list(Stop)), crash=CRASHES)
    def settle(self, key: str, part: int, stop: Stop, crash: str) -> None:
        job = self.jobs.get(key)
        if job is None or job.state not in (State.STARTED, State.READ):
            if job is None or job.state is not State.SETTLED:
                with pytest.raises(WrongState):
                    self.ledger.settle(key, executed=None, stop=stop)
            return
        ran = min(part, job.steps) if job.state is State.READ else 0
        executed = {ACCOUNT: event(ran)} if job.state is State.READ else None
        self.attempt(
            lambda: self.ledger.settle(key, executed=executed, stop=stop, released=0), crash
        )
        job.ran = ran
        back = stop in (Stop.PUBLIC_LIMIT, Stop.RELEASED_RESULT, Stop.OTHER_PARTY)
        if job.state is State.STARTED:
            job.steps = 0
        elif job.refundable and back:
            job.steps = ran
        job.state = State.SETTLED

    @rule(key=keys, more=st.integers(1, 6))
    def overspend(self, key: str, more: int) -> None:
        job = self.jobs.get(key)
        if job is None or job.state is not State.READ or more != 6:
            return
        executed = {ACCOUNT: event(job.steps + more)}
        self.ledger.settle(key, executed=executed, stop=Stop.COMPLETED)
        job.steps += more
        job.ran = job.steps
        job.state = State.SETTLED
        self.breached = True

    @rule(key=keys, crash=CRASHES)
    def release(self, key: str, crash: str) -> None:
        job = self.jobs.get(key)
        try:
            self.attempt(lambda: self.ledger.release(key), crash)
        except WrongState:
            assert job is None or job.state not in (
                State.RESERVED,
                State.RELEASED,
                State.EXPIRED,
            )
            return
        assert job is not None
        if job.state is State.RESERVED:
            job.state = State.RELEASED

    @rule(key=keys)
    def forfeit(self, key: str) -> None:
        job = self.jobs.get(key)
        if job is None or job.state not in (State.STARTED, State.READ):
            return
        self.ledger.forfeit(key)
        job.ran = job.steps if job.state is State.READ else 0
        job.state = State.FORFEITED

    @rule(seconds=st.floats(0.5, 300))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(crash=CRASHES)
    def expire(self, crash: str) -> None:
        self.attempt(self.ledger.expire, crash)
        self.sweep()

    @rule(epsilon=st.sampled_from([0.4, 1.0, 1.5, 2.5]), crash=CRASHES)
    def set_capacity(self, epsilon: float, crash: str) -> None:
        self.attempt(lambda: self.ledger.set_capacity(ACCOUNT, epsilon, "owner"), crash)
        self.capacity = epsilon
        self.largest = max(self.largest, epsilon)

    @invariant()
    def what_may_have_run_is_within_the_claim_at_some_order(self) -> None:
        """The premise of the filter's proof, by the true costs of what was really run."""
        if self.breached:
            return
        ran = [losses(self.may_have_run(job)) for job in self.jobs.values()]
        sums = [sum((loss[i] for loss in ran), Fraction(0)) for i in range(3)]
        claim = limits(self.largest)
        assert any(total <= Fraction(limit) for total, limit in zip(sums, claim, strict=True))

    @staticmethod
    def may_have_run(job: Job) -> int:
        """All of its steps while it runs, what it ran once it has ended, nothing before."""
        return job.steps if job.state in (State.STARTED, State.READ) else job.ran

    @invariant()
    def the_ledger_holds_what_the_model_holds(self) -> None:
        """Never less than the truth, and above it by the rounding of a charge only."""
        spends = {spend.key: spend for spend in self.ledger.history(ACCOUNT)}
        assert set(spends) == {key for key, job in self.jobs.items() if self.held(job)}
        for key, spend in spends.items():
            for loss, true in zip(spend.charge.losses, losses(self.jobs[key].steps), strict=False):
                if loss is not None:
                    assert (
                        true <= Fraction(loss, 10**12) <= true * (1 + TOLERANCE) + 3 * TOLERANCE**2
                    )


def open_at(where: Path, key: SigningKey, clock: Any) -> Ledger:
    url = f"sqlite:///{where / 'ledger.db'}"
    head = where / "head"
    return Ledger.open(url, silo="north", head=head, signer=key, verify=verify, clock=clock)


@cache
def template() -> Path:
    """A ledger with its account, made once and copied for every schedule."""
    where = Path(tempfile.mkdtemp(prefix="tacit-template-"))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    key = SigningKey.generate()
    key.save(where / "key")
    url = f"sqlite:///{where / 'ledger.db'}"
    made = Ledger.create(
        url, silo="north", head=where / "head", signer=key, verify=verify, clock=lambda: START
    )
    made.open_account(
        AccountTerms(
            source="heart", unit="record", relation="add_remove", epsilon=EPSILON, delta=DELTA
        )
    )
    made.close()
    return where


FEW = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestSchedules = Machine.TestCase
TestSchedules.settings = FEW


class LongMachine(Machine):
    """The same, for longer."""


TestManySchedules = pytest.mark.timeout(1800)(pytest.mark.large(LongMachine.TestCase))
TestManySchedules.settings = settings(FEW, max_examples=1000, stateful_step_count=50)

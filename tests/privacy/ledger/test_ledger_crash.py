"""Killing real processes: at every step of an operation, at random moments, and eight at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest

from privacy.errors import Refused, WrongState
from privacy.events import Gaussian, Repeat
from privacy.ledger import Ledger, State, Stop, heads, writer
from privacy.ledger.rows import Rows

ACCOUNT = "heart/record"
JOB = Repeat(times=100, of=Gaussian(sigma=100.0))
HALF = Repeat(times=50, of=Gaussian(sigma=100.0))
FORK = multiprocessing.get_context("fork")

KILLED_AT = ("before commit", "after commit", "within the head", "before acknowledgement")


def kill_at(point: str) -> None:
    """Arrange for this process to be killed at one point of its next append."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "before commit":
        write = Rows.write

        def write_and_die(self: Rows, *args: Any) -> None:
            write(self, *args)
            die()

        Rows.write = write_and_die  # type: ignore[method-assign]
    elif point == "after commit":
        heads.HeadFile.write = die  # type: ignore[method-assign]
    elif point == "within the head":
        pwrite = os.pwrite

        def tear_and_die(descriptor: int, data: bytes, offset: int) -> None:
            pwrite(descriptor, data[:100], offset)
            die()

        os.pwrite = tear_and_die  # type: ignore[assignment]
    else:
        put = heads.HeadFile.write

        def put_and_die(self: heads.HeadFile, *args: Any) -> None:
            put(self, *args)
            die()

        heads.HeadFile.write = put_and_die  # type: ignore[method-assign]


STEPS: tuple[tuple[str, Callable[[Any, Ledger], Any]], ...] = (
    ("reserve", lambda place, ledger: place.reserve(ledger)),
    ("start", lambda place, ledger: ledger.start("job-1", go="g")),
    ("read", lambda place, ledger: ledger.mark_read("job-1")),
    (
        "egress",
        lambda place, ledger: ledger.record_egress(
            job="job-1",
            round=1,
            name="update",
            protection="unprotected",
            digest="a",
            request="b",
            size=1,
            event=None,
        ),
    ),
    (
        "settle",
        lambda place, ledger: ledger.settle(
            "job-1", executed={ACCOUNT: HALF}, stop=Stop.PUBLIC_LIMIT, released=1
        ),
    ),
)


def forked(target: Callable[..., None], *args: Any) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=target, args=args)
    process.start()
    return process


def die_in(place: Any, step: Callable[[Any, Ledger], Any], point: str) -> None:
    ledger = place.open()
    kill_at(point)
    step(place, ledger)
    os._exit(7)  # not reached


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_at_every_step_then_recovered(place, point):
    """Every step of a job is killed once and done again: charged once, and never less."""
    made = place.create()
    made.open_account(place.terms())
    made.close()
    for name, step in STEPS:
        process = forked(die_in, place, step, point)
        process.join(30)
        assert process.exitcode == -signal.SIGKILL, name
        ledger = place.open()
        checked = ledger.verify()
        assert checked.ok, (name, checked)  # one entry ahead of the head at most
        if name in ("read", "egress", "settle"):
            assert ledger.account("heart", "record").used > 0
        step(place, ledger)
        step(place, ledger)
        ledger.close()
    ledger = place.open()
    kinds = [entry.kind for entry in ledger.entries()]
    assert kinds == ["open", "reserve", "start", "read", "egress", "settle"]
    account = ledger.account("heart", "record")
    assert account.unprotected == 1
    assert account.used == pytest.approx(ledger.would_admit(ACCOUNT, HALF).charge_share)
    assert ledger.verify().ok
    ledger.close()


def work(place: Any, seed: int, done: Connection) -> None:
    """Run jobs until killed, telling each step once it was acknowledged."""
    ledger = place.open()
    numbers = random.Random(seed)
    for i in range(10**6):
        key = f"w{seed}-{i}"
        try:
            place.reserve(ledger, key)
        except Refused:
            key = f"z{seed}-{i}"
            place.reserve(ledger, key, events={ACCOUNT: Repeat(times=0, of=Gaussian(sigma=1.0))})
        done.send((key, State.RESERVED))
        if numbers.random() < 0.3:
            ledger.release(key)
            done.send((key, State.RELEASED))
            continue
        ledger.start(key, go="g")
        done.send((key, State.STARTED))
        ledger.mark_read(key)
        done.send((key, State.READ))
        if numbers.random() < 0.7:
            executed = {ACCOUNT: HALF} if key[0] == "w" else None
            ledger.settle(key, executed=executed, stop=Stop.OTHER_PARTY, released=0)
            done.send((key, State.SETTLED))


def kill_at_random(place: Any, times: int) -> None:
    made = place.create()
    made.open_account(place.terms(epsilon=8.0))
    made.close()
    numbers = random.Random(20261123)
    known: dict[str, State] = {}
    for seed in range(times):
        here, there = FORK.Pipe(duplex=False)
        process = forked(work, place, seed, there)
        there.close()
        here.poll(30)  # it is at work: a slow machine kills no later than a fast one
        time.sleep(numbers.uniform(0.0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        while here.poll():
            try:
                key, state = here.recv()
            except EOFError:
                break
            known[key] = state
        ledger = place.open()
        assert ledger.verify().ok
        for key, state in known.items():
            found = ledger.charge(key).state
            ahead = {
                State.RESERVED: (State.RELEASED, State.STARTED),
                State.STARTED: (State.READ,),
                State.READ: (State.SETTLED,),
            }.get(state, ())
            assert found is state or found in ahead, (key, state, found)
            known[key] = found
        active = [s for s in ledger.history(ACCOUNT) if s.key[0] == "w" and s.state != "released"]
        share = ledger.would_admit(ACCOUNT, HALF).charge_share
        expected = sum(share * (1 if s.state == "settled" else 2) for s in active)
        assert ledger.account("heart", "record").used == pytest.approx(expected, rel=1e-6)
        place.reserve(ledger, f"after-{seed}", events={ACCOUNT: Repeat(times=0, of=JOB.of)})
        ledger.close()
    assert len(known) > times


def test_killed_at_random_moments(place):
    kill_at_random(place, 5)


@pytest.mark.large
def test_killed_at_random_moments_a_hundred_times(place):
    kill_at_random(place, 100)


def ask(places: list[Any], worker: int, tries: int, gate: Any) -> None:
    """Ask all ledgers for jobs, all or none, in the order of the silos' names."""
    ledgers = [place.open() for place in places]
    gate.wait()
    for i in range(tries):
        key = f"a{worker}-{i}"
        for n, (place, ledger) in enumerate(zip(places, ledgers, strict=True)):
            try:
                place.reserve(ledger, key)
            except Refused:
                for other in ledgers[:n]:
                    other.release(key)
                break
    os._exit(0)


def admitted(ledger: Ledger) -> set[str]:
    return {spend.key for spend in ledger.history(ACCOUNT)}


@pytest.mark.parametrize("silos", [1, 4])
def test_eight_processes_at_once_are_admitted_as_one_in_a_row(make, silos):
    places = [make(f"silo{i}") for i in range(silos)]
    for n, place in enumerate(places):
        ledger = place.create()
        ledger.open_account(place.terms(epsilon=2.0 if n == silos - 1 else 3.0))
        in_a_row = ledger.repeats(ACCOUNT, JOB)
        ledger.close()
    assert in_a_row > 8
    tries = in_a_row // 8 + 2
    assert 8 * tries > in_a_row
    gate = FORK.Barrier(8)
    workers = [forked(ask, places, n, tries, gate) for n in range(8)]
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    won = []
    for place in places:
        ledger = place.open()
        assert ledger.verify().ok
        won.append(admitted(ledger))
        ledger.close()
    everywhere = set.intersection(*won)
    assert all(keys == everywhere for keys in won)  # all or none
    if silos == 1:
        assert len(everywhere) == in_a_row
    else:
        assert 0 < len(everywhere) <= in_a_row


def test_eight_processes_with_one_key_are_one_charge(place):
    ledger = place.create()
    ledger.open_account(place.terms())
    ledger.close()
    gate = FORK.Barrier(8)
    workers = [forked(same_key, place, gate) for _ in range(8)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    ledger = place.open()
    kinds = [entry.kind for entry in ledger.entries()]
    assert kinds == ["open", "reserve", "start", "read", "settle"]
    assert ledger.verify().ok
    ledger.close()


def same_key(place: Any, gate: Any) -> None:
    ledger = place.open()
    gate.wait()
    try:
        place.reserve(ledger)
        ledger.start("job-1", go="g")
        ledger.mark_read("job-1")
    except WrongState:  # another process is further along and has settled
        pass
    ledger.settle("job-1", executed={ACCOUNT: JOB}, stop=Stop.COMPLETED)
    os._exit(0)


def test_threads_share_one_ledger(place, ledger):
    from concurrent.futures import ThreadPoolExecutor

    room = ledger.repeats(ACCOUNT, JOB)

    def attempt(n: int) -> bool:
        try:
            place.reserve(ledger, f"t-{n}", expires=place.clock.now + timedelta(hours=1))
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(room + 10))) == room
    assert ledger.verify().ok


def test_the_lock_file_is_what_holds_writers_apart(place, ledger, monkeypatch):
    """A second writer waits while the first is between its commit and its head."""
    order: list[str] = []
    put = heads.HeadFile.write

    def slow(self: Any, *args: Any) -> None:
        order.append("commit")
        time.sleep(0.05)
        put(self, *args)
        order.append("head")

    monkeypatch.setattr(writer.HeadFile, "write", slow)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: place.reserve(ledger, f"t-{n}"), range(4)))
    assert order == ["commit", "head"] * 4

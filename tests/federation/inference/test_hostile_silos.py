"""Parts of an infer job beside a silo that keeps to nothing: each part of a job that has begun."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import save_file
from tests_jobs_here import allow, drive

from federation import lifecycle
from federation.books import open_mirror
from federation.documents import parse
from federation.embedded import Embedded
from federation.errors import PolicyRefused
from federation.home import Home
from federation.inference.data_silo import DataSilo
from federation.inference.kept import keep
from federation.inference.model_silo import ModelSilo, NodeSilo
from federation.inference.specs import Spec
from federation.jobs.base import SiloContext
from federation.models import build_model
from federation.predict import describe
from federation.record import Job
from federation.training.specs import ModelSpec
from privacy.ledger import State, Stop
from secure.ckks import client as ckks
from secure.ckks.client import Client, request_bytes
from secure.ckks.plan import read_plan
from secure.equivariant import Silo as Sealing
from secure.errors import BadMessage
from secure.exchange.memory import MemoryEndpoint, MemoryExchange

DATA, MODEL, NODE, COORDINATOR = "silo-1", "silo-2", "silo-3", "coordinator"
ASK: dict[str, Any] = {
    "kind": "infer",
    "name": "ask",
    "dataset": "breast-cancer",
    "mode": "ckks",
    "roles": {"data": DATA, "model": MODEL},
    "model": {"own": "ward"},
    "rows": 4,
    "batch_size": 2,
}
SEALED = {"mode": "equivariant", "roles": {"data": DATA, "model": MODEL, "node": NODE}}


@pytest.fixture
def home(home: Home, tmp_path: Path) -> Home:
    """The small federation, where one silo keeps a model for others to ask."""
    allow(home, unencrypted_inference=True)
    dataset = home.federation().dataset("breast-cancer")
    said = parse({"name": "mlp", "hidden": [4]}, ModelSpec, "model").model_dump(mode="json")
    weights, path = build_model(said, dataset.input_shape, 2, seed=1), tmp_path / "m.safetensors"
    save_file(weights.state_dict(), str(path))
    describe(path, model=said, dataset=dataset)
    keep(home, MODEL, "turned", path)
    said["activation"] = "square"
    describe(path, model=said, dataset=dataset)
    keep(home, MODEL, "ward", path)
    return home


def spec(**changes: Any) -> Spec:
    return parse(ASK | changes, Spec, "job")


class Begun:
    """A job that every silo has started: its exchange, and what each silo's part works with."""

    def __init__(self, parties: Embedded, job: str) -> None:
        terms = parties.membership.terms
        keys = terms.silos | {COORDINATOR: terms.coordinator}
        self.exchange = MemoryExchange(parties.federation.name, job, keys)
        self._parties, self._job = parties, job

    def end(self, party: str) -> MemoryEndpoint:
        key = self._parties.key if party == COORDINATOR else self._parties._silos[party].key
        return self.exchange.endpoint(party, key)

    def context(self, silo: str) -> SiloContext:
        return self._parties._silos[silo]._context(self._job, self.end(silo), 60.0)

    def state(self, silo: str) -> State:
        charge = self._parties._silos[silo].ledger.charge(self._job)
        assert charge is not None
        return charge.state


@contextmanager
def begun(home: Home, **changes: Any) -> Iterator[Begun]:
    job = Job.create(home, spec(**changes))
    with job.working(), Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        yield Begun(parties, job.id)


def counted(home: Home) -> dict[str, int]:
    """What the model's owner has counted, by session."""
    path = home.silo(MODEL).models / ".queries.json"
    said = json.loads(path.read_text())[DATA] if path.exists() else {}
    return {work.rpartition("/")[2]: rows for work, rows in said.items()}


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).uniform(-1, 1, (count, 30))


# The quota


def test_rows_that_come_before_the_offer_are_counted_and_refused_beyond_the_quota(
    home: Home,
) -> None:
    body = save({"rows": rows(2).astype(np.float32)})
    allow(home, queries=3)
    with begun(home, mode="plain") as job:
        context = job.context(MODEL)
        with pytest.raises(PolicyRefused, match="predict 3 more rows"):
            ModelSilo(context).answer(DATA, "rows", 0, body)
        assert context.gate.stored("answers", 0) is None
    assert counted(home) == {}
    allow(home, queries=4)
    with begun(home, mode="plain") as job:
        silo = ModelSilo(job.context(MODEL))
        answer = silo.answer(DATA, "rows", 0, body)
        assert answer is not None and load(answer)["logits"].shape == (2, 2)
        assert counted(home) == {"0": 4}
        said = silo.answer(COORDINATOR, "offer", 0, b"")
        assert said is not None and json.loads(said) == {"facts": None}
        assert silo.answer(DATA, "rows", 1, body) is not None
    assert counted(home) == {"0": 4}  # once for the session, whoever spoke first


class Asking:
    """The data silo's end of encrypted inference, with keys that it chooses itself."""

    def __init__(self, silo: ModelSilo) -> None:
        self.silo = silo
        plan = silo.answer(DATA, "plan", 0, b"")
        assert plan is not None
        self.client = Client(read_plan(plan))

    def register(self, session: int) -> bytes | None:
        return self.silo.answer(DATA, "keys", session, self.client.keys())

    def ask(self, round: int) -> bytes | None:
        body = msgpack.packb([self.client.encrypt(row[None]) for row in rows(2)])
        return self.silo.answer(DATA, "rows", round, body)


def test_a_session_whose_keys_never_came_is_answered_nothing(home: Home) -> None:
    allow(home, queries=8)
    with begun(home) as job:
        context = job.context(MODEL)
        client = Asking(ModelSilo(context))
        with pytest.raises(BadMessage, match="keys did not come"):
            client.ask(0)
        client.register(0)
        assert client.ask(0) is not None
        for silo in (client.silo, ModelSilo(context)):  # and one that died and was started again
            client.silo = silo
            for round in (2, 3, 15):  # of sessions 1 and 7, under the key of session 0
                with pytest.raises(BadMessage, match="keys did not come"):
                    client.ask(round)
        assert client.ask(1) is not None
        assert counted(home) == {"0": 4}
        assert client.register(1) == b""
        assert counted(home) == {"0": 4, "1": 4} and client.ask(2) is not None
        with pytest.raises(PolicyRefused, match="predict 0 more rows"):
            client.register(2)
        assert client.ask(3) is not None


def test_keys_of_a_later_session_open_no_earlier_one(home: Home) -> None:
    with begun(home) as job:
        client = Asking(ModelSilo(job.context(MODEL)))
        assert client.register(5) == b""
        assert [client.ask(round) for round in range(10)] == [None] * 10
        assert client.register(4) is None  # what was sent before, and came late
        assert client.ask(10) is not None
        assert counted(home) == {"5": 4}
        for session in (-1, 8):
            with pytest.raises(BadMessage):
                ModelSilo(job.context(MODEL))._take(session)


@pytest.mark.parametrize("count", [1, 3, 50_000])
def test_a_node_runs_the_places_of_a_batch_and_no_more(home: Home, count: int) -> None:
    with begun(home, model={"own": "turned"}, **SEALED) as job:
        owner, node = ModelSilo(job.context(MODEL)), NodeSilo(job.context(NODE))
        owner.answer(COORDINATOR, "offer", 0, b"")
        message = job.end(NODE).receive(deadline=5)
        assert node.answer(MODEL, message.header.name, 0, message.body) is None
        context, sealed = job.context(DATA), owner.answer(DATA, "plan", 0, b"")
        assert sealed is not None
        keys = Sealing(sealed, context.signer, owner=context.members[MODEL])  # type: ignore[arg-type]

        def ask(round: int, count: int) -> int:
            body = keys.seal({"rows": torch.from_numpy(rows(count))})
            answer = node.answer(DATA, "rows", round, body)
            assert answer is not None
            return len(keys.open(answer))

        assert ask(0, 2) == 2
        with pytest.raises(BadMessage, match="not those of 2 places"):
            ask(1, count)
    assert counted(home) == {"0": 4}


# Plans


def planned(begun: Begun, change: Callable[[bytes], bytes] = lambda plan: plan) -> DataSilo:
    """The data silo, whose model silo gives a changed plan and answers nothing else."""
    plan = ModelSilo(begun.context(MODEL)).answer(DATA, "plan", 0, b"")
    assert plan is not None
    silo, given = DataSilo(begun.context(DATA)), change(plan)

    def ask(to: str, name: str, round: int, body: bytes) -> bytes:
        assert name == "plan", "a key was made"
        return given

    silo.ask = ask  # type: ignore[method-assign]
    return silo


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody draws a secret."""
    monkeypatch.setattr(ckks, "_drawn", lambda context: pytest.fail("a key was made"))


@pytest.mark.usefixtures("no_keys")
def test_a_plan_of_another_packing_is_refused_before_a_key_is_made(home: Home) -> None:
    with begun(home, packing="latency") as job:
        throughput = planned(job, lambda plan: packed_as("throughput", plan))
        with pytest.raises(BadMessage, match="packed for throughput") as caught:
            throughput.answer(COORDINATOR, "batch", 0, b"")
        assert (caught.value.field, caught.value.allowed) == ("plan.mode", "latency")


def packed_as(mode: str, plan: bytes) -> bytes:
    """A plan of the same model that packs in another way."""
    said = read_plan(plan)
    assert said.mode != mode and mode == "throughput"
    return replace(said, mode=mode, feature=(), start=0, steps=()).pack()


@pytest.mark.usefixtures("no_keys")
def test_a_plan_whose_batch_fits_no_message_is_refused_before_a_row_is_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation.sources import rows as sources

    monkeypatch.setattr(sources, "load_part", lambda *asked: pytest.fail("a row was read"))
    with begun(home, rows=200_000, batch_size=200_000, packing=None) as job:
        compiled = planned(job)
        honest = read_plan(compiled.ask(MODEL, "plan", 0, b""))
        assert honest.mode == "throughput"
        # One row in a ciphertext, where the job leaves it to the model's silo.
        given = replace(
            honest, mode="latency", feature=(*range(30), -1, -1), start=0, relinearise=True
        )
        assert request_bytes(given) * 200_000 > 1 << 30
        silo = planned(job, lambda plan: given.pack())
        with pytest.raises(BadMessage, match="a smaller batch_size may fit") as caught:
            silo.answer(COORDINATOR, "batch", 0, b"")
        assert caught.value.allowed == 1 << 30
        assert job.state(DATA) is State.STARTED  # no read was recorded, as there was none
        # The honest plan is taken: the next thing is a key.
        with pytest.raises(pytest.fail.Exception, match="a key was made"):
            planned(job).answer(COORDINATOR, "batch", 0, b"")


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_the_size_of_a_request_is_known_before_a_key_is_made(home: Home, mode: str) -> None:
    with begun(home, packing=mode) as job:
        plan = read_plan(ModelSilo(job.context(MODEL)).answer(DATA, "plan", 0, b"") or b"")
    made = len(Client(plan).encrypt(rows(1)))
    assert request_bytes(plan) == pytest.approx(made, rel=0.1)


# A coordinator that comes back


def test_what_a_resumed_coordinator_asks_meanwhile_is_answered_in_order(home: Home) -> None:
    with begun(home, mode="plain", deadline=20.0) as job:
        coordinator, model = job.end(COORDINATOR), job.end(MODEL)
        stops: list[Stop] = []
        context = job.context(DATA)
        thread = threading.Thread(target=lambda: stops.append(DataSilo(context).run()))
        thread.start()
        coordinator.send(DATA, round=0, name="batch", body=b"")
        asked = model.receive(deadline=10)
        assert asked.header.name == "rows"
        # The coordinator was killed and begins again, while the model's silo is at work.
        for name in ("offer", "batch", "finish"):
            coordinator.send(DATA, round=0, name=name, body=b"")
        model.send(DATA, round=7, name="rows", body=b"late")  # to an earlier session: dropped
        waiting = job.exchange.inbox(DATA)
        until_kept(lambda: len(waiting.held) == 4)  # with the batch under way; nothing is lost yet
        model.send(DATA, round=0, name="rows", body=save({"logits": np.zeros((2, 2))}))
        heard = [coordinator.receive(deadline=10).header.name for _ in range(3)]
        thread.join(timeout=10)
        assert heard == ["batch", "offer", "batch"] and stops == [Stop.COMPLETED]
        assert len(waiting.held) == 1 and not waiting.waiting  # `finish` is never acknowledged


def until_kept(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("what the coordinator asked meanwhile was not kept")


# What the model's silo tells of its model


@pytest.mark.parametrize(
    ("mode", "path", "value"),
    [
        ("ckks", ("key_bytes",), 10**400),
        ("ckks", ("seconds",), 10**400),
        ("ckks", ("error",), -1.0),
        ("ckks", ("ring",), True),
        ("ckks", ("depth",), "3"),
        ("equivariant", ("findings", 0, "value"), 10**400),
        ("equivariant", ("findings", 0, "chance"), float("nan")),
    ],
    ids=["huge", "huge-real", "negative", "truth", "text", "huge-finding", "nan"],
)
def test_facts_that_no_model_has_end_the_job_and_not_its_coordinator(
    home: Home, monkeypatch: pytest.MonkeyPatch, mode: str, path: tuple[Any, ...], value: Any
) -> None:
    honest = ModelSilo._ready

    def hostile(self: ModelSilo, body: bytes) -> bytes:
        said = json.loads(honest(self, body))
        place = said["facts"]
        for name in path[:-1]:
            place = place[name]
        assert path[-1] in place
        place[path[-1]] = value
        return json.dumps(said).encode()

    monkeypatch.setattr(ModelSilo, "_ready", hostile)
    changes = SEALED | {"model": {"own": "turned"}} if mode == "equivariant" else {}
    result = drive(home, Job.create(home, spec(**changes)))
    assert result["status"] == "failed"
    assert result["error"]["code"] == "SECURE-002"
    assert "told no facts of its model" in result["error"]["message"]

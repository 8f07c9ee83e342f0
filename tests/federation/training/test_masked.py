"""Masked train jobs: the sum is exact, nobody's own update is seen, and a crash changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tests_jobs_here import allow, drive, kill, spec
from tests_parties import facts
from tests_parties import spec as train_spec

from federation import lifecycle
from federation.books import open_mirror
from federation.embedded import Embedded
from federation.errors import BadInput
from federation.home import Home
from federation.init import init_example
from federation.lifecycle import quotes_of
from federation.record import Job
from federation.releaselog import ReleaseLog
from federation.training import masked
from federation.training.trainer import Trainer
from secure.aggregation.server import Server
from secure.errors import RoundRefused

MASKED = {"name": "masked"}
EXACT: dict[str, Any] = {
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 10_000, "learning_rate": 0.5},
    "privacy": {"none": True},
    "evaluation": {"release": "none"},
}


def changes(home: Home, job: str) -> dict[str, dict[str, torch.Tensor]]:
    """What each silo stored as its update of round 0; only its own host has it."""
    found = {}
    for silo in home.silo_names():
        log = ReleaseLog(home.silo(silo).releases / job / "releases.log")
        begun = log.find(0, "update")
        assert begun is not None
        body = log.stored(begun)
        assert body is not None
        found[silo] = load(body)
    return found


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


def started(home: Home, parties: Embedded, mirror: Any, **asked: Any) -> Job:
    job = Job.create(home, spec(aggregation=MASKED, **asked))
    lifecycle.reserve(job, parties, mirror)
    lifecycle.start(job, parties, mirror)
    return job


@pytest.mark.parametrize("weighting", ["size", "uniform"])
def test_the_model_is_bit_for_bit_that_of_the_quantized_sum(home: Home, weighting: str) -> None:
    strategy = {"rounds": 1, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5}
    asked = {"strategy": strategy | {"weighting": weighting}, "evaluation": {"release": "none"}}
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = started(home, parties, mirror, **asked)
        lifecycle.coordinate(job, parties)
    outcome = job.document("outcome")
    assert outcome is not None
    model = load(Path(outcome["model"]).read_bytes())
    sizes = {s: f.sizes["breast-cancer"].train for s, f in parties.federation.silos.items()}
    weights = sizes if weighting == "size" else dict.fromkeys(sizes, 1)
    bound = (2**31 - 1) // len(sizes)
    total = sum(
        np.rint(flat(change) * (weights[silo] / sum(weights.values()) * (bound / 8.0)))
        for silo, change in changes(home, job.id).items()
    )
    expected = (total * (8.0 / bound)).astype(np.float32)  # the first model is zero
    np.testing.assert_array_equal(flat(model).astype(np.float32), expected)


def test_a_masked_job_gives_the_model_of_a_plain_one(home: Home) -> None:
    allow(home, no_privacy=True)
    models = []
    for aggregation in ({"name": "plain"}, MASKED):
        result = drive(home, Job.create(home, spec(aggregation=aggregation, **EXACT)))
        assert result["status"] == "completed"
        models.append(flat(load(Path(result["model"]).read_bytes())))
    np.testing.assert_allclose(models[0], models[1], atol=1e-6)


def test_no_update_reaches_the_coordinator(home: Home, heard: list[bytes]) -> None:
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = started(home, parties, mirror)
        lifecycle.coordinate(job, parties)
        assert job.status == "coordinated" and len(heard) > 3 * 6
        for change in changes(home, job.id).values():
            for value in change.values():
                piece = value.numpy().tobytes()[:24]
                assert not any(piece in body for body in heard)


def test_no_silo_takes_part_in_a_sum_without_another(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, advance = Server.receive, Server.advance

    def deaf(self: Server, sender: str, packed: bytes) -> None:
        """Leave one silo's vector out, as if it had never come."""
        if not (self.phase == 2 and sender == "silo-2"):
            receive(self, sender, packed)

    def to_all(self: Server) -> dict[str, bytes]:
        mail = advance(self)
        return {name: mail.get(name, next(iter(mail.values()))) for name in self.facts.members}

    monkeypatch.setattr(Server, "receive", deaf)
    monkeypatch.setattr(Server, "advance", to_all)
    monkeypatch.setattr("secure.aggregation.rounds.Round.threshold", property(lambda self: 2))
    monkeypatch.setattr("secure.aggregation.rounds.FEWEST", 2)
    refused: list[Exception] = []
    answer = masked.MaskedSilo.answer

    def watched(self: Any, step: str, round: int, body: bytes) -> bytes:
        try:
            return answer(self, step, round, body)
        except RoundRefused as error:
            refused.append(error)
            raise

    monkeypatch.setattr(masked.MaskedSilo, "answer", watched)
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = started(home, parties, mirror)
        lifecycle.coordinate(job, parties)
    assert job.status == "stopped"
    assert refused and all("a sum of 2 of 3 silos" in str(error) for error in refused)


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("federation.training.masked:MaskedSilo.answer:after", 2),
        pytest.param(
            "federation.training.masked:MaskedSilo.answer:before", 8, marks=pytest.mark.large
        ),
        pytest.param(
            "federation.training.masked:MaskedSilo.answer:after", 14, marks=pytest.mark.large
        ),
        ("federation.training.masked:MaskedSilo.answer:after", 15),  # opened, not yet summed
        pytest.param(
            "federation.training.checkpoint:Checkpoint.advance:after", 2, marks=pytest.mark.large
        ),
    ],
)
def test_killed_and_resumed(home: Home, point: str, times: int) -> None:
    job = Job.create(home, spec(aggregation=MASKED))
    kill(home, job, point, times)
    assert drive(home, Job(home, job.id))["status"] == "completed"


def test_two_silos_hide_nothing_and_a_rule_needs_to_see(home: Home) -> None:
    members = {f"s{i}": facts(silo=f"s{i}") for i in range(3)}
    job = train_spec(aggregation=MASKED)
    assert len(quotes_of(job, members)) == 3
    members.popitem()
    with pytest.raises(BadInput, match="3 silos"):
        quotes_of(job, members)
    for wrong in ({"rule": "median"}, {"range": 0.0}):
        with pytest.raises(BadInput):
            train_spec(aggregation=MASKED | wrong)
    with pytest.raises(BadInput, match="range"):
        train_spec(aggregation={"name": "plain", "range": 1.0})


def test_a_silo_that_drops_out_under_way_is_left_out_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four silos, one of which stops after it has shared its keys: its masks are taken off."""
    home = init_example(tmp_path / "four", "breast-cancer", silos=4)
    allow(home, no_privacy=True)
    answer = masked.MaskedSilo.answer

    def stopping(self: masked.MaskedSilo, step: str, round: int, body: bytes) -> bytes:
        if (self._context.facts.silo, step, round) == ("silo-3", "mask", 1):
            raise MemoryError
        return answer(self, step, round, body)

    monkeypatch.setattr(masked.MaskedSilo, "answer", stopping)
    exact = EXACT | {"strategy": EXACT["strategy"] | {"rounds": 2}}
    result = drive(home, Job.create(home, spec(aggregation=MASKED, quorum=3, **exact)))
    assert result["status"] == "completed"
    masked_model = flat(load(Path(result["model"]).read_bytes()))
    monkeypatch.undo()

    failing = Trainer.train

    def train(self: Trainer, round: int, *rest: Any) -> bytes:
        if (self._context.facts.silo, round) == ("silo-3", 1):
            raise MemoryError
        return failing(self, round, *rest)

    monkeypatch.setattr(Trainer, "train", train)
    result = drive(home, Job.create(home, spec(quorum=3, **exact)))
    plain_model = flat(load(Path(result["model"]).read_bytes()))
    np.testing.assert_allclose(masked_model, plain_model, atol=1e-6)


def test_a_silo_signs_one_list_of_survivors_a_round(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(
        secret=b"k" * 32,
        directory=tmp_path,
        members=dict.fromkeys("abcd", ""),
        spec=spec(aggregation=MASKED, quorum=3),
    )
    silo = masked.MaskedSilo(context)
    silo._agree_once(1, ["a", "b", "c"])
    silo._agree_once(1, ["a", "b", "c"])
    for other in (["a", "b", "c", "d"], ["a", "b", "d"]):
        with pytest.raises(RoundRefused, match="another list"):
            masked.MaskedSilo(context)._agree_once(1, other)
    silo._agree_once(2, ["a", "b", "d"])
    with pytest.raises(RoundRefused, match="2 of 4 silos"):
        silo._agree_once(3, ["a", "b"])

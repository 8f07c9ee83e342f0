"""Encrypted train jobs: the sum is exact, nobody's own update is seen, a crash changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tests_jobs_here import allow, drive, kill, spec
from tests_parties import facts
from tests_parties import spec as train_spec

from federation import lifecycle
from federation.books import open_ledger, open_mirror
from federation.embedded import Embedded
from federation.errors import BadInput
from federation.home import Home
from federation.lifecycle import quotes_of
from federation.record import Job
from federation.releaselog import ReleaseLog
from federation.training.encrypted import CIPHERTEXT, SUM
from secure.aggregation.ckks.coordinator import Adder
from secure.aggregation.ckks.facts import Budget
from secure.errors import BadParameters

CKKS = {"name": "ckks"}
LENGTH = 2 * 30 + 2
EXACT: dict[str, Any] = {
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 10_000, "learning_rate": 0.5},
    "privacy": {"none": True},
    "evaluation": {"release": "none"},
}


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


def stored(home: Home, silo: str, job: str, name: str, round: int = 0) -> bytes:
    log = ReleaseLog(home.silo(silo).releases / job / "releases.log")
    begun = log.find(round, name)
    assert begun is not None
    body = log.stored(begun)
    assert body is not None
    return body


def coordinated(home: Home, **asked: Any) -> Job:
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = Job.create(home, spec(aggregation=CKKS, **asked))
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
    return job


@pytest.mark.parametrize("weighting", ["size", "uniform"])
def test_the_model_is_bit_for_bit_that_of_the_quantized_sum(home: Home, weighting: str) -> None:
    strategy = {"rounds": 1, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5}
    asked = {"strategy": strategy | {"weighting": weighting}, "evaluation": {"release": "none"}}
    job = coordinated(home, **asked)
    outcome = job.document("outcome")
    assert outcome is not None
    model = load(Path(outcome["model"]).read_bytes())
    silos = home.federation().silos
    sizes = {s: f.sizes["breast-cancer"].train for s, f in silos.items()}
    weights = sizes if weighting == "size" else dict.fromkeys(sizes, 1)
    bound = Budget(LENGTH, 1, 8.0).quantizer.bound
    total = sum(
        np.rint(
            flat(load(stored(home, silo, job.id, "update")))
            * (weights[silo] / sum(weights.values()) * (bound / 8.0))
        )
        for silo in silos
    )
    expected = (total * (8.0 / bound)).astype(np.float32)  # the first model is zero
    np.testing.assert_array_equal(flat(model).astype(np.float32), expected)


def test_an_encrypted_job_gives_the_model_of_a_plain_one(home: Home) -> None:
    allow(home, no_privacy=True)
    models = []
    for aggregation in ({"name": "plain"}, CKKS):
        result = drive(home, Job.create(home, spec(aggregation=aggregation, **EXACT)))
        assert result["status"] == "completed"
        models.append(flat(load(Path(result["model"]).read_bytes())))
    # Per round the proved bound, and one rounding of each parameter to 32 bits at either side.
    rounding = 2 * np.abs(models[0]).max() * 2.0**-24
    stated = 3 * (Budget(LENGTH, 3, 8.0).error + rounding)
    assert stated < 1e-5
    np.testing.assert_allclose(models[0], models[1], rtol=0, atol=stated)


def test_no_update_reaches_the_coordinator(home: Home, heard: list[bytes]) -> None:
    job = coordinated(home)
    assert job.status == "coordinated" and len(heard) > 3 * 6
    for silo in home.silo_names():
        for value in load(stored(home, silo, job.id, "update")).values():
            piece = value.numpy().tobytes()[:24]
            assert not any(piece in body for body in heard)


def test_every_ciphertext_and_opened_sum_is_in_the_egress_log(home: Home) -> None:
    allow(home, no_privacy=True)
    result = drive(home, Job.create(home, spec(aggregation=CKKS, **EXACT)))
    names = sorted(home.silo_names())
    for at, name in enumerate(names):
        ledger = open_ledger(home, name)
        lines = [e.data for e in ledger.entries() if e.kind == "egress"]
        assert ledger.verify().ok
        ledger.close()
        found = {(line["name"], line["protection"]) for line in lines}
        expected = {("update", "unprotected"), (CIPHERTEXT, "encrypted")}
        assert found == (expected | {(SUM, "unprotected")} if at < 2 else expected)
        assert sorted(line["round"] for line in lines if line["name"] == CIPHERTEXT) == [0, 1, 2]
        assert result["silos"][name]["unprotected"] == (6 if at < 2 else 3)
    card = Path(result["model"]).with_name("card.md").read_text()
    report = Path(result["report"]).read_text()
    for text in (card, report):
        assert "honest but curious" in text and "can read every update" in text


@pytest.mark.parametrize(
    ("point", "times"),
    [
        (
            "federation.training.encrypted:EncryptedSilo.answer:after",
            7,
        ),  # one has encrypted, unheard
        pytest.param("federation.release:Gate.release:after", 8, marks=pytest.mark.large),
        pytest.param(
            "federation.training.encrypted:EncryptedSilo.answer:before", 13, marks=pytest.mark.large
        ),
        ("federation.training.encrypted:EncryptedSilo.answer:after", 12),  # opened, not yet summed
        pytest.param(
            "federation.training.checkpoint:Checkpoint.advance:after", 2, marks=pytest.mark.large
        ),
    ],
)
def test_killed_and_resumed(home: Home, point: str, times: int) -> None:
    job = Job.create(home, spec(aggregation=CKKS))
    kill(home, job, point, times)
    name = sorted(home.silo_names())[0]
    log = ReleaseLog(home.silo(name).releases / job.id / "releases.log")
    before = {(b.round, b.name): log.stored(b) for b in log.all() if log.stored(b) is not None}
    assert before
    with job.working(), Embedded(home) as parties:
        lifecycle.coordinate(job, parties)
    again = ReleaseLog(home.silo(name).releases / job.id / "releases.log")
    for (round, what), body in before.items():
        begun = again.find(round, what)
        assert begun is not None and again.stored(begun) == body
    assert drive(home, job)["status"] == "completed"


def test_a_silo_opens_no_sum_without_another(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = Adder.opening

    def partial(self: Adder) -> bytes:
        self._halves["silo-3"] = self._halves["silo-2"]
        return opening(self)

    monkeypatch.setattr(Adder, "opening", partial)
    job = coordinated(home)
    assert job.status == "stopped" and "SECURE-002" in str(job.error)


def test_a_quote_forecasts_and_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"s{i}": facts(silo=f"s{i}") for i in range(3)}
    quotes = quotes_of(train_spec(aggregation=CKKS), members)
    for quote in quotes.values():
        told = quote.plan["encryption"]
        assert told["upload_bytes"] > 4096 * 12 and told["error"] < 1e-6
        assert quote.releases[CIPHERTEXT] == quote.releases[SUM] == 4
    assert "encryption" not in quotes_of(train_spec(), members)["s0"].plan
    with monkeypatch.context() as patch:
        patch.setattr("secure.aggregation.ckks.facts.MEMORY", 700_000)
        with pytest.raises(BadParameters, match="MiB at a coordinator of 3"):
            quotes_of(train_spec(aggregation=CKKS), members)
    members.popitem()
    with pytest.raises(BadInput, match="3 silos"):
        quotes_of(train_spec(aggregation=CKKS), members)
    for wrong in ({"rule": "median"}, {"range": 0.0}):
        with pytest.raises(BadInput):
            train_spec(aggregation=CKKS | wrong)


def test_what_does_not_fit_is_refused_before_a_key_is_made() -> None:
    with pytest.raises(BadParameters, match="MiB at a silo"):
        Budget(1 << 26, 10, 8.0)
    with pytest.raises(BadParameters, match="MiB at a coordinator of 64"):
        Budget(1 << 21, 10, 8.0).check_coordinator(64)
    with pytest.raises(BadParameters, match="fewer rounds"):
        Budget(1 << 23, 100_000, 8.0)

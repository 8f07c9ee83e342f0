"""Train jobs whose noise is in the masked sum alone: its law, its price, and who may ask for it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests_jobs_here import allow, drive, kill, spec
from tests_parties import dataset, facts, part, silo_context
from tests_parties import spec as train_spec

from federation import lifecycle
from federation.books import open_mirror
from federation.embedded import Embedded
from federation.errors import BadInput, BudgetRefused, PolicyRefused
from federation.home import Home
from federation.init import init_example
from federation.jobs import train
from federation.lifecycle import quotes_of
from federation.models import build_model
from federation.record import Job
from federation.releaselog import ReleaseLog
from federation.training import masked
from federation.training.trainer import Trainer
from privacy.accounting import rdp
from privacy.events import All, DiscreteGaussian, Poisson, Repeat, Skellam
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.randomness import StepSource
from privacy.mechanisms.skellam import SkellamPlan, noisy_integers, skellam

RATE = 0.5
STRATEGY = {
    "rounds": 2,
    "local_steps": 1,
    "batch_size": 32,
    "learning_rate": RATE,
    "weighting": "uniform",
}
SHARED: dict[str, Any] = {
    "strategy": STRATEGY,
    "privacy": {"noise_multiplier": 1.5},
    "aggregation": {"name": "masked", "noise": "distributed"},
    "quorum": 3,
}
ONCE = SHARED | {"strategy": STRATEGY | {"rounds": 1}, "evaluation": {"release": "none"}}
PLAN = SkellamPlan.of(noise_multiplier=1.5, clip=1.0, dimension=62, silos=3, colluding=1)


def opened(home: Home) -> Home:
    allow(home, protections=["dp", "masked", "public"])
    return home


def parts_of(home: Home, job: str) -> dict[str, np.ndarray]:
    """What each silo stored as its part of round 0, which only its own host has."""
    found = {}
    for silo in home.silo_names():
        log = ReleaseLog(home.silo(silo).releases / job / "releases.log")
        begun = log.find(0, "update")
        assert begun is not None and begun.protection == "masked"
        body = log.stored(begun)
        assert body is not None
        found[silo] = np.frombuffer(body, dtype="<i8")
    return found


def weights(path: str) -> np.ndarray:
    """The model's parameters in the order of the module: weight, then bias."""
    tensors = load(Path(path).read_bytes())
    assert len(tensors) == 2
    return np.concatenate([t.double().numpy().ravel() for _, t in sorted(tensors.items())[::-1]])


def once(home: Home) -> Job:
    """A job of one round, up to its outcome."""
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = Job.create(home, spec(**ONCE))
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
    return job


def assert_moved(job: Job, total: Any) -> None:
    """The model of a job went against this sum of three silos' parts, from zero."""
    outcome = job.document("outcome")
    assert outcome is not None
    gradient = total * 2.0**-PLAN.exponent / (3 * 32)
    np.testing.assert_array_equal(weights(outcome["model"]), np.float32(-RATE * gradient))


def test_the_model_moves_against_the_sum_of_the_parts(home: Home) -> None:
    job = once(opened(home))
    assert_moved(job, sum(parts_of(home, job.id).values()))


def test_only_integers_under_masks_leave(home: Home, heard: list[bytes]) -> None:
    job = once(opened(home))
    assert job.status == "coordinated"
    for integers in parts_of(home, job.id).values():
        assert len(integers) == PLAN.dimension and np.abs(integers).max() > 1000
        assert not any(integers.tobytes()[:24] in body for body in heard)


def test_a_part_is_the_rounded_sum_and_this_silos_share() -> None:
    """Against the mechanism by hand: the same sample, the same sum, the same noise."""
    asked, party = train_spec(**ONCE), facts()
    context = silo_context(asked, party, {"train": part(900)})
    trainer = Trainer(context)
    named = asked.model.model_dump()
    shape, classes = party.dataset.input_shape, party.dataset.n_classes
    model = build_model(named, shape, classes, seed=asked.seed)
    state = save({name: value.clone() for name, value in model.state_dict().items()})
    request = b"a request"
    got = np.frombuffer(trainer.train(0, state, request), dtype="<i8")
    plan = SkellamPlan.of(noise_multiplier=1.5, clip=1.0, dimension=len(got), silos=3, colluding=1)
    digest = hashlib.sha256(request).hexdigest()

    def source() -> StepSource:
        return StepSource(context.secret, "train", context.job, 0, 0, digest)

    mechanism = DpSgd(model, torch.nn.functional.cross_entropy, trainer._plan, learning_rate=0.1)
    rows, same = part(900), source()
    total = mechanism.total(rows.features, rows.labels, None, same).numpy()
    assert 0 < np.linalg.norm(total) < 100
    np.testing.assert_array_equal(got, noisy_integers(total, plan, same))
    again = source()
    mechanism.total(rows.features, rows.labels, None, again)
    noise = got - np.rint(total * 2.0**plan.exponent)
    np.testing.assert_array_equal(noise, skellam(plan.share, len(got), again))
    # A repeat after a crash is the same release.
    np.testing.assert_array_equal(got, np.frombuffer(trainer.train(0, state, request), "<i8"))


def test_the_price_is_that_of_the_worst_case(home: Home) -> None:
    """The event written down anew: two of three silos' noise, sampled, and a histogram."""
    with Embedded(opened(home)) as parties:
        asked = spec(**SHARED)
        document = lifecycle.quote(asked, parties)
        for silo, line in document["silos"].items():
            units = parties.federation.silos[silo].sizes["breast-cancer"].train
            step = Poisson(
                rate=32 / units,
                of=Skellam(variance=2 * PLAN.share, l2_squared=PLAN.l2_squared, l1=PLAN.l1),
            )
            noise = line["plan"]["evaluation_noise"]
            histogram = Repeat(times=1, of=DiscreteGaussian(sigma=noise))
            event = All(of=(Repeat(times=2, of=step), histogram))
            assert line["events"] == [event.model_dump(mode="json")]
            assert line["epsilon"] == rdp.epsilon(event, line["delta"])
            assert line["admissible"] and 0 < line["charge"] < 1
            alone = line["plan"]["shares"]
            assert alone["own_epsilon"] > 1.2 * line["epsilon"]
            assert (alone["silos"], alone["colluding"], alone["dimension"]) == (3, 1, 62)
        # The worst case has the noise multiplier that was asked for, and no less.
        worst = math.sqrt(2 * PLAN.share) * 2.0**-PLAN.exponent
        assert 1.5 <= worst < 1.501
        dearer = lifecycle.quote(spec(**SHARED | {"privacy": {"noise_multiplier": 1.0}}), parties)
        assert dearer["silos"]["silo-1"]["epsilon"] > document["silos"]["silo-1"]["epsilon"]


def test_a_refusal_tells_how_many_rounds_fit(home: Home) -> None:
    long = SHARED | {"strategy": STRATEGY | {"rounds": 50_000}}
    with Embedded(opened(home)) as parties, open_mirror(home) as mirror:
        with pytest.raises(BudgetRefused, match="rounds with this noise") as caught:
            lifecycle.reserve(Job.create(home, spec(**long)), parties, mirror)
        rounds = caught.value.allowed["rounds"]
        assert 1 < rounds < 50_000
        for n, fits in ((rounds, True), (2 * rounds, False)):
            asked = spec(**SHARED | {"strategy": STRATEGY | {"rounds": n}})
            document = lifecycle.quote(asked, parties)
            assert document["admissible"] is fits and set(document["fits"]) == {"rounds"}


def test_a_job_runs_to_its_end_and_its_card_says_what_it_rests_on(home: Home) -> None:
    result = drive(opened(home), Job.create(home, spec(**SHARED)))
    assert result["status"] == "completed" and result["metrics"]["accuracy"] is not None
    assert all(line["epsilon"] > 0 for line in result["silos"].values())
    card = (Path(result["model"]).parent / "card.md").read_text()
    assert "at most 1 of the silos tell anybody what they added" in card
    assert "every opened sum" in card and "every released update" not in card
    assert "added in floating point" not in card


def test_a_silo_that_drops_out_is_priced_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = opened(init_example(tmp_path / "four", "breast-cancer", silos=4))
    answer = masked.MaskedSilo.answer

    def stopping(self: masked.MaskedSilo, step: str, round: int, body: bytes) -> bytes:
        if (self._context.facts.silo, step) == ("silo-3", "mask"):
            raise MemoryError
        return answer(self, step, round, body)

    monkeypatch.setattr(masked.MaskedSilo, "answer", stopping)
    job = once(home)
    parts = parts_of(home, job.id)
    assert_moved(job, sum(part for silo, part in parts.items() if silo != "silo-3"))


def test_killed_and_resumed_adds_no_new_noise(home: Home) -> None:
    opened(home)
    job = Job.create(home, spec(**SHARED))
    kill(home, job, "federation.training.masked:MaskedSilo.answer:after", 9)
    before = parts_of(home, job.id)
    with job.working(), Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
        after = parts_of(home, job.id)
        assert all((before[silo] == after[silo]).all() for silo in before)
        lifecycle.settle(job, parties, mirror)
    assert job.status == "settled"


def test_a_policy_that_does_not_name_masks_refuses(home: Home) -> None:
    with (
        Embedded(home) as parties,
        open_mirror(home) as mirror,
        pytest.raises(PolicyRefused, match="masked"),
    ):
        lifecycle.reserve(Job.create(home, spec(**SHARED)), parties, mirror)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"strategy": STRATEGY | {"local_steps": 2}}, "local_steps"),
        ({"strategy": STRATEGY | {"weighting": "size"}}, "weighting"),
        ({"privacy": {"epsilon": 1.0}}, "noise_multiplier"),
        ({"privacy": {"none": True}, "evaluation": {"release": "none"}}, "noise_multiplier"),
        ({"privacy": {"noise_multiplier": 1.5, "unit": "subject"}}, "unit"),
        ({"quorum": None}, "quorum"),
        ({"aggregation": {"name": "plain", "noise": "distributed"}}, "masked"),
        ({"aggregation": {"name": "ckks", "noise": "distributed"}}, "masked"),
        ({"aggregation": {"name": "masked", "colluding": 1}}, "colluding"),
        ({"aggregation": SHARED["aggregation"] | {"range": 1.0}}, "range"),
        ({"aggregation": SHARED["aggregation"] | {"colluding": 2}}, "at most 1"),
        (
            {"aggregation": SHARED["aggregation"] | {"colluding": 3}, "quorum": 7},
            "at most 2",
        ),
    ],
)
def test_what_breaks_the_price_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        train_spec(**SHARED | changed)


def test_more_may_collude_where_the_masks_hold_against_more() -> None:
    more = {"aggregation": SHARED["aggregation"] | {"colluding": 2}, "quorum": 7}
    asked = train_spec(**SHARED | more)
    members = {f"s{i}": facts(silo=f"s{i}") for i in range(9)}
    quotes = quotes_of(asked, members)
    of_seven = SkellamPlan.of(noise_multiplier=1.5, clip=1.0, dimension=8, silos=7, colluding=2)
    step = quotes["s0"].event.of[0].of.of
    assert step == of_seven.event and of_seven.honest == 5
    # A quote is the same from a silo's own facts alone.
    own = train.quote(asked, {"s0": members["s0"]})["s0"]
    assert own.document() == quotes["s0"].document()


def test_a_person_at_several_silos_has_no_price() -> None:
    members = {f"s{i}": facts(silo=f"s{i}", subjects=500, schema=dataset(4)) for i in range(3)}
    with pytest.raises(BadInput, match="subject column"):
        quotes_of(train_spec(**SHARED), members)

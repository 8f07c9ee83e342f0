"""A silo's part: the same request gives the same bytes, and no seed reaches sample or noise."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests_parties import dataset, facts, part, silo_context, spec

from federation.sources.rows import Part
from federation.training.trainer import Trainer
from privacy.events import Unit

PARTS = {"train": part(300), "test": part(150, seed=1)}
BODY = save({"1.weight": torch.full((2, 3), 0.1), "1.bias": torch.zeros(2)})
QUIET = {"noise_multiplier": 0.01}


def trainer(parts: dict[str, Part] = PARTS, asked: Any = None, **context: Any) -> Trainer:
    return Trainer(silo_context(asked or spec(), context.pop("party", facts()), parts, **context))


def test_the_same_request_after_a_crash_gives_the_same_bytes() -> None:
    first = trainer()
    for round in range(3):
        first.train(round, BODY, b"request %d" % round)
    again = trainer()  # a new process: only secret, job, round and request are left
    assert again.train(1, BODY, b"request 1") == trainer().train(1, BODY, b"request 1")
    assert first.train(1, BODY, b"request 1") == again.train(1, BODY, b"request 1")
    assert first.evaluate(4, BODY, b"e") == again.evaluate(4, BODY, b"e")


def test_another_round_request_job_or_secret_gives_other_noise() -> None:
    asked = spec(strategy={"learning_rate": 10.0})
    updates = {
        trainer(asked=asked).train(0, BODY, b"a"),
        trainer(asked=asked).train(1, BODY, b"a"),
        trainer(asked=asked).train(0, BODY, b"b"),
        trainer(asked=asked, job="job-2").train(0, BODY, b"a"),
        trainer(asked=asked, secret=b"l" * 32).train(0, BODY, b"a"),
    }
    assert len(updates) == 5
    counts = {
        trainer(asked=spec(evaluation={"bins": 40})).evaluate(0, BODY, b"a"),
        trainer(asked=spec(evaluation={"bins": 40})).evaluate(1, BODY, b"a"),
        trainer(asked=spec(evaluation={"bins": 40}), secret=b"l" * 32).evaluate(0, BODY, b"a"),
    }
    assert len(counts) == 3


def test_neither_the_specs_seed_nor_a_global_one_reaches_sample_or_noise() -> None:
    updates = set()
    for seed in (1, 2):
        made = trainer(asked=spec(seed=seed))
        torch.manual_seed(seed)
        np.random.seed(seed)
        updates.add((made.train(0, BODY, b"a"), made.evaluate(0, BODY, b"a")))
    assert len(updates) == 1


def test_steps_of_a_round_are_drawn_apart() -> None:
    """Two steps in a round are not one step taken twice."""
    loud = {"noise_multiplier": 1000.0}
    moved = []
    for steps in (1, 2):
        asked = spec(privacy=loud, strategy={"local_steps": steps, "learning_rate": 1.0})
        state = load(trainer(asked=asked).train(0, BODY, b"a"))
        moved.append(state["1.weight"] - 0.1)
    assert not torch.allclose(moved[1], 2 * moved[0], rtol=0.1)


def test_the_sum_is_divided_by_the_declared_size_whatever_the_rows_are() -> None:
    """A silo with a tenth of what it declares moves a tenth as far."""
    party = facts(train=32)  # rate one, denominator 32
    asked = spec(privacy=QUIET, strategy={"local_steps": 1, "learning_rate": 1.0})
    one = Part(np.full((1, 3), 0.5, np.float32), np.array([1]), None, np.array([0]))
    moved = []
    for n in (1, 10, 32):
        rows = Part(np.repeat(one.features, n, 0), np.repeat(one.labels, n), None, np.arange(n))
        state = load(trainer({"train": rows}, asked, party=party).train(0, BODY, b"a"))
        moved.append((state["1.weight"] - 0.1).numpy())
    # Logits are equal, so the gradient of a row is (1/2, -1/2) times its features.
    for n, weights in zip((1, 10, 32), moved, strict=True):
        expected = n * np.array([[-0.25] * 3, [0.25] * 3]) / 32
        np.testing.assert_allclose(weights, expected, atol=1.5e-3)  # five standard deviations


def test_a_silo_without_a_row_takes_noised_steps_and_releases_noised_counts() -> None:
    nothing = {"train": part(0), "test": part(0)}
    made = trainer(nothing)
    state = load(made.train(0, BODY, b"a"))
    assert torch.isfinite(state["1.weight"]).all() and (state["1.weight"] != 0.1).all()
    counts = np.array(msgpack.unpackb(made.evaluate(0, BODY, b"a")))
    assert counts.shape == (2, 4) and counts.any()


def test_without_noise_to_speak_of_the_histogram_counts_the_scores() -> None:
    """Against scores written out: the softmax of a logistic model, cut into bins."""
    asked = spec(evaluation={"release": "exact", "bins": 10})
    counts = np.array(msgpack.unpackb(trainer(asked=asked).evaluate(0, BODY, b"a")))
    rows = PARTS["test"]
    weights = load(BODY)["1.weight"].numpy() * [[1], [-2]]
    body = save({"1.weight": torch.tensor(weights, dtype=torch.float32), "1.bias": torch.ones(2)})
    logits = rows.features @ weights.T + 1
    score = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    expected = [
        np.histogram(score[rows.labels == line], bins=10, range=(0, 1))[0] for line in (0, 1)
    ]
    told = np.array(msgpack.unpackb(trainer(asked=asked).evaluate(0, body, b"a")))
    assert (told == expected).all()
    assert (counts != told).any() and counts.sum() == told.sum() == 150


def test_the_released_counts_spread_around_the_true_ones_with_the_quoted_noise() -> None:
    exact = spec(evaluation={"release": "exact", "bins": 100})
    true = np.array(msgpack.unpackb(trainer(asked=exact).evaluate(0, BODY, b"a")))
    noised = trainer(asked=spec(evaluation={"bins": 100}))
    sigma = noised._context.quote.plan["evaluation_noise"]
    noise = [
        np.array(msgpack.unpackb(noised.evaluate(round, BODY, b"a"))) - true for round in range(5)
    ]
    assert np.std(noise) == pytest.approx(sigma, rel=0.1)  # a thousand cells: 2 % of spread
    assert abs(np.mean(noise)) < 6 * sigma / 1000**0.5


def test_at_subject_level_a_subject_is_in_one_cell_of_the_histogram() -> None:
    subjects = np.arange(150) // 5
    parts = {"train": part(300), "test": part(150, subjects=subjects)}
    party = facts(Unit.SUBJECT, subjects=30, schema=dataset(5))
    asked = spec(
        privacy={"noise_multiplier": 1.5, "unit": "subject"}, evaluation={"release": "exact"}
    )
    counts = np.array(msgpack.unpackb(trainer(parts, asked, party=party).evaluate(0, BODY, b"a")))
    assert counts.sum() == 30
    asked = spec(evaluation={"release": "exact"})
    party = facts(Unit.RECORD, subjects=30, schema=dataset(5))
    counts = np.array(msgpack.unpackb(trainer(parts, asked, party=party).evaluate(0, BODY, b"a")))
    assert counts.sum() == 150


def test_rows_are_read_once_and_only_the_part_that_is_needed() -> None:
    asked: list[str] = []
    context = silo_context(spec(), facts(), PARTS)
    context.rows = lambda name: (asked.append(name), PARTS[name])[1]
    made = Trainer(context)
    assert asked == []
    made.train(0, BODY, b"a")
    made.train(1, BODY, b"b")
    assert asked == ["train"]
    made.evaluate(1, BODY, b"c")
    made.evaluate(2, BODY, b"d")
    assert asked == ["train", "test"]

"""The coordinator's loop: when it evaluates, what makes it stop, and the metrics it gathers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from sklearn.metrics import accuracy_score
from tests_parties import Coordinator, coordinator, facts, spec

from federation.jobs import train
from secure.errors import BadMessage

PARTIES = [facts(silo="a", train=100), facts(silo="b", train=300)]


def drive(
    directory: Path, histograms: Any, rounds: int = 6, privacy: Any = None, **evaluation: Any
) -> tuple[Coordinator, Any]:
    """Run the loop; silos send models back unchanged, and `histograms(round, silo)` as counts."""

    def answer(name: str, round: int, silo: str, body: bytes) -> bytes:
        return body if name == "update" else msgpack.packb(histograms(round, silo))

    asked = spec(
        strategy={"rounds": rounds},
        evaluation=evaluation,
        privacy=privacy or {"noise_multiplier": 1.5},
    )
    context = coordinator(directory, asked, PARTIES, answer)
    return context, train.coordinate(context)


def counts(good: int) -> list[list[int]]:
    """Of a thousand rows of each class, `good` hundred thousandths score well."""
    return [[good, 0, 0, 1000 - good], [1000 - good, 0, 0, good]]


def evaluations(context: Coordinator) -> list[int]:
    return [round for name, round in context.asked if name == "evaluate"]


def test_it_evaluates_once_at_the_end_unless_asked_for_more(tmp_path: Path) -> None:
    context, outcome = drive(tmp_path, lambda round, silo: counts(800))
    assert evaluations(context) == [6] and context.asked[-1] == ("finish", 6)
    assert len(outcome.curve) == 1 and not outcome.stopped_early
    assert context.spec.evaluations == 1


@pytest.mark.parametrize(("rounds", "every"), [(6, 2), (7, 3), (6, 1), (3, 9)])
def test_every_so_many_rounds_it_evaluates_as_often_as_was_quoted(
    tmp_path: Path, rounds: int, every: int
) -> None:
    context, outcome = drive(tmp_path, lambda *_: counts(800), rounds, every=every)
    assert len(evaluations(context)) == context.spec.evaluations == len(outcome.curve)
    assert evaluations(context)[-1] == rounds and len(set(evaluations(context))) == len(
        outcome.curve
    )


def test_without_a_release_nothing_is_asked(tmp_path: Path) -> None:
    context, outcome = drive(tmp_path, lambda *_: counts(800), release="none")
    assert evaluations(context) == [] and outcome.metrics == {} and context.spec.evaluations == 0


def test_worse_metrics_stop_nothing_without_patience(tmp_path: Path) -> None:
    _, outcome = drive(tmp_path, lambda round, _: counts(900 - 50 * round), every=1)
    assert outcome.rounds == 6 and not outcome.stopped_early


@pytest.mark.parametrize(
    ("good", "patience", "stops"),
    [
        ([600, 700, 800, 900, 950, 980], 1, 6),  # always better: to the end
        ([600, 700, 650, 900, 950, 980], 1, 3),
        ([600, 700, 650, 900, 950, 980], 2, 6),  # better again before patience ends
        ([600, 700, 650, 640, 950, 980], 2, 4),
        ([700, 700, 700, 980, 980, 980], 2, 3),  # equal is not better
    ],
)
def test_it_stops_when_the_released_loss_has_not_fallen_for_patience_evaluations(
    tmp_path: Path, good: list[int], patience: int, stops: int
) -> None:
    context, outcome = drive(
        tmp_path, lambda round, _: counts(good[round - 1]), every=1, patience=patience
    )
    assert outcome.rounds == stops and outcome.stopped_early is (stops < 6)
    assert evaluations(context) == list(range(1, stops + 1))
    assert context.asked[-1] == ("finish", stops)
    assert outcome.metrics["log_loss"] == outcome.curve[-1]["log_loss"]


def test_a_loss_that_noise_hides_counts_neither_as_better_nor_as_worse(tmp_path: Path) -> None:
    hidden = [[0] * 4] * 2
    _, outcome = drive(tmp_path, lambda *_: hidden, every=1, patience=1)
    assert outcome.rounds == 6 and outcome.metrics["log_loss"] is None


def test_patience_without_anything_to_see_is_refused() -> None:
    from federation.errors import BadInput

    for evaluation in ({"patience": 2}, {"patience": 2, "every": 1, "release": "none"}):
        with pytest.raises(BadInput, match="patience needs every"):
            spec(evaluation=evaluation)


def test_metrics_are_of_all_silos_counts_together_and_of_each_alone(tmp_path: Path) -> None:
    own = {"a": counts(900), "b": counts(600)}
    context, outcome = drive(tmp_path, lambda _, silo: own[silo], privacy={"epsilon": 0.3})
    # The label and the decision of every row that the counts stand for.
    labels, decisions = [], []
    for table in own.values():
        for label, line in enumerate(table):
            for column, n in enumerate(line):
                labels += [label] * n
                decisions += [int(column >= 2)] * n
    assert outcome.metrics["accuracy"] == pytest.approx(accuracy_score(labels, decisions))
    silos = outcome.metrics["silos"]
    assert silos["a"]["accuracy"] == pytest.approx(0.9)
    assert silos["b"]["accuracy"] == pytest.approx(0.6)

    def width(metrics: dict[str, Any]) -> float:
        low, high = metrics["intervals"]["accuracy"]
        return float(high - low)

    # To first order 2 * 1.96 * noise * sqrt(sum (w - accuracy)^2) / rows; noises add by squares.
    noise = {s: q.plan["evaluation_noise"] for s, q in context.quotes.items()}
    for metrics, spread, rows in (
        (silos["a"], noise["a"], 2000),
        (silos["b"], noise["b"], 2000),
        (outcome.metrics, (noise["a"] ** 2 + noise["b"] ** 2) ** 0.5, 4000),
    ):
        accuracy = metrics["accuracy"]
        cells = 4 * (accuracy**2 + (1 - accuracy) ** 2)
        assert width(metrics) == pytest.approx(3.92 * spread * cells**0.5 / rows, abs=1.5e-3)


@pytest.mark.parametrize(
    "sent",
    [[[1, 2, 3, 4]], [[1, 2, 3]] * 2, [[1.5, 2, 3, 4]] * 2, [["1", "2", "3", "4"]] * 2, 7, None],
)
def test_a_histogram_of_another_shape_or_type_is_refused_by_the_silos_name(
    tmp_path: Path, sent: Any
) -> None:
    with pytest.raises(BadMessage, match="histogram of b"):
        drive(tmp_path, lambda _, silo: counts(800) if silo == "a" else sent)

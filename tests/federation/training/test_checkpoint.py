"""The coordinator's state: weights by declared sizes, averages, and resuming to the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests_parties import coordinator, dataset, facts, spec

from federation.errors import FederationError
from federation.jobs import train
from federation.training.checkpoint import Checkpoint
from secure.errors import SecureError

PARTIES = [facts(silo="a", train=100), facts(silo="b", train=300)]
NO_EVALUATION = {"release": "none"}
OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"proximal": 0.1},
    "fedavgm": {"server_learning_rate": 0.7},
    "fedadam": {"server_learning_rate": 0.05},
}


def silo_model(name: str, round: int, silo: str, body: bytes) -> bytes:
    """A silo's answer: a step from the model it was sent, different per silo and round."""
    numbers = torch.Generator().manual_seed(1000 * round + ord(silo))
    state = load(body)
    return save(
        {k: 0.9 * state[k] + torch.randn(state[k].shape, generator=numbers) for k in sorted(state)}
    )


def run(directory: Path, answer: Any = silo_model, **strategy: Any) -> Any:
    asked = spec(strategy={"rounds": 6, **strategy}, evaluation=NO_EVALUATION)
    context = coordinator(directory, asked, PARTIES, answer)
    return context, train.coordinate(context)


@pytest.mark.parametrize(("weighting", "shares"), [("size", (0.25, 0.75)), ("uniform", (0.5, 0.5))])
def test_models_are_weighted_by_declared_sizes_or_uniformly(
    tmp_path: Path, weighting: str, shares: tuple[float, float]
) -> None:
    asked = spec(strategy={"weighting": weighting})
    context = coordinator(tmp_path, asked, PARTIES, silo_model)
    checkpoint = Checkpoint.load_or_start(context)
    answers = context.ask("update", 0, checkpoint.global_bytes())
    checkpoint.aggregate(answers, context)
    for name, value in checkpoint.state.items():
        a, b = (load(answers[silo])[name] for silo in ("a", "b"))
        torch.testing.assert_close(value, shares[0] * a + shares[1] * b)


def test_at_subject_level_declared_subjects_are_the_weights(tmp_path: Path) -> None:
    from privacy.events import Unit

    parties = [
        facts(Unit.SUBJECT, silo=silo, train=500, subjects=n, schema=dataset(50))
        for silo, n in (("a", 90), ("b", 10))
    ]
    asked = spec(privacy={"noise_multiplier": 1.5, "unit": "subject"})
    context = coordinator(tmp_path, asked, parties, silo_model)
    checkpoint = Checkpoint.load_or_start(context)
    answers = context.ask("update", 0, checkpoint.global_bytes())
    checkpoint.aggregate(answers, context)
    a, b = (load(answers[silo])["1.bias"] for silo in ("a", "b"))
    torch.testing.assert_close(checkpoint.state["1.bias"], 0.9 * a + 0.1 * b)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize(("killed", "saved_every"), [(0, 0.0), (2, 0.0), (5, 0.0), (5, 60.0)])
def test_a_resumed_job_asks_the_same_again_since_it_was_saved_and_ends_with_the_same_model(
    tmp_path: Path,
    name: str,
    average: float,
    killed: int,
    saved_every: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "SAVED_EVERY", saved_every)
    bodies: dict[int, set[bytes]] = {}
    strategy = {"name": name, "average": average, **OPTIONS[name]}
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    _, expected = run(whole, **strategy)

    def dies(name: str, round: int, silo: str, body: bytes) -> bytes:
        if round == killed and silo == "b":
            raise KeyboardInterrupt
        return watched(name, round, silo, body)

    def watched(name: str, round: int, silo: str, body: bytes) -> bytes:
        bodies.setdefault(round, set()).add(body)
        return silo_model(name, round, silo, body)

    with pytest.raises(KeyboardInterrupt):
        run(part, dies, **strategy)
    context, outcome = run(part, watched, **strategy)
    first = 1 if saved_every else killed  # the first round is saved at once
    assert [round for kind, round in context.asked if kind == "update"] == list(range(first, 6))
    assert all(len(sent) == 1 for sent in bodies.values())
    assert outcome.model.read_bytes() == expected.model.read_bytes()


@pytest.mark.parametrize(("average", "last"), [(0.0, 1), (0.5, 3), (1.0, 6)])
def test_the_published_model_is_the_mean_of_the_last_rounds_models(
    tmp_path: Path, average: float, last: int
) -> None:
    sent: list[Any] = []

    def watched(name: str, round: int, silo: str, body: bytes) -> bytes:
        if silo == "a" and round > 0:
            sent.append(load(body)["1.weight"].numpy())
        return silo_model(name, round, silo, body)

    run(tmp_path, watched, average=average)
    _, outcome = run(tmp_path, watched, average=average)  # from the last checkpoint: no round left
    final = Checkpoint.load_or_start(
        coordinator(
            tmp_path,
            spec(strategy={"rounds": 6, "average": average}, evaluation=NO_EVALUATION),
            PARTIES,
            watched,
        )
    )
    models = [*sent, final.state["1.weight"].numpy()]
    assert len(models) == 6
    published = load(outcome.model.read_bytes())["1.weight"].numpy()
    np.testing.assert_allclose(published, np.mean(models[-last:], axis=0), atol=1e-5)


def test_the_first_model_comes_from_the_public_seed(tmp_path: Path) -> None:
    def first(seed: int) -> bytes:
        asked = spec(seed=seed, model={"name": "mlp"})
        return Checkpoint.load_or_start(
            coordinator(tmp_path, asked, PARTIES, silo_model)
        ).global_bytes()

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if k != "1.bias"},
        lambda s: s | {"extra": torch.zeros(1)},
        lambda s: s | {"1.bias": torch.zeros(3)},
        lambda s: s | {"1.bias": s["1.bias"].double()},
        lambda s: s | {"1.bias": torch.full_like(s["1.bias"], float("nan"))},
        lambda s: s | {"1.bias": torch.full_like(s["1.bias"], float("inf"))},
    ],
    ids=["missing", "extra", "shape", "type", "nan", "inf"],
)
def test_an_update_that_is_no_model_of_this_job_ends_the_round_by_the_silos_name(
    tmp_path: Path, change: Any
) -> None:
    def answer(name: str, round: int, silo: str, body: bytes) -> bytes:
        return save(change(load(body))) if silo == "b" else body

    context = coordinator(tmp_path, spec(), PARTIES, answer)
    checkpoint = Checkpoint.load_or_start(context)
    before = checkpoint.global_bytes()
    with pytest.raises((SecureError, FederationError), match=r"\bb\b"):
        checkpoint.aggregate(context.ask("update", 0, before), context)
    assert checkpoint.round == 0 and checkpoint.global_bytes() == before


def test_a_checkpoint_that_was_half_written_is_not_there(tmp_path: Path) -> None:
    """A crash leaves this state or the one before: the file is replaced, never written into."""
    context = coordinator(tmp_path, spec(), PARTIES, silo_model)
    checkpoint = Checkpoint.load_or_start(context)
    checkpoint.save(tmp_path)
    partial = tmp_path / ".checkpoint.safetensors.partial"
    partial.write_bytes(b"half")
    assert Checkpoint.load_or_start(context).global_bytes() == checkpoint.global_bytes()
    checkpoint.save(tmp_path)
    assert not partial.exists()


def test_seconds_add_up_over_attempts(tmp_path: Path) -> None:
    context = coordinator(tmp_path, spec(evaluation={"release": "none"}), PARTIES, silo_model)
    checkpoint = Checkpoint.load_or_start(context)
    checkpoint.seconds = 100.0
    checkpoint.save(tmp_path)
    assert train.coordinate(context).seconds > 100.0


def test_the_averaged_part_is_the_nearest_number_of_rounds(tmp_path: Path) -> None:
    strategy = {"rounds": 100, "average": 0.29}
    context = coordinator(tmp_path, spec(strategy=strategy), PARTIES, silo_model)
    assert Checkpoint.load_or_start(context).first_averaged == 71

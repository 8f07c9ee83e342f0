"""The coordinator's state of a train job, saved after a round.

All of it was released by the silos or is public: the global model, the strategy's own state, the
running average, and the metrics so far. Resuming from it repeats the same requests, to which the
silos answer with the same bytes: an older state costs those messages and nothing else.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from federation.errors import JobFailed
from federation.models import build_model
from federation.predict import describe
from federation.robust import State, Updates, make_rule
from federation.strategies import Strategy, make_strategy
from privacy.ledger.durable import write_durably
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.jobs.base import CoordinatorContext


@dataclass
class Checkpoint:
    """Where a train job stands after `round` rounds, which took `seconds` over all attempts."""

    round: int
    state: State
    strategy: Strategy
    average: State
    averaged: int
    first_averaged: int
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    _saved: float = -math.inf

    @classmethod
    def load_or_start(cls, context: CoordinatorContext) -> Checkpoint:
        """The last checkpoint of the job, or its first state from the public seed."""
        spec = context.spec
        dataset = next(iter(context.facts.values())).dataset
        model = build_model(
            spec.model.model_dump(), dataset.input_shape, dataset.n_classes, seed=spec.seed
        )
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        rounds = spec.strategy.rounds
        start = cls(
            round=0,
            state=state,
            strategy=make_strategy(
                spec.strategy.model_dump(),
                make_rule(spec.aggregation.rule, spec.aggregation.faulty),
            ),
            average={},
            averaged=0,
            first_averaged=rounds - round(spec.strategy.average * rounds),
        )
        path = context.directory / "checkpoint.safetensors"
        if path.exists():
            start._restore(path.read_bytes())
        return start

    def global_bytes(self) -> bytes:
        """The model that is sent to the silos for the next round."""
        body: bytes = save(self.state)
        return body

    def released_bytes(self) -> bytes:
        """The model that is evaluated and published: the average, where one is asked for."""
        body: bytes = save(self.average if self.averaged else self.state)
        return body

    def aggregate(self, answers: dict[str, bytes], context: CoordinatorContext) -> None:
        """Take one round's updates into the global model and the running average."""
        spec = context.spec
        updates = []
        for silo, body in answers.items():
            units = context.facts[silo].sizes.units(spec.privacy.unit)
            weight = float(units) if spec.strategy.weighting == "size" else 1.0
            updates.append((weight, _expected(body, self.state, silo)))
        self.advance(updates)

    def advance(self, updates: Updates) -> None:
        """Take one round's models, or their one mean, into the global model and the average."""
        self.state = self.strategy.aggregate(self.state, updates)
        self.round += 1
        if self.round > self.first_averaged:
            self.averaged += 1
            for name, value in self.state.items():
                old = self.average.get(name, value)
                self.average[name] = (
                    old + (value - old) / self.averaged if value.is_floating_point() else value
                )

    def evaluated(self, metrics: dict[str, Any]) -> None:
        """Take the released metrics of the present round."""
        self.curve.append({"round": self.round} | metrics)

    def is_evaluated(self) -> bool:
        """Whether the present round has its metrics."""
        return bool(self.curve) and self.curve[-1]["round"] == self.round

    def metrics(self) -> dict[str, Any]:
        """The last released metrics, without the round."""
        return {k: v for k, v in self.curve[-1].items() if k != "round"} if self.curve else {}

    def patience_over(self, patience: int | None) -> bool:
        """Whether the released log loss has not fallen for `patience` evaluations."""
        if patience is None or len(self.curve) <= patience:
            return False
        losses = [point["log_loss"] for point in self.curve if point.get("log_loss") is not None]
        best = min(range(len(losses)), key=losses.__getitem__) if losses else 0
        return len(losses) - 1 - best >= patience

    def save(self, directory: Path, *, every: float = 0.0) -> None:
        """Write the state durably, unless that was done less than `every` seconds ago.

        A crash leaves this state or the one before.
        """
        if time.monotonic() - self._saved < every:
            return
        tensors = {f"state.{k}": v for k, v in self.state.items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"strategy.{k}": v for k, v in self.strategy.state_dict().items()}
        facts = {
            "round": self.round,
            "averaged": self.averaged,
            "curve": self.curve,
            "seconds": self.seconds,
        }
        body = save(tensors, {"facts": json.dumps(facts)})
        write_durably(directory / "checkpoint.safetensors", body)
        self._saved = time.monotonic()

    def write_model(self, context: CoordinatorContext) -> Path:
        """Write the published model as safetensors and, beside it, what using it takes."""
        directory = context.directory / "model"
        directory.mkdir(exist_ok=True)
        path = directory / "model.safetensors"
        write_durably(path, self.released_bytes(), 0o644)
        dataset = next(iter(context.facts.values())).dataset
        describe(path, model=context.spec.model.model_dump(mode="json"), dataset=dataset)
        return path

    def _restore(self, body: bytes) -> None:
        length = int.from_bytes(body[:8], "little")
        facts = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["facts"])
        tensors = load(body)

        def part(prefix: str) -> State:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.round, self.averaged, self.curve = facts["round"], facts["averaged"], facts["curve"]
        self.seconds = facts["seconds"]
        self.state, self.average = part("state."), part("average.")
        self.strategy.load_state_dict(part("strategy."))


def _expected(body: bytes, like: State, silo: str) -> State:
    """Read a silo's update; check it against the model's names, shapes and types."""
    try:
        update: State = load(body)
    except SafetensorError:
        raise BadMessage(f"the update of {silo} is no safetensors file", field="update") from None
    for name, value in like.items():
        got = update.get(name)
        if got is None or got.shape != value.shape or got.dtype != value.dtype:
            raise BadMessage(f"the update of {silo} does not fit the model at {name}", field=name)
    if set(update) != set(like):
        raise BadMessage(f"the update of {silo} has names that the model has not", field="update")
    if not all(torch.isfinite(value).all() for value in update.values()):
        raise JobFailed(
            f"the model diverged at {silo}: its update holds values that are not finite; a smaller "
            "learning_rate or clip keeps steps smaller",
            field="strategy.learning_rate",
        )
    return update

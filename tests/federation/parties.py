"""Silos and a coordinator made of public facts and given rows, without a home or an exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from federation.documents import parse
from federation.jobs import train
from federation.jobs.base import AccountFacts, CoordinatorContext, PartyFacts, SiloContext
from federation.schema import Dataset
from federation.settings import Sizes
from federation.sources.rows import Part
from privacy.events import Relation, Unit

DELTA = 1e-6


def dataset(subject_rows: int | None = None, classes: int = 2) -> Dataset:
    """Three numbers and a label; with `subject_rows`, a subject column and that cap."""
    label = {"column": "y", "classes": [f"c{i}" for i in range(classes)]}
    document: dict[str, Any] = {
        "name": "d",
        "features": {name: {"type": "number", "bounds": [-1, 1], "missing": 0} for name in "abc"},
        "label": label,
        "split": {"by": "hash", "salt": "s", "test_fraction": 0.25},
    }
    if subject_rows:
        document["subject"] = {"column": "who", "max_rows": subject_rows}
    return parse(document, Dataset, "d")


def facts(
    *units: Unit,
    silo: str = "north",
    train: int = 1000,
    subjects: int | None = None,
    relation: Relation = Relation.ADD_REMOVE,
    filter: str = "renyi",
    schema: Dataset | None = None,
) -> PartyFacts:
    """A silo's public facts, with an account in each unit (by default one per record)."""
    return PartyFacts(
        silo=silo,
        source="d",
        dataset=schema or dataset(),
        sizes=Sizes(train=train, test=200, subjects=subjects),
        accounts=tuple(
            AccountFacts(f"d/{unit.value}", unit, relation, DELTA, filter)
            for unit in units or (Unit.RECORD,)
        ),
    )


def spec(*, strategy: dict[str, Any] | None = None, **changes: Any) -> train.Spec:
    base = {
        "kind": "train",
        "name": "small",
        "dataset": "d",
        "model": {"name": "logistic"},
        "strategy": {"rounds": 4, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5}
        | (strategy or {}),
        "privacy": {"noise_multiplier": 1.5},
    }
    return parse(base | changes, train.Spec, "job")


def part(n: int, seed: int = 0, classes: int = 2, subjects: np.ndarray | None = None) -> Part:
    numbers = np.random.default_rng(seed)
    return Part(
        features=numbers.uniform(-1, 1, (n, 3)).astype(np.float32),
        labels=numbers.integers(0, classes, n),
        subjects=subjects,
        numbers=np.arange(n),
    )


def silo_context(
    asked: train.Spec,
    party: PartyFacts,
    parts: dict[str, Part],
    *,
    secret: bytes = b"k" * 32,
    job: str = "job-1",
) -> SiloContext:
    """What a trainer works with; it neither sends nor releases here."""
    nothing: Any = None
    return SiloContext(
        federation="f",
        job=job,
        role="trainer",
        spec=asked,
        quote=train.quote(asked, {party.silo: party})[party.silo],
        facts=party,
        endpoint=nothing,
        gate=nothing,
        secret=secret,
        signer=nothing,
        members={},
        sizes={},
        directory=nothing,
        rows=parts.__getitem__,
        deadline=1.0,
    )


@dataclass
class Coordinator(CoordinatorContext):
    """A coordinator whose silos answer by a function (name, round, silo, body) -> bytes."""

    answer: Callable[[str, int, str, bytes], bytes] = field(kw_only=True)
    asked: list[tuple[str, int]] = field(default_factory=list, kw_only=True)

    def ask(self, name: str, round: int, body: bytes) -> dict[str, bytes]:
        self.asked.append((name, round))
        return {silo: self.answer(name, round, silo, body) for silo in self.quotes}

    def tell(self, name: str, round: int) -> None:
        self.asked.append((name, round))


def coordinator(
    directory: Path,
    asked: train.Spec,
    parties: list[PartyFacts],
    answer: Callable[[str, int, str, bytes], bytes],
) -> Coordinator:
    known = {party.silo: party for party in parties}
    nothing: Any = None
    return Coordinator(
        federation="f",
        job="job-1",
        spec=asked,
        quotes=train.quote(asked, known),
        facts=known,
        members={},
        endpoint=nothing,
        attendance=nothing,
        directory=directory,
        progress=lambda done, total: None,
        deadline=1.0,
        answer=answer,
    )

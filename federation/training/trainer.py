"""A silo's part of a train job: rounds of DP-SGD on its rows, and its test histogram."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgpack
import numpy as np
import torch
from safetensors.torch import load, save

from federation.evaluation import bin_scores
from federation.models import build_model
from federation.training.shares import skellam_plan
from privacy.events import Unit
from privacy.mechanisms.dp_sgd import DpSgd, Sgd
from privacy.mechanisms.histogram import noisy_histogram
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource
from privacy.mechanisms.skellam import noisy_integers

if TYPE_CHECKING:
    from federation.jobs.base import SiloContext
    from federation.sources.rows import Part


class Trainer:
    """Holds the model and, once they are first needed, the rows of one silo."""

    def __init__(self, context: SiloContext) -> None:
        torch.set_num_threads(1)
        self._context = context
        spec, facts, plan = context.spec, context.facts, context.quote.plan
        dataset = facts.dataset
        self._model = build_model(
            spec.model.model_dump(), dataset.input_shape, dataset.n_classes, seed=spec.seed
        )
        subject = dataset.subject
        self._plan = DpSgdPlan(
            unit=spec.privacy.unit,
            rate=plan["rate"],
            noise_multiplier=plan["noise_multiplier"],
            clip=plan["clip"],
            denominator=plan["denominator"],
            steps=spec.strategy.rounds * spec.strategy.local_steps,
            rows_per_subject=subject.max_rows if subject else 1,
        )
        mechanism = Sgd if spec.privacy.none else DpSgd
        self._mechanism = mechanism(
            self._model,
            torch.nn.functional.cross_entropy,
            self._plan,
            learning_rate=spec.strategy.learning_rate,
            proximal=spec.strategy.proximal or 0.0,
        )
        if isinstance(self._mechanism, DpSgd):
            self._mechanism.self_test(dataset.input_shape, dataset.n_classes)
        self._parts: dict[str, Part] = {}
        shared = spec.aggregation.distributed
        self._shares = skellam_plan(spec, plan["shares"]["dimension"]) if shared else None

    def train(self, round: int, body: bytes, request: bytes) -> bytes:
        """Take one round's local steps from the model in `body`; return the new model.

        Where updates are hidden, the change that they made, in float64: it is that which is summed.
        Where the noise is in the sum alone, the integers of one step's sum and this silo's share.
        """
        part = self._part("train")
        asked = hashlib.sha256(request).hexdigest()
        self._mechanism.load(load(body))
        if self._shares is not None:
            source = self._source("train", round, 0, asked)
            total = self._mechanism.total(part.features, part.labels, part.subjects, source)
            return noisy_integers(total.cpu().numpy(), self._shares, source).astype("<i8").tobytes()
        for step in range(self._context.spec.strategy.local_steps):
            source = self._source("train", round, step, asked)
            self._mechanism.step(part.features, part.labels, part.subjects, source)
        made = self._mechanism.state()
        if self._context.spec.aggregation.hidden:
            before = load(body)
            made = {
                name: value.double() - before[name].double()
                for name, value in made.items()
                if value.is_floating_point()
            }
        update: bytes = save(made)
        return update

    def evaluate(self, round: int, body: bytes, request: bytes) -> bytes:
        """Score the test rows with the model in `body`; return the histogram that may leave."""
        part = self._part("test")
        self._mechanism.load(load(body))
        rows = np.arange(len(part.labels))
        if self._context.spec.privacy.unit is Unit.SUBJECT and part.subjects is not None:
            # One row per subject, so that one subject moves one count by one.
            rows = np.unique(part.subjects, return_index=True)[1]
        probabilities = self._mechanism.probabilities(part.features[rows])
        columns = self._context.spec.evaluation.columns
        counts = bin_scores(probabilities, part.labels[rows], columns)
        noise = self._context.quote.plan["evaluation_noise"]
        if self._context.spec.evaluation.release == "dp":
            asked = hashlib.sha256(request).hexdigest()
            counts = noisy_histogram(counts, noise, self._source("test", round, 0, asked))
        packed: bytes = msgpack.packb(counts.tolist())
        return packed

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            self._parts[name] = self._context.rows(name)
        return self._parts[name]

    def _source(self, purpose: str, round: int, step: int, asked: str) -> StepSource:
        """The sample and noise of one step; `asked` is the digest of the request."""
        return StepSource(self._context.secret, purpose, self._context.job, round, step, asked)

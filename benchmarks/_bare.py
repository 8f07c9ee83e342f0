"""The bare loop: the gradient steps of a train job and nothing else.

    loop = Bare(home, spec)
    seconds = loop(rounds=20)

For every round and every silo, one after the other in one thread: load the global model, take the
job's local steps with the product's own mechanism on the same rows (Poisson sample, clipped
per-row gradients, cryptographic noise, the frozen plan that the quote gives), then average the
models. No ledger, quote, gate, egress log, exchange, signature, file, thread or serialisation,
and no evaluation. What a job costs beyond this is what governing it costs.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from federation.embedded import Embedded
from federation.home import Home
from federation.lifecycle import quotes_of
from federation.models import build_model
from federation.sources.rows import load_part
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource


class Bare:
    """One job's mechanisms and rows, ready to step; made once, so loading is not timed."""

    def __init__(self, home: Home, spec: Any) -> None:
        torch.set_num_threads(1)
        with Embedded(home) as parties:
            facts = parties.facts(spec.dataset)
        quotes = quotes_of(spec, facts)
        self._steps = spec.strategy.local_steps
        self._secret = os.urandom(32)
        self._silos = []
        for silo, party in facts.items():
            dataset, plan = party.dataset, quotes[silo].plan
            model = build_model(
                spec.model.model_dump(), dataset.input_shape, dataset.n_classes, seed=spec.seed
            )
            mechanism = DpSgd(
                model,
                torch.nn.functional.cross_entropy,
                DpSgdPlan(
                    unit=spec.privacy.unit,
                    rate=plan["rate"],
                    noise_multiplier=plan["noise_multiplier"],
                    clip=plan["clip"],
                    denominator=plan["denominator"],
                    steps=spec.strategy.rounds * spec.strategy.local_steps,
                    rows_per_subject=1,
                ),
                learning_rate=spec.strategy.learning_rate,
            )
            part = load_part(home.silo_config(silo), dataset, "train")
            self._silos.append((party.sizes.units(spec.privacy.unit), mechanism, part))
        self.parameters = sum(p.numel() for p in model.parameters())
        self._start = {name: value.clone() for name, value in model.state_dict().items()}

    def __call__(self, rounds: int) -> float:
        """Take all steps of so many rounds from the first model; return the seconds.

        In a thread of its own, as a silo's steps are: the allocator serves the main thread and
        others differently, and large models feel it.
        """
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(self._steps_of, rounds).result()

    def _steps_of(self, rounds: int) -> float:
        torch.set_num_threads(1)
        begun = time.perf_counter()
        total = sum(units for units, _, _ in self._silos)
        state = self._start
        for number in range(rounds):
            mean = {name: torch.zeros_like(value) for name, value in state.items()}
            for silo, (units, mechanism, part) in enumerate(self._silos):
                mechanism.load(state)
                for step in range(self._steps):
                    source = StepSource(self._secret, "bare", silo, number, step)
                    mechanism.step(part.features, part.labels, None, source)
                for name, value in mechanism.state().items():
                    mean[name] += value * (units / total)
            state = mean
        return time.perf_counter() - begun

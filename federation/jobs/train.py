"""`kind: train`: one model, trained by silos that keep their rows.

Every round the coordinator sends the model; each silo takes `local_steps` steps of DP-SGD on its
own rows and releases the result; the strategy aggregates. At the end, or every few rounds, each
silo releases one noisy histogram of scores, from which all metrics come.

What a silo releases is a function of noised steps and of what it was sent, so the whole job costs
its steps and its histograms, whatever the coordinator does with the answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgpack

from federation.errors import BadInput
from federation.jobs.base import (
    AccountFacts,
    CoordinatorContext,
    Outcome,
    PartyFacts,
    PartyQuote,
    SiloContext,
    in_turn,
)
from federation.training.events import composed, evaluation_event, job_event, round_event
from federation.training.specs import Spec
from privacy.events import NOTHING, Event, Unit
from privacy.ledger import Stop

SAVED_EVERY = 1.0
"""Seconds of rounds that a coordinator's death may make it ask for again."""


def quote(spec: Spec, facts: Mapping[str, PartyFacts]) -> dict[str, PartyQuote]:
    """Price the job at every silo and fix each silo's noise.

    The sampling rate is batch size over the declared training size, at most 1. With an epsilon
    the noise is calibrated, per silo, so that training and evaluation together cost it. A model
    that does not fit the rows or mixes them is refused here, before anything is charged.
    """
    if spec.model.name not in ("logistic", "mlp"):  # these two fit any rows and mix none
        from federation.models import build_model
        from privacy.mechanisms.dp_sgd import check_model, check_rows_apart

        for party in facts.values():
            shape, classes = party.dataset.input_shape, party.dataset.n_classes
            model = build_model(spec.model.model_dump(), shape, classes, seed=spec.seed)
            if not spec.no_privacy:
                check_model(model)
                check_rows_apart(model, shape)
    if spec.aggregation.name == "ckks":
        from federation.training.encrypted import budget_of

        budget_of(spec, next(iter(facts.values())).dataset).check_coordinator(len(facts))
    return {silo: _party_quote(spec, party) for silo, party in facts.items()}


def coordinate(context: CoordinatorContext) -> Outcome:
    """Drive the rounds from the last checkpoint, evaluate, and write the model."""
    from federation.training.checkpoint import Checkpoint
    from federation.training.hidden import mean_of
    from federation.training.rounds import evaluate

    spec: Spec = context.spec
    checkpoint = Checkpoint.load_or_start(context)
    begun = time.monotonic() - checkpoint.seconds
    total = spec.strategy.rounds
    hidden_mean = mean_of(context)
    context.progress(checkpoint.round, total)
    while checkpoint.round < total and not checkpoint.patience_over(spec.evaluation.patience):
        if hidden_mean is not None:
            model = checkpoint.global_bytes()
            mean = hidden_mean(checkpoint.round, checkpoint.state, model)
            checkpoint.advance([(1.0, mean)])
        else:
            answers = context.ask("update", checkpoint.round, checkpoint.global_bytes())
            checkpoint.aggregate(answers, context)
        due = spec.evaluation.every and checkpoint.round % spec.evaluation.every == 0
        if due and checkpoint.round < total and spec.evaluation.release != "none":
            checkpoint.evaluated(evaluate(context, checkpoint))
        checkpoint.seconds = time.monotonic() - begun
        checkpoint.save(context.directory, every=SAVED_EVERY)
        context.progress(checkpoint.round, total)
    if spec.evaluation.release != "none" and not checkpoint.is_evaluated():
        checkpoint.evaluated(evaluate(context, checkpoint))
    checkpoint.seconds = time.monotonic() - begun
    checkpoint.save(context.directory)
    context.tell("finish", checkpoint.round)
    return Outcome(
        metrics=checkpoint.metrics(),
        curve=checkpoint.curve,
        rounds=checkpoint.round,
        stopped_early=checkpoint.round < total,
        model=checkpoint.write_model(context),
        seconds=time.monotonic() - begun,
    )


def participate(context: SiloContext) -> Stop:
    """Answer the coordinator's requests until it says finish."""
    from federation.training.hidden import silo_of
    from federation.training.trainer import Trainer

    spec: Spec = context.spec
    trainer = in_turn(Trainer, context)
    hidden = silo_of(context)
    protected = "unprotected" if spec.privacy.none else "dp"
    if spec.aggregation.distributed:
        protected = "masked"
    measured = {"dp": "dp", "exact": "unprotected"}.get(spec.evaluation.release, "dp")
    while True:
        message = context.endpoint.receive(deadline=context.deadline)
        header = message.header
        if header.sender != "coordinator":
            context.endpoint.acknowledge(message)
            continue
        if header.name == "finish":  # not acknowledged: what follows from it is not on disk yet
            return _stop(spec, header.round)
        request = msgpack.packb([header.name, header.round, message.body])
        if hidden is not None and header.name in hidden.steps:
            body = hidden.answer(header.name, header.round, message.body)
            context.endpoint.send("coordinator", round=header.round, name=header.name, body=body)
            context.endpoint.acknowledge(message)
            continue
        if header.name == "update":
            work, protection, event = trainer.train, protected, round_event(context.quote)
        elif header.name == "evaluate":
            work, protection, event = trainer.evaluate, measured, evaluation_event(context.quote)
        else:
            raise BadInput(f"no request {header.name!r} in a train job", field="name")
        body = context.gate.release(
            header.name,
            header.round,
            request=request,
            protection=protection,
            event=event,
            produce=partial(in_turn, work, header.round, message.body, request),
        )
        if hidden is not None and header.name == "update":
            body = b""  # stored, and shown to nobody but as a part of the sum
        context.endpoint.send("coordinator", round=header.round, name=header.name, body=body)
        context.endpoint.acknowledge(message)


def _party_quote(spec: Spec, party: PartyFacts) -> PartyQuote:
    unit = spec.privacy.unit
    if unit is Unit.SILO:
        raise BadInput(
            "privacy.unit: steps of a train job are clipped per record or subject, so nothing "
            "bounds what a silo as a whole can do",
            field="privacy.unit",
            value=unit.value,
            allowed=[Unit.RECORD.value, Unit.SUBJECT.value],
        )
    account = party.account(unit)
    delta = spec.privacy.delta if spec.privacy.delta is not None else account.delta
    if delta != account.delta:
        raise BadInput(
            f"privacy.delta: {delta:g} is not the delta of silo {party.silo}'s account, "
            f"{account.delta:g}; leave it out or give that one",
            field="privacy.delta",
            value=delta,
            allowed=account.delta,
        )
    rate = min(1.0, spec.strategy.batch_size / party.sizes.units(unit))
    plan: dict[str, Any] = {
        "rate": rate,
        "clip": spec.privacy.clip,
        "denominator": spec.expected_batch(party.sizes),
        "local_steps": spec.strategy.local_steps,
        "evaluations": spec.evaluations if spec.evaluation.release == "dp" else 0,
    }
    releases = {"update": spec.strategy.rounds, "evaluate": spec.evaluations}
    if spec.aggregation.name == "ckks":
        from federation.training.encrypted import CIPHERTEXT, SUM, budget_of

        plan["encryption"] = budget_of(spec, party.dataset).forecast()
        releases |= {CIPHERTEXT: spec.strategy.rounds, SUM: spec.strategy.rounds}
    if spec.privacy.none:
        plan |= {"noise_multiplier": 0.0, "evaluation_noise": 0.0, "evaluations": 0}
        return PartyQuote(party.silo, unit, delta, NOTHING, plan, releases, refundable=True)

    from federation.training.noise import calibrated

    if spec.aggregation.distributed:
        plan["shares"] = _shares(spec, party)
    sigma, evaluation = calibrated(spec, party, account, plan)
    plan |= {"noise_multiplier": sigma, "evaluation_noise": evaluation}
    if spec.aggregation.distributed:
        plan["shares"]["own_epsilon"] = _own_epsilon(spec, account, plan)
    ratio = evaluation / sigma

    def family(at_sigma: float, rounds: int) -> Event:
        return job_event(plan, at_sigma, at_sigma * ratio, rounds, plan["evaluations"])

    def asking(epsilon: float | None, rounds: int) -> Event:
        terms = {"epsilon": epsilon, "noise_multiplier": None if epsilon else sigma}
        privacy = spec.privacy.model_copy(update=terms)
        strategy = spec.strategy.model_copy(update={"rounds": rounds})
        asked = spec.model_copy(update={"privacy": privacy, "strategy": strategy})
        noises = calibrated(asked, party, account, plan)
        return job_event(plan, *noises, rounds, plan["evaluations"])

    return PartyQuote(
        party.silo,
        unit,
        delta,
        # not through `family`, which rounds: what is released must cost exactly what was reserved
        job_event(plan, sigma, evaluation, spec.strategy.rounds, plan["evaluations"]),
        plan,
        releases,
        refundable=True,
        # noise in a sum is the same at every silo, and does not scale at one of them
        family=None if spec.aggregation.distributed else family,
        asking=asking,
    )


def _shares(spec: Spec, party: PartyFacts) -> dict[str, Any]:
    """What the noise of a sum rests on: its coordinates, and the worst of its silos."""
    from federation.training.shares import dimension_of

    if party.dataset.subject is not None:
        raise BadInput(
            "aggregation.noise: a person with rows at several silos moves the one sum at each of "
            f"them, which has no price here; data set {party.dataset.name} has a subject column",
            field="aggregation.noise",
            value="distributed",
            allowed=["own"],
        )
    return {
        "dimension": dimension_of(spec, party.dataset),
        "silos": spec.quorum,
        "colluding": spec.aggregation.colluders,
    }


def _own_epsilon(spec: Spec, account: AccountFacts, plan: Mapping[str, Any]) -> float:
    """What the job would cost where all other silos told what they added."""
    from federation.training.shares import skellam_plan
    from privacy.accounting import pld

    alone = skellam_plan(spec, plan["shares"]["dimension"]).own_event
    noise, rounds = plan["evaluation_noise"], spec.strategy.rounds
    event = composed(alone, plan, noise, rounds, plan["evaluations"])
    return pld.job_epsilon(event, account.delta, account.relation)


def _stop(spec: Spec, rounds: int) -> Stop:
    if rounds >= spec.strategy.rounds:
        return Stop.COMPLETED
    # A stop decided on exact counts depends on rows, so nothing may come back for it.
    return Stop.OWN_FAULT if spec.exact_evaluation else Stop.RELEASED_RESULT

"""From the epsilon of a job spec to the noise of its steps and of its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from federation.errors import BadInput
from federation.pricing import faced
from federation.training.events import job_event
from privacy.accounting import calibrate, pld
from privacy.events import Event, Exchanged, Gaussian, Relation, Unit
from privacy.ledger import AccountTerms
from privacy.ledger.filters import open_filter
from privacy.mechanisms.plan import DpSgdPlan

if TYPE_CHECKING:
    from federation.jobs.base import AccountFacts, PartyFacts
    from federation.training.specs import Spec


def calibrated(
    spec: Spec, party: PartyFacts, account: AccountFacts, plan: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the noise multiplier of a step and the noise of a histogram, in counts.

    The evaluation gets its share first: a Gaussian release of noise s costs 1 / s^2 in Gaussian
    terms, and `share` of what the whole epsilon allows goes to it. The steps get the least noise
    with which the job, evaluation included, costs at most epsilon by PLD at the account's delta
    (or, with `fit: account`, is admitted by the account's filter at capacity epsilon).
    """
    privacy = spec.privacy
    evaluations: int = plan["evaluations"]
    rounds = spec.strategy.rounds
    _check(spec, party, plan)

    def seen(event: Event) -> Event:
        return faced(event, privacy.unit, privacy.unit, party)

    # Who is exchanged leaves one count and enters another: two moves.
    exchanged = account.relation is Relation.REPLACE or isinstance(
        seen(Gaussian(sigma=1.0)), Exchanged
    )
    moves = 2 if exchanged else 1
    if privacy.noise_multiplier is not None:
        sigma = privacy.noise_multiplier
        if not evaluations:
            return sigma, 0.0
        training = pld.job_epsilon(
            seen(job_event(plan, sigma, 0.0, rounds, 0)), account.delta, account.relation
        )
        share = spec.evaluation.share
        noise = calibrate.gaussian_sigma(training, account.delta)
        return sigma, noise * (moves * evaluations * (1 - share) / share) ** 0.5

    epsilon = privacy.epsilon
    if epsilon is None:
        raise ValueError("a job without privacy has no noise to calibrate")
    noise = calibrate.gaussian_sigma(epsilon, account.delta)
    evaluation = noise * (moves * evaluations / spec.evaluation.share) ** 0.5

    def build(sigma: float) -> Event:
        return seen(job_event(plan, sigma, evaluation, rounds, evaluations))

    if privacy.fit == "account":
        sigma = calibrate.noise_multiplier_for(build, _admits_alone(account, epsilon))
    else:
        sigma = calibrate.noise_multiplier(
            build, epsilon=epsilon, delta=account.delta, relation=account.relation
        )
    return sigma, evaluation


def _check(spec: Spec, party: PartyFacts, plan: Mapping[str, Any]) -> None:
    """Refuse, before anything is charged, what the mechanism would refuse with the rows in hand."""
    subject = party.dataset.subject
    if spec.privacy.unit is Unit.SUBJECT and subject is None:
        raise BadInput(
            f"privacy.unit: data set {party.dataset.name} has no subject column, so nobody can "
            "tell whose the rows are",
            field="privacy.unit",
            value=spec.privacy.unit.value,
            allowed=[Unit.RECORD.value],
        )
    DpSgdPlan(
        unit=spec.privacy.unit,
        rate=plan["rate"],
        noise_multiplier=1.0,
        clip=plan["clip"],
        denominator=plan["denominator"],
        steps=spec.strategy.rounds * spec.strategy.local_steps,
        rows_per_subject=subject.max_rows if subject else 1,
    )


def _admits_alone(account: AccountFacts, epsilon: float) -> Callable[[Event], bool]:
    """Whether an unused account like this one, of capacity epsilon, would admit an event."""
    rule = open_filter(
        AccountTerms(
            source="fit",
            unit=account.unit,
            relation=account.relation,
            epsilon=epsilon,
            delta=account.delta,
            filter=account.filter,
            delta0=account.delta0,
        )
    )
    limits = rule.limits(epsilon)

    def admits(event: Event) -> bool:
        charge = rule.charge(event, epsilon)
        deciding = zip(charge.losses, limits, strict=False)  # what follows is only watched
        return any(loss is not None and loss <= limit for loss, limit in deciding)

    return admits

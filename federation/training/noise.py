"""From the epsilon of a job spec to the noise of its steps and of its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy.accounting import calibrate, pld
from privacy.events import Event

if TYPE_CHECKING:
    from federation.jobs.base import AccountFacts, PartyFacts
    from federation.jobs.train import Spec


def calibrated(
    spec: Spec, party: PartyFacts, account: AccountFacts, plan: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the noise multiplier of a step and the noise of a histogram, in counts.

    The evaluation gets its share first: a Gaussian release of noise s costs 1 / s^2 in Gaussian
    terms, and `share` of what the whole epsilon allows goes to it. The steps get the least noise
    with which the job, evaluation included, costs at most epsilon by PLD at the account's delta
    (or, with `fit: account`, is admitted by the account's filter at capacity epsilon).
    """
    from federation.jobs.train import job_event

    privacy = spec.privacy
    evaluations: int = plan["evaluations"]
    rounds = spec.strategy.rounds
    if privacy.epsilon is None:
        sigma = privacy.noise_multiplier
        assert sigma is not None  # the spec has exactly one of the two
        if not evaluations:
            return sigma, 0.0
        training = pld.epsilon(
            job_event(plan, sigma, 0.0, rounds, 0), account.delta, account.relation
        )
        share = spec.evaluation.share
        noise = calibrate.gaussian_sigma(training, account.delta)
        return sigma, noise * (evaluations * (1 - share) / share) ** 0.5

    epsilon = privacy.epsilon
    noise = calibrate.gaussian_sigma(epsilon, account.delta)
    evaluation = noise * (evaluations / spec.evaluation.share) ** 0.5

    def build(sigma: float) -> Event:
        return job_event(plan, sigma, evaluation, rounds, evaluations)

    if privacy.fit == "account":
        from privacy.ledger.filters import make_filter

        rule = make_filter(account.filter, epsilon=epsilon, delta=account.delta)
        sigma = calibrate.noise_multiplier_for(
            build, lambda event: rule.admits_alone(event, account.relation)
        )
    else:
        sigma = calibrate.noise_multiplier(
            build, epsilon=epsilon, delta=account.delta, relation=account.relation
        )
    return sigma, evaluation

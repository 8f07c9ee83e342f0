"""The events of a train job: of all of it, and of what one release is a part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy.events import All, DiscreteGaussian, Event, Gaussian, Poisson, Repeat
from privacy.mechanisms.skellam import SkellamPlan

if TYPE_CHECKING:
    from federation.jobs.base import PartyQuote


def job_event(
    plan: Mapping[str, Any], sigma: float, evaluation: float, rounds: int, evaluations: int
) -> Event:
    """The event of a train job: its noised steps and its noisy histograms.

    `sigma` is the noise multiplier of a step, `evaluation` that of a histogram, in counts. Where
    the plan has `shares`, the noise of a step is in the sum alone, and `sigma` what is left of it
    in the worst case.
    """
    step: Event = Gaussian(sigma=sigma)
    if "shares" in plan:
        terms = {name: plan["shares"][name] for name in ("dimension", "silos", "colluding")}
        step = SkellamPlan.of(noise_multiplier=sigma, clip=plan["clip"], **terms).event
    return composed(step, plan, evaluation, rounds, evaluations)


def composed(
    step: Event, plan: Mapping[str, Any], evaluation: float, rounds: int, evaluations: int
) -> Event:
    """The event of a job whose steps, on everybody, are `step`."""
    if plan["rate"] < 1.0:
        step = Poisson(rate=plan["rate"], of=step)
    parts: list[Event] = [Repeat(times=rounds * plan["local_steps"], of=step)]
    if evaluations:
        parts.append(Repeat(times=evaluations, of=DiscreteGaussian(sigma=evaluation)))
    return All(of=tuple(parts))


def round_event(quote: PartyQuote) -> Event | None:
    """The event of one round's update; None without noise."""
    sigma = quote.plan["noise_multiplier"]
    return job_event(quote.plan, sigma, 0.0, 1, 0) if sigma else None


def evaluation_event(quote: PartyQuote) -> Event | None:
    """The event of one noisy histogram; None where it is exact."""
    noise = quote.plan["evaluation_noise"]
    return DiscreteGaussian(sigma=noise) if noise else None

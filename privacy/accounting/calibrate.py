"""From a target to the least noise that reaches it, never more privacy loss than was asked.

>>> round(gaussian_sigma(1.0, 1e-5), 6)
3.730632
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import optimize
from scipy.special import log_ndtr

from privacy.accounting import pld, rdp
from privacy.errors import CalibrationFailed
from privacy.events import Event, Relation

SMALLEST, LARGEST = 0.05, 1e7
"""Noise multipliers between which a search goes on."""

GAP = 1e-3
"""How far below the target epsilon, relatively, a calibrated plan may end."""


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """The least sigma of one Gaussian release of sensitivity one that is (epsilon, delta)-DP.

    Balle and Wang (2018), Theorem 8: delta(epsilon) in closed form, inverted by bracketing.
    """

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        a = float(log_ndtr(0.5 / sigma - epsilon * sigma))
        b = epsilon + float(log_ndtr(-0.5 / sigma - epsilon * sigma))
        if b >= a:
            return -math.inf
        return a + math.log1p(-math.exp(b - a)) - math.log(delta)

    low, high = math.log(1e-4), math.log(1e9)
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.exp(high)


def noise_multiplier(
    build: Callable[[float], Event],
    *,
    epsilon: float,
    delta: float,
    relation: Relation = Relation.ADD_REMOVE,
) -> float:
    """The least sigma, to a relative `GAP` of epsilon, with `build(sigma)` at most epsilon by PLD.

    RDP gives a sigma that is enough (its epsilon is never below the true one); a few PLD calls
    then come down from it. The sigma returned has itself been priced. Raises `CalibrationFailed`
    where no noise reaches the target, as when what is not scaled by sigma costs too much already.
    """

    def bound(log_sigma: float) -> float:
        event = build(math.exp(log_sigma))
        return rdp.epsilon(event, delta, relation, rdp.WHOLE_ORDERS) - epsilon

    def price(log_sigma: float) -> float:
        return pld.job_epsilon(build(math.exp(log_sigma)), delta, relation)

    low, high = math.log(SMALLEST), math.log(LARGEST)
    if bound(high) > 0:
        enough = high
    elif bound(low) <= 0:
        enough = low
    else:
        enough = float(optimize.brentq(bound, low, high, xtol=1e-4)) + 1e-3
    spent = price(enough)
    if spent > epsilon:
        raise CalibrationFailed(
            f"no noise reaches epsilon {epsilon:g}: even {math.exp(enough):.3g} leaves "
            f"{spent:.4g}; ask for a larger epsilon or fewer evaluations",
            field="epsilon",
            value=epsilon,
            allowed=f"> {spent:.4g}",
        )
    target = epsilon * (1 - GAP / 2)
    failing, reach = -math.inf, 1
    for _ in range(60):
        if spent >= epsilon * (1 - GAP) or enough - failing < 1e-6 or enough <= low:
            break
        # epsilon falls like a power of sigma nearby; step down by the ratio that is missing. Where
        # a part that sigma does not scale is most of the cost it hardly moves: reach further.
        guess = max(enough + reach * math.log(max(spent, 1e-12) / target), low)
        if guess <= failing:
            guess = (enough + failing) / 2
        trial = price(guess)
        if trial <= epsilon:
            enough, spent, reach = guess, trial, 2 * reach
        else:
            failing = guess
    return math.exp(enough)


def noise_multiplier_for(build: Callable[[float], Event], admits: Callable[[Event], bool]) -> float:
    """The least sigma, to one part in a thousand, whose event `admits` lets through."""
    low, high = math.log(SMALLEST), math.log(LARGEST)
    if not admits(build(LARGEST)):
        raise CalibrationFailed(
            "no noise of the steps is enough for this account's filter: what it does not scale, an "
            "evaluation with a large share, takes it all; ask for a larger epsilon",
            field="epsilon",
        )
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if admits(build(math.exp(middle))) else (middle, high)
    return math.exp(high)

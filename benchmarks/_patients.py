"""Synthetic patients of four hospitals, for choosing settings without looking at real ones.

Every population draws its own effects, means and shares around the figures below, so a setting
that is good over many of them depends on none. Log odds ratios come from ranges wide enough for
what cardiology publishes of such patients; none was fitted to the real rows. Particular to these
hospitals are two public facts: how many are ill in each, and that patients without chest pain are
the ones mostly found ill.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from _federations import HEART_SIZES
from scipy.stats import norm

Floats = npt.NDArray[Any]
Rows = dict[str, Floats]
"""One hospital's patients by column, the training part first; `ill` is the label."""

TRAIN, TEST = np.array([[int(n) for n in said.split("/")] for said in HEART_SIZES.values()]).T

# Round figures of Cleveland, Hungary, Switzerland and Long Beach, as reported for these records;
# `PAIN` is typical, atypical and other among those who have any.
ILL = (0.46, 0.36, 0.93, 0.75)
AGE, RATE, ST = (54, 48, 55, 59), (150, 139, 122, 123), (1.0, 0.6, 0.65, 1.3)
MALE, PAINLESS = (0.68, 0.72, 0.92, 0.97), (0.47, 0.42, 0.80, 0.65)
ANGINA = (0.33, 0.30, 0.45, 0.62)
PAIN = ((0.15, 0.31, 0.54), (0.06, 0.62, 0.32), (0.16, 0.16, 0.68), (0.12, 0.20, 0.68))
# How age, male, no pain, heart rate, angina under exercise and ST depression go together.
TOGETHER = np.linalg.cholesky(
    [
        [1.0, -0.1, 0.1, -0.4, 0.1, 0.2],
        [-0.1, 1.0, 0.1, 0.0, 0.15, 0.1],
        [0.1, 0.1, 1.0, -0.3, 0.4, 0.25],
        [-0.4, 0.0, -0.3, 1.0, -0.4, -0.3],
        [0.1, 0.15, 0.4, -0.4, 1.0, 0.35],
        [0.2, 0.1, 0.25, -0.3, 0.35, 1.0],
    ]
)
# Log odds ratios: ten years, male, no pain, ten beats a minute, angina, 1 mm of ST depression.
EFFECTS = ((0.1, 0.6), (0.8, 1.8), (1.0, 2.4), (-0.35, 0.0), (0.4, 1.5), (0.3, 0.9))


def populations(count: int, seed: int) -> list[list[Rows]]:
    """Draw populations of four hospitals each; the same seed gives the same patients."""
    random = np.random.default_rng(seed)
    return [_population(random) for _ in range(count)]


def _population(random: np.random.Generator) -> list[Rows]:
    """Four hospitals' patients, the training part first."""
    effects = np.array([random.uniform(*span) for span in EFFECTS])
    pains = random.uniform(-0.6, 0.6, 3)
    hospitals = []
    for at, rows in enumerate(TRAIN + TEST):

        def share(of: tuple[float, ...], at: int = at) -> float:
            return float(norm.isf(np.clip(of[at] + random.normal(0, 0.04), 0.03, 0.985)))

        latent = random.standard_normal((4000, 6)) @ TOGETHER.T  # many, for the intercept's sake
        age = np.clip(np.round(AGE[at] + random.normal() + 9 * latent[:, 0]), 28, 77)
        male, painless = latent[:, 1] > share(MALE), latent[:, 2] > share(PAINLESS)
        rate = np.clip(np.round(RATE[at] + 3 * random.normal() + 23 * latent[:, 3]), 60, 202)
        angina = latent[:, 4] > share(ANGINA)
        oldpeak = np.clip(ST[at] - 0.35 + 0.1 * random.normal() + 1.5 * latent[:, 5], 0, 6).round(1)
        pain = random.choice(3, size=len(latent), p=PAIN[at])
        columns = ((age - 54) / 10, male, painless, (rate - 140) / 10, angina, oldpeak)
        odds = np.stack(columns, axis=1) @ (effects * random.normal(1, 0.2, 6))
        odds += np.where(painless, 0, pains[pain])
        ill = _chances(odds, np.clip(ILL[at] + 0.02 * random.normal(), 0.05, 0.97))
        columns = (age, male, np.where(painless, 4, pain + 1), rate, angina, oldpeak)
        names = ("age", "sex", "cp", "thalach", "exang", "oldpeak")
        patients = dict(zip(names, columns, strict=True)) | {"ill": random.random(4000) < ill}
        hospitals.append({name: column[:rows] for name, column in patients.items()})
    return hospitals


def _chances(odds: Floats, mean: float) -> Floats:
    """Chances of disease with these log odds but for an intercept, which makes the mean right."""
    low, high = -30.0, 30.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        right = float((1 / (1 + np.exp(-odds - middle))).mean()) < mean
        low, high = (middle, high) if right else (low, middle)
    chances: Floats = 1 / (1 + np.exp(-odds - low))
    return chances

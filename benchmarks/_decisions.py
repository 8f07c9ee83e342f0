"""Print the numbers of the decision records, so that every number there names its command.

    python benchmarks/_decisions.py 3

prints those of docs/adr/0003, for 1 to 6 and 21. They explain a choice and are held to no limit, so
they are no claims of the benchmarks page. What is counted or computed is the same everywhere; times
are those of the machine.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine

from privacy.accounting import gdp, pld, rdp
from privacy.accounting.mixture import renyi_of_mixture
from privacy.events import (
    All,
    DiscreteGaussian,
    Event,
    Gaussian,
    Laplace,
    Poisson,
    Repeat,
    SampledRows,
)
from privacy.ledger import AccountTerms, Ledger
from privacy.ledger.balance import Balance, Tally, repeats
from privacy.ledger.canonical import MAX
from privacy.ledger.filters import open_filter
from privacy.ledger.filters.amounts import UNIT
from privacy.mechanisms.histogram import discrete_gaussian, noisy_histogram
from privacy.mechanisms.poisson import WORD, table
from privacy.mechanisms.randomness import StepSource
from privacy.mechanisms.skellam import SkellamPlan, skellam
from secure.keys import SigningKey, verify

DELTA = 1e-5
GRID = (1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 8, 16, 32, 64)
PLANS = (
    (1.0, 0.01, 3.0),
    (1.0, 0.01, 10.0),
    (2.0, 0.05, 1.0),
    (2.0, 0.05, 3.0),
    (2.0, 0.05, 10.0),
    (4.0, 0.2, 3.0),
    (2.0, 0.01, 1.0),
)


def row(*cells: object) -> None:
    """One line of a Markdown table."""
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def terms(epsilon: float, name: str = "renyi") -> AccountTerms:
    """An account of this capacity."""
    return AccountTerms(
        source="s",
        unit="record",
        relation="add_remove",
        epsilon=epsilon,
        delta=DELTA,
        filter=name,
    )


def orders(epsilon: float) -> list[float]:
    """The orders that decide on a default account."""
    return list(open_filter(terms(epsilon)).parameters()["orders"])


def last(holds: Callable[[int], bool]) -> int:
    """The largest number of steps that holds."""
    high = 1
    while holds(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def spread(work: Callable[[], object], times: int = 5) -> tuple[float, float]:
    """The least and the most milliseconds that the work took."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1e3)
    return min(taken), max(taken)


def admitted_steps() -> None:
    """ADR 1: what filters admit beside one plan priced by PLD."""

    def by_filter(step: Event, epsilon: float, name: str) -> int:
        filter_ = open_filter(terms(epsilon, name))
        nothing = Tally.empty(filter_.positions())
        empty = Balance("", epsilon, epsilon, filter_.limits(epsilon), nothing, nothing)
        return repeats(empty, filter_.charge(step, epsilon)) or 0

    def by_grid(step: Event, epsilon: float, delta: float) -> int:
        """Admit while any order of the grid fits, by the simple conversion."""
        losses = rdp.rdp(step, GRID)
        rooms = [epsilon - math.log(1 / delta) / (order - 1) for order in GRID]
        return max(math.floor(r / c) for r, c in zip(rooms, losses, strict=True) if r > 0)

    row("sigma", "rate", "epsilon", "by PLD", "three", "one", "grid", "grid, delta / 12")
    for sigma, rate, epsilon in PLANS:
        step = Poisson(rate=rate, of=Gaussian(sigma=sigma))

        def within(times: int, step: Event = step, epsilon: float = epsilon) -> bool:
            return pld.epsilon(Repeat(times=times, of=step), DELTA, grid=1e-3) <= epsilon

        whole = last(within)
        found = (
            by_filter(step, epsilon, "renyi"),
            by_filter(step, epsilon, "renyi1"),
            by_grid(step, epsilon, DELTA),
            by_grid(step, epsilon, DELTA / len(GRID)),
        )
        row(f"{sigma:g}", rate, f"{epsilon:g}", f"{whole:,}", *(f"{n / whole:.2f}" for n in found))
    made = open_filter(terms(10.0))
    empty = next(e / 100 for e in range(1, 1001) if any(made.limits(e / 100)))
    print(f"\nepsilon 10: limit {made.limits(10.0)[0]} at its first order; empty below {empty}")


def saturation() -> None:
    """ADR 2: how sums would grow, and what a charge can hold."""
    largest = orders(10.0)[-1]
    lost = rdp.rdp(Repeat(times=100, of=Gaussian(sigma=0.1)), [largest])[0]
    print(f"100 steps of noise multiplier 0.1: {lost:,.0f} nats at order {largest:.2f}")
    print(f"the largest charge: {MAX / UNIT:,.0f} nats")
    print(f"the first order's limit at epsilon 10: {open_filter(terms(10.0)).limits(10.0)[0]}")


def quadrature() -> None:
    """ADR 3: Renyi losses at fractional orders, theirs and ours."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    def theirs(sigma: float, rate: float, at: Sequence[float]) -> Any:
        accountant = RdpAccountant(list(at))
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)))
        return accountant._rdp

    row("sigma", "rate", "epsilon", "orders", "theirs over ours", "ours takes, ms")
    for sigma, rate, epsilon in (
        (1.0, 0.01, 10.0),
        (1.0, 0.1, 10.0),
        (2.0, 0.05, 10.0),
        (0.8, 0.02, 10.0),
        (2.0, 0.05, 1.0),
    ):
        at = tuple(orders(epsilon))
        ours = renyi_of_mixture(sigma, rate, 1, at)
        cold = renyi_of_mixture.__wrapped__
        took, _ = spread(lambda s=sigma, r=rate, at=at, f=cold: f(s, r, 1, at))
        ratios = ", ".join(f"{ratio:.3f}" for ratio in theirs(sigma, rate, at) / ours)
        row(
            f"{sigma:g}",
            rate,
            f"{epsilon:g}",
            ", ".join(f"{a:.2f}" for a in at),
            ratios,
            f"{took:.0f}",
        )
    ours, other = renyi_of_mixture(1.0, 0.01, 1, (1.9,))[0], theirs(1.0, 0.01, [1.9])[0]
    print(f"\norder 1.9, sigma 1, rate 0.01: mpmath {_forty_digits(1.9, 1.0, 0.01):.6g}, ", end="")
    print(f"ours {ours:.6g}, theirs {other:.6g}")
    print(f"order 1.5, sigma 1, rate 0.1: theirs {theirs(1.0, 0.1, [1.5])[0]}")


def _forty_digits(order: float, sigma: float, rate: float) -> float:
    """The larger direction of one sampled step, by mpmath from the definition."""
    import mpmath as mp

    mp.mp.dps = 40

    def p(x: Any) -> Any:
        return (1 - mp.mpf(rate)) * mp.npdf(x, 0, sigma) + rate * mp.npdf(x, 1, sigma)

    def q(x: Any) -> Any:
        return mp.npdf(x, 0, sigma)

    def divergence(f: Callable[[Any], Any], g: Callable[[Any], Any]) -> Any:
        moment = mp.quad(lambda x: f(x) ** order * g(x) ** (1 - order), range(-20, 23, 2))
        return mp.log(moment) / (mp.mpf(order) - 1)

    return float(max(divergence(p, q), divergence(q, p)))


def opacus() -> None:
    """ADR 4: what `make_private` computes from the rows."""
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    for rows in (320, 321, 303):
        model = torch.nn.Linear(2, 1)
        _, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(torch.zeros(rows, 2)), batch_size=32),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
        rate, denominator = loader.sample_rate, optimizer.expected_batch_size
        print(f"{rows} rows: rate {rate:.4f}, denominator {denominator}; 32/rows {32 / rows:.4f}")
    try:
        PrivacyEngine(secure_mode=True)
    except ImportError as error:
        print(f"secure_mode: ImportError: {error}")


def histogram() -> None:
    """ADR 5: discrete Gaussian noise: its time, its delta, and Laplace noise beside it."""
    at = orders(10.0)
    for sigma in (4.0, 8.34):
        laplace = rdp.rdp(Laplace(scale=sigma / math.sqrt(2)), at)
        ratios = laplace / rdp.rdp(DiscreteGaussian(sigma=sigma), at)
        print(f"Laplace of the variance of sigma {sigma}:", ", ".join(f"{r:.2f}" for r in ratios))
    counts = np.zeros(8, dtype=np.int64)
    for sigma in (2.0, 8.34, 100.0):
        source = StepSource(bytes(32), "decisions", str(sigma))
        took, _ = spread(lambda s=sigma, src=source: noisy_histogram(counts, s, src), 200)
        print(f"eight cells at sigma {sigma:g}: {took:.2f} ms")
    x = np.arange(-60, 61)
    weight = np.exp(-(x**2) / 2.0)
    p, moved = weight / weight.sum(), np.exp(-((x - 1) ** 2) / 2.0) / weight.sum()
    most = max(
        (np.maximum(moved - math.exp(e) * p, 0).sum() / gdp.delta_of(1.0, e), e)
        for e in np.arange(0.0, 5.0, 0.01)
    )
    print(
        f"delta over the continuous one at sigma 1: up to {most[0]:.2f}, at epsilon {most[1]:.2f}"
    )


def prices() -> None:
    """ADR 6: cold prices, and a reservation whose price is known."""
    noisy = DiscreteGaussian(sigma=20.0)
    job = All(of=(Repeat(times=200, of=Poisson(rate=0.1, of=Gaussian(sigma=10.0))), noisy))

    def faced(rows: int, rate: float) -> Event:
        return Repeat(times=200, of=SampledRows(sigma=3.0, rate=rate, rows=rows))

    cases: Iterable[tuple[str, str, Event, float]] = (
        ("renyi", "200 sampled steps and a histogram", job, 10.0),
        ("renyi", "200 steps faced by a person with 8 rows", faced(8, 0.1), 10.0),
        ("renyi", "200 steps faced by a person with 100 rows", faced(100, 0.1), 10.0),
        ("basic", "200 sampled steps and a histogram", job, 1.0),
        ("basic", "200 sampled steps and a histogram", job, 10.0),
    )
    pld.job_epsilon(noisy, DELTA)  # imports what the accountants need
    for name, what, event, epsilon in cases:
        filter_ = open_filter(terms(epsilon, name))

        def cold(filter_: Any = filter_, event: Event = event, epsilon: float = epsilon) -> None:
            for cached in _caches():
                cached.cache_clear()
            filter_.charge(event, epsilon)

        low, high = spread(cold)
        print(f"{name}, epsilon {epsilon:g}: {what}: {low:.0f} to {high:.0f} ms", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        key, root = SigningKey.generate(), Path(directory)
        ledger = Ledger.create(
            f"sqlite:///{root / 'db'}", silo="s", head=root / "head", signer=key, verify=verify
        )
        ledger.open_account(terms(1000.0))
        keys = _names()

        def reserve() -> None:
            called = next(keys)
            ledger.reserve(
                key=called,
                job=called,
                events={"s/record": Gaussian(sigma=1e6)},
                releases={},
                refundable=True,
                digest="d",
                expires=datetime.now(UTC) + timedelta(minutes=10),
            )

        reserve()
        low, high = spread(reserve, 50)
        print(f"a reservation whose price is known: {low:.0f} to {high:.0f} ms")
        ledger.close()


def shares() -> None:
    """ADR 21: the sampler's table and time; rounding and Skellam beside a Gaussian."""
    for variance in (1 << 16, 1 << 24, 1 << 32):
        mean = Fraction(variance, 2)
        begun = time.perf_counter()
        entries = len(table(mean, WORD).low)
        made = time.perf_counter() - begun
        source = StepSource(bytes(32), "decisions", variance)
        skellam(variance, 1, source)
        took, _ = spread(lambda v=variance, src=source: skellam(v, 100_000, src))
        print(
            f"variance 2^{variance.bit_length() - 1}: {entries:,} entries in {made:.2f} s, "
            f"{took / 100:.2f} microseconds a number"
        )
    source = StepSource(bytes(32), "decisions")
    took, _ = spread(lambda: [discrete_gaussian(4096.0, source) for _ in range(200)])
    print(f"a discrete Gaussian of sigma 4096: {took * 5:.0f} microseconds a number")
    at = orders(1.0)
    for dimension in (31, 10_000, 1_000_000):
        for noise in (1.0, 4.0):
            plan = SkellamPlan.of(
                noise_multiplier=noise, clip=1.0, dimension=dimension, silos=3, colluding=1
            )
            ratios = rdp.rdp(plan.event, at) / rdp.rdp(Gaussian(sigma=noise), at)
            worst = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            moved = math.ldexp(math.sqrt(plan.l2_squared), -plan.exponent)
            print(
                f"{dimension:,} coordinates, noise multiplier {noise:g}: Gaussian times {worst}; "
                f"rounding raises the sensitivity by {moved - 1:.1%}"
            )


def _caches() -> list[Any]:
    """What the accountants keep between two prices."""
    from privacy.accounting import mixture

    modules = (rdp, pld, mixture)
    return [f for m in modules for f in vars(m).values() if hasattr(f, "cache_clear")]


def _names() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"job-{number}"


DECISIONS = {
    1: admitted_steps,
    2: saturation,
    3: quadrature,
    4: opacus,
    5: histogram,
    6: prices,
    21: shares,
}


def main() -> None:
    """Print the numbers of one record, and the machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=int, choices=DECISIONS)
    warnings.simplefilter("ignore")
    DECISIONS[parser.parse_args().record]()
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()

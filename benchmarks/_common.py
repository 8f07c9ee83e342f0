"""What every benchmark script shares: options, the machine, claims, the exit code.

A script measures inside one function and hands it to `main`:

```python
from _common import Claims, main


def measure(claims: Claims, quick: bool) -> None:
    claims.at_most("a further round", seconds * 1e3, "ms", 30)


if __name__ == "__main__":
    main("rounds", measure, __doc__)
```

`--quick` stays under a minute and leaves out peers that need an environment of their own;
`--json` prints one document `{name, machine, claims: [{claim, value, unit, limit, holds}]}` on
stdout and everything else on stderr. The exit code is 1 where a claim does not hold. A claim
against a peer that is not there has `holds: null`: it is never true, and it fails nothing.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Claim:
    """One measured number beside its limit; `holds` is None where it could not be measured."""

    claim: str
    value: float | None
    unit: str
    limit: float | None
    holds: bool | None


@dataclass
class Claims:
    """The claims of one run, in the order in which they were measured."""

    name: str
    rows: list[Claim] = field(default_factory=list)

    def at_most(self, claim: str, value: float, unit: str, limit: float) -> None:
        """Claim that `value` is no more than `limit`."""
        self._add(claim, value, unit, limit, value <= limit)

    def at_least(self, claim: str, value: float, unit: str, limit: float) -> None:
        """Claim that `value` is no less than `limit`."""
        self._add(claim, value, unit, limit, value >= limit)

    def absent(self, claim: str, unit: str, limit: float | None, why: str) -> None:
        """Record a claim that could not be measured here, and say why."""
        say(f"  ?  {claim}: not measured, {why}")
        self.rows.append(Claim(claim, None, unit, limit, None))

    def report(self, claim: str, value: float, unit: str) -> None:
        """Record a number that is shown and not held to a limit."""
        say(f"     {claim}: {_number(value)} {unit}")
        self.rows.append(Claim(claim, value, unit, None, None))

    def _add(self, claim: str, value: float, unit: str, limit: float, holds: bool) -> None:
        # A NaN compares false both ways, so it can never make a claim hold.
        say(f"  {'ok' if holds else 'NO'} {claim}: {_number(value)} {unit}, limit {limit:g}")
        self.rows.append(Claim(claim, value if math.isfinite(value) else None, unit, limit, holds))

    def failed(self) -> bool:
        """Whether a measured claim does not hold."""
        return any(row.holds is False for row in self.rows)

    def document(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "name": self.name,
            "machine": machine(),
            "claims": [asdict(row) for row in self.rows],
        }


def main(
    name: str, measure: Callable[[Claims, bool], None], description: str | None = None
) -> NoReturn:
    """Parse the options, run `measure(claims, quick)`, print what it found and exit."""
    parser = argparse.ArgumentParser(
        prog=f"benchmarks/{name}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, smaller counts")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    claims = Claims(name)
    say(f"{name} on {machine()}{', quick' if options.quick else ''}")
    measure(claims, options.quick)
    if options.json:
        print(json.dumps(claims.document(), indent=2))
    sys.exit(1 if claims.failed() else 0)


def say(text: str) -> None:
    """Print progress to stderr, so that `--json` leaves one document on stdout."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Describe this machine in one line: processor, cores allowed, memory, system, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def shared() -> Path | None:
    """Return the directory of shared data, `TACIT_SHARED` or `../shared`, or None if absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    path = Path(os.environ.get("TACIT_SHARED", default))
    return path if path.is_dir() else None


def median_bounds(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return a lower 95 % bound of the median, the sample median, and an upper 95 % bound.

    Each bound is one-sided and distribution-free: the k-th smallest of n independent samples lies
    above the median with probability P(Bin(n, 1/2) < k), and k is the largest for which that is
    at most 5 %. Five samples are the fewest for which such a k exists.
    """
    count = len(samples)
    tail, rank = 0.0, 0
    while (tail := tail + math.comb(count, rank) / 2**count) <= 0.05:
        rank += 1
    if rank == 0:
        raise ValueError(f"{count} samples give no 95 % bound of a median; take at least 5")
    ordered = sorted(samples)
    return ordered[rank - 1], statistics.median(ordered), ordered[-rank]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _number(value: float) -> str:
    return f"{value:.4g}"

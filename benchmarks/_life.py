"""One job beside its bare loop, several times, in a process of its own; used by `scaling.py`.

    python benchmarks/_life.py HOME '{"kind": "train", ...}' PAIRS

prints one JSON line: what the first life took (`total` and `rounds` in seconds, imports not
counted), the process's peak memory in MiB after it and before any bare loop, and the pairs of
(seconds of the job's rounds, seconds of the bare loop's).
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from _bare import Bare
from _federations import run

import federation.training.trainer  # noqa: F401  # imported before the clock starts
from federation import jobs
from federation.documents import parse
from federation.home import Home


def measure(home: Home, document: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Run job and loop in turn; the loop runs the same number of rounds."""
    first = run(home, document)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loop = Bare(home, parse(document, jobs.kind(document["kind"]).Spec, "benchmark job"))
    rounds = document["strategy"]["rounds"]
    seconds = [(first.rounds, loop(rounds))]
    while len(seconds) < pairs:
        theirs = loop(rounds) if len(seconds) % 2 else None
        ours = run(home, document).rounds
        seconds.append((ours, loop(rounds) if theirs is None else theirs))
    return {
        "total": first.total,
        "rounds": first.rounds,
        "peak": peak,
        "parameters": loop.parameters,
        "pairs": seconds,
    }


if __name__ == "__main__":
    where, document, pairs = sys.argv[1:]
    print(json.dumps(measure(Home(Path(where)), json.loads(document), int(pairs))))

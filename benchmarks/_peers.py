"""The platforms that Tacit is measured beside, each in a virtual environment of its own.

Environments are made on first use under `$XDG_CACHE_HOME/tacit-benchmarks` (else
`~/.cache/tacit-benchmarks`) and kept; making them is in no measured time. Their programs are in
`peers/`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import say
from _processes import timed

PROGRAMS = Path(__file__).parent / "peers"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """One platform: what it is called, what pip installs, and its program."""

    name: str
    package: str
    program: str

    def python(self) -> Path | str:
        """The interpreter of the peer's environment, or why there is none."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = cache / "tacit-benchmarks" / f"{self.program}-{sys.version_info.minor}"
        python, ready = directory / "bin" / "python", directory / "ready"
        wanted = f"{TORCH} {self.package}"
        if ready.exists() and ready.read_text() == wanted:
            return python
        say(f"     {self.name}: making its environment, {directory}")
        shutil.rmtree(directory, ignore_errors=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
        try:
            timed([sys.executable, "-m", "venv", directory])
            timed([*pip, *index, TORCH])
            timed([*pip, self.package])
        except RuntimeError as error:
            return f"{self.package} could not be installed: {str(error)[-200:]}"
        ready.write_text(wanted)
        return python

    def run(
        self,
        python: Path,
        data: Path,
        job: Mapping[str, Any],
        environment: Mapping[str, str],
        program: str | None = None,
    ) -> dict[str, Any]:
        """Run the peer's program, or another of its; its last line of output, with `total`.

        `total` is the seconds of the process.
        """
        environment = dict(environment) | {
            "BENCH_DATA": str(data),
            "BENCH_JOB": json.dumps(job),
            "PYTHONPATH": str(PROGRAMS),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 of its own; other load shall weigh the same on both
        }
        done = timed([python, PROGRAMS / f"{program or self.program}.py"], environment=environment)
        answer: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
        return answer | {"total": done.seconds}


FLOWER = Peer("Flower", "flwr[simulation]==1.42.0", "flower")
FLARE = Peer("NVIDIA FLARE", "nvflare==2.9.0", "flare")

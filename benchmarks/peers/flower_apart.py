"""The job of `rounds.py` on Flower's own processes: a SuperLink and four SuperNodes on loopback.

As Flower documents its deployment, without TLS and without authentication; the app is the one of
`flower.py`. Prints one JSON line at the end; processes that are ready before the run starts are in
no number.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _heart
import flwr

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PATIENCE = 600.0

APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "heart"
version = "1.0.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "flower:server"
clientapp = "flower:client"

[tool.flwr.app.config]
"""

CONFIG = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def reachable(port: int) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def main() -> None:
    """Start the parts, run the app, stop the parts."""
    with tempfile.TemporaryDirectory(prefix="flower-apart-") as directory:
        place = Path(directory)
        app, home, marks = place / "app", place / "flwr", place / "marks.json"
        app.mkdir(), home.mkdir()
        for name in ("flower.py", "_heart.py"):
            shutil.copy(HERE / name, app / name)
        (app / "pyproject.toml").write_text(APP)
        port, *nodes = free_ports(1 + len(_heart.SILOS))
        (home / "config.toml").write_text(CONFIG.format(port=port))
        environment = os.environ | {"FLWR_HOME": str(home), "BENCH_MARKS": str(marks)}
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"

        def start(name: str, *words: str) -> subprocess.Popen[bytes]:
            with (place / f"{name}.log").open("wb") as log:
                return subprocess.Popen(
                    [BIN / words[0], *words[1:]], env=environment, stdout=log, stderr=log
                )

        link = f"127.0.0.1:{port}"
        parts = [
            start(
                *("link", "flower-superlink", "--insecure", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            )
        ]
        try:
            reachable(port)
            for number, own in enumerate(nodes):
                parts.append(
                    start(
                        *(f"node-{number}", "flower-supernode", "--insecure", "--superlink", link),
                        *("--port", str(own), "--node-config", f"partition-id={number}"),
                    )
                )
            for own in nodes:
                reachable(own)
            begun = time.perf_counter()
            asked = subprocess.run(
                [BIN / "flwr", "run", str(app), "here"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            until = time.monotonic() + PATIENCE
            while asked.returncode == 0 and not marks.exists() and time.monotonic() < until:
                time.sleep(0.05)
            total = time.perf_counter() - begun
            if not marks.exists():
                logs = "".join(path.read_text()[-2000:] for path in sorted(place.glob("*.log")))
                sys.exit(f"{logs}\n{asked.stdout}{asked.stderr}")
            first, *ends = json.loads(marks.read_text())
        finally:
            for part in reversed(parts):
                part.terminate()
            for part in parts:
                part.wait(30)
    answer = {
        "rounds": ends[-1] - first,
        "alone": _heart.rounds_alone(ends),
        "run": total,
        "version": flwr.__version__,
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

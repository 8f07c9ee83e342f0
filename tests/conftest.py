"""What tests of every part share: a real Prefect server, the real command, the written record."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# `make test` is a gate: it draws the same examples each time, and no machine is too slow for it.
# `make test-all` looks for new ones.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", PATIENT)
settings.register_profile("gate", PATIENT, derandomize=True)
settings.load_profile("gate")

# A helper beside the tests, importable by name under --import-mode=importlib.
_spec = importlib.util.spec_from_file_location(
    "tests_requirements", Path(__file__).with_name("requirements.py")
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["tests_requirements"] = _module
_spec.loader.exec_module(_module)

ROOT = Path(__file__).resolve().parents[1]
TACIT = Path(sys.executable).with_name("tacit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--verification", metavar="FILE", help="write what every test saw to this Markdown file"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights that a test draws are the same whichever tests its process ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for the session, with its own directory and database."""
    from infra.prefect_server import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server.wait()


@pytest.fixture(scope="session")
def tacit(prefect_url: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed command in a process of its own, on the session's Prefect server."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
        return subprocess.run(
            [TACIT, *map(str, args)],
            env=clean | {"TACIT_PREFECT_URL": prefect_url} | env,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


@pytest.fixture(scope="session")
def tacit_here(prefect_url: str) -> Callable[..., dict[str, Any]]:
    """Run the command with --json in the tests' own process, which is many times faster.

    It expects an exit code and returns the one document. For what drives no job.
    """
    from typer.testing import CliRunner

    from infra.cli.app import app

    def run(*args: object, code: int = 0) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("PREFECT_", "TACIT_"))]:
                patch.delenv(name)
            patch.setenv("TACIT_PREFECT_URL", prefect_url)
            done = CliRunner().invoke(app, [*map(str, args), "--json"])
        return _document(done.exit_code, code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def tacit_json(
    tacit: Callable[..., Any], tacit_here: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """Run the command with --json, what drives a job in a process of its own; as `tacit_here`."""

    def run(*args: object, code: int = 0, **env: str) -> dict[str, Any]:
        if not env and args[0] in ("budget", "ledger", "price", "quote"):
            return tacit_here(*args, code=code)
        done = tacit(*args, "--json", **env)
        return _document(done.returncode, code, done.stdout, done.stderr)

    return run


def _document(exited: int, code: int, stdout: str, stderr: str) -> dict[str, Any]:
    assert exited == code, f"exit {exited}: {stdout} {stderr}"
    assert "Traceback" not in stderr
    document: dict[str, Any] = json.loads(stdout, parse_constant=_no_number)
    return document


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write the record that `make test-all` keeps: counts, and each gate's line."""
    target = config.getoption("--verification")
    if not target:
        return
    stats = terminalreporter.stats
    lines = [
        "# What the last full verification saw",
        "",
        f"Written by `make test-all` on {time.strftime('%Y-%m-%d', time.gmtime())}, "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| outcome | tests |",
        "|---|--:|",
    ]
    lines += [
        f"| {word} | {len(stats.get(word, []))} |"
        for word in ("passed", "failed", "error", "skipped", "xfailed")
    ]
    skipped = {str(r.longrepr[2]) for r in stats.get("skipped", []) if r.longrepr}
    lines += ["", *(f"- skipped: {reason}" for reason in sorted(skipped))]
    lines += ["", "| large gate | seconds | outcome |", "|---|--:|---|"]
    lines += [
        f"| `{report.nodeid}` | {report.duration:.1f} | {word} |"
        for word in ("passed", "failed")
        for report in stats.get(word, [])
        if "large" in report.keywords
    ]
    Path(target).write_text("\n".join([*lines, ""]))

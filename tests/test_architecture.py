"""The shape of the code: what may import what, how long a module may be, what the lock holds."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests_requirements import closure

ROOT = Path(__file__).parent.parent
PACKAGES = ("dashboard", "federation", "flows", "infra", "privacy", "secure")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
}


def modules():
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_imports_go_down_only():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_module_is_longer_than_400_lines():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules()}
    assert {p: n for p, n in lines.items() if n > 400} == {}


@pytest.mark.parametrize(
    "forbidden",
    [r"^\s*import pickle", r"pickle\.loads?\(", r"shell=True", r"torch\.load\(", r"yaml\.load\("],
)
def test_no_way_in_from_untrusted_bytes(forbidden):
    found = [str(p) for p in modules() if re.search(forbidden, p.read_text(), re.MULTILINE)]
    assert found == []


def test_every_line_of_the_lock_is_one_exact_public_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        # No local label (+cpu) and no hash: any index may serve it, the CPU index too.
        assert re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9A-Za-z.]+", line), line
    assert LOCK["torch"] == "2.13.0"
    assert len(LOCK) == sum(not line.startswith("#") for line in lines)


def test_the_lock_pins_every_dependency_and_what_they_need():
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        name = canonicalize_name(requirement.name)
        if name != "tacit":
            assert LOCK[name] in requirement.specifier, requirement
    assert closure(*PROJECT["optional-dependencies"]) == set(LOCK)


def test_what_runs_here_is_the_lock():
    installed = {n: importlib.metadata.version(n).partition("+")[0] for n in LOCK}
    assert installed == LOCK


def test_benchmarks_import_their_sibling_and_never_the_package_that_opacus_installs():
    files = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split() or [str(p.relative_to(ROOT)) for p in modules()]
    pattern = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    assert [f for f in files if pattern.search((ROOT / f).read_text())] == []


def test_no_test_skips_for_want_of_a_package():
    # All that tests import is in the lock: without it they would pass and have shown nothing.
    tests = sorted((ROOT / "tests").rglob("*.py"))
    skips = re.compile(r"pytest\.importorskip\(")
    assert len(tests) > 50 and [str(p) for p in tests if skips.search(p.read_text())] == []


def test_no_locked_distribution_owns_one_of_our_names():
    ours = {*PACKAGES}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name != "tacit":
            top = {str(f).split("/")[0].removesuffix(".py") for f in distribution.files or []}
            assert not ours & top, name


def test_the_prefect_server_imports_with_the_locked_set():
    # `import prefect` passes with a FastAPI on which the server fails, so import the server.
    done = subprocess.run(
        [sys.executable, "-c", "import prefect.server.api.server"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]

"""The built wheel: all six packages, and a life without the repository.

The wheel is installed, without its dependencies, into an empty virtual environment; a path file
lets that environment find the dependencies of this one, but not this one's editable install.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dashboard", "federation", "flows", "infra", "privacy", "secure")
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "wheel",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 1.0},
}
WHERE = """
import importlib, json, sys
print(json.dumps({"path": sys.path, "files": {
    name: importlib.import_module(name).__file__ for name in %r}}))
"""


def files_of(package: str) -> set[str]:
    """What the repository holds of a package: code, migrations, templates, data.

    What builds and composes images is the repository's, not the package's.
    """
    images = {ROOT / "infra" / "Dockerfile", *(ROOT / "infra" / "deploy").rglob("*")}
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path not in images
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, without a network, so that no old `build/` is in it."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation"],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("tacit-*.whl")
    return built


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Run:
    """Run a program of the empty environment, in a directory that holds nothing of ours."""
    place = tmp_path_factory.mktemp("empty") / "env"
    venv.EnvBuilder(symlinks=True).create(place)
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_", "PYTHON"))
    }

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [place / "bin" / str(words[0]), *map(str, words[1:])],
            cwd=place.parent,
            env=clean | {"TACIT_PREFECT_URL": prefect_url},
            capture_output=True,
            text=True,
            timeout=240,
        )

    link = place / "lib" / "python3.11" / "site-packages" / "dependencies.pth"
    link.write_text(sysconfig.get_path("purelib") + "\n")
    for package in PACKAGES:  # before the wheel is there, nothing of ours is
        assert run("python", "-c", f"import {package}").returncode != 0, package
    link.unlink()  # so that pip sees an empty environment, as it is
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python"]
    alone = ["install", "-q", "--no-index", "--no-deps", "--disable-pip-version-check", wheel]
    subprocess.run([*pip, *alone], check=True, capture_output=True, env=clean)
    link.write_text(sysconfig.get_path("purelib") + "\n")
    return run


def test_it_holds_every_file_of_the_six_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        (points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        told = archive.read(metadata).decode()
        assert "tacit = infra.cli.app:main" in archive.read(points).decode()
    assert names == set().union(*map(files_of, PACKAGES))
    assert any(n.startswith("privacy/ledger/migrations/versions/") for n in names)
    assert "Requires-Dist: torch==2.13.0" in told and "License-Expression: Apache-2.0" in told


def test_every_package_comes_from_the_wheel(installed: Run) -> None:
    done = installed("python", "-c", WHERE % (PACKAGES,))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert all("/env/lib/" in file for file in seen["files"].values()), seen["files"]
    assert str(ROOT) not in seen["path"]


def test_init_quote_run_and_verify(installed: Run, tmp_path: Path) -> None:
    home, spec = tmp_path / "fed", tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    documents = {}
    for command in (
        ("init", home, "--example", "breast-cancer", "--silos", "2"),
        ("quote", spec, "--home", home),
        ("run", spec, "--home", home),
        ("ledger", "verify", "--home", home),
    ):
        done = installed("tacit", *command, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        documents[command[0]] = json.loads(done.stdout)
    assert documents["quote"]["admissible"] is True
    assert documents["run"]["status"] == "completed"
    assert Path(documents["run"]["model"]).exists()
    assert documents["ledger"]["ok"] is True and documents["ledger"]["entries"] > 0


def test_the_dashboards_page_is_there(installed: Run) -> None:
    program = "from dashboard.launch import command; print(*command(8501), sep='\\n')"
    words = installed("python", "-c", program).stdout.splitlines()
    (page,) = (w for w in words if w.endswith("app.py"))
    assert "/env/lib/" in page and Path(page).exists()

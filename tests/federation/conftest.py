from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.home import Home
from federation.init import init_example
from federation.jobs.base import CoordinatorContext

# Helpers beside the tests, importable by name under --import-mode=importlib.
for _name in ("tabular", "jobs_here", "parties"):
    _spec = importlib.util.spec_from_file_location(
        f"tests_{_name}", Path(__file__).with_name(f"{_name}.py")
    )
    assert _spec is not None and _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[f"tests_{_name}"] = _module
    _spec.loader.exec_module(_module)


@pytest.fixture(scope="session")
def _founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three silos of the breast-cancer example, made once."""
    directory = tmp_path_factory.mktemp("founded") / "fed"
    init_example(directory, "breast-cancer", silos=3)
    return directory


@pytest.fixture
def home(_founded: Path, tmp_path: Path) -> Iterator[Home]:
    """A fresh copy of the small federation."""
    shutil.copytree(_founded, tmp_path / "fed")
    yield Home(tmp_path / "fed")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every answer that the coordinator gets from here on."""
    answers: list[bytes] = []
    ask = CoordinatorContext.ask

    def listening(self: CoordinatorContext, *asked: Any) -> dict[str, bytes]:
        got = ask(self, *asked)
        answers.extend(got.values())
        return got

    monkeypatch.setattr(CoordinatorContext, "ask", listening)
    return answers

"""The examples in docstrings do what they say. What is a sketch is written without `>>>`."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dashboard", "federation", "flows", "infra", "privacy", "secure")


def modules() -> list[str]:
    """The modules whose text has an example."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    found = (file.relative_to(ROOT).with_suffix("") for file in files if ">>>" in file.read_text())
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in found)


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_give_what_they_show(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed

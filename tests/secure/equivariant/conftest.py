"""Models for the tests, by name: see tests_models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "tests_models", Path(__file__).with_name("models.py")
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["tests_models"] = _module
_spec.loader.exec_module(_module)

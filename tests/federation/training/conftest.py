"""Public facts, specs and contexts of train jobs, made without a home."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "tests_parties", Path(__file__).with_name("parties.py")
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["tests_parties"] = _module
_spec.loader.exec_module(_module)

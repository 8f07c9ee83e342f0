"""Makes the helper beside these tests importable by name under --import-mode=importlib."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "verification_networks", Path(__file__).with_name("networks.py")
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["verification_networks"] = _module
_spec.loader.exec_module(_module)

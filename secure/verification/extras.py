"""Optional packages: imported when used, named with the extra that brings them when absent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from secure.errors import MissingExtra

EXTRAS = {"ezkl": "zk", "onnx": "zk", "dcap_qvl": "attestation"}
"""Which extra brings a module."""


def optional(module: str) -> Any:
    """Import an optional module; one that is not installed raises `MissingExtra` (exit code 5)."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        extra = EXTRAS[module]
        raise MissingExtra(
            f"{module} is not installed; pip install -c constraints.txt '.[{extra}]' "
            "in the checkout",
            field="extra",
            value=extra,
        ) from None

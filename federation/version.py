"""Which code this is: the release and the digest of the installed packages.

Approvals and manifests are bound to the digest, so that a silo that reviewed one code does not
run another under the same version number.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

RELEASE = "0.1.0"

PACKAGES = ("dashboard", "federation", "flows", "infra", "privacy", "secure")


@cache
def code_version() -> str:
    """SHA-256 over every Python file of the six packages, by path, as installed here."""
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            total.update(str(path.relative_to(root)).encode() + b"\x00")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()

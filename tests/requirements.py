"""What installs with Tacit, as the metadata of the installed distributions say."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(*extras: str) -> set[str]:
    """Names of all that installs with Tacit and these extras, Tacit itself left out."""
    todo, seen = {("tacit", extra) for extra in ("", *extras)}, set()
    while todo:
        name, extra = here = todo.pop()
        seen.add(here)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                found = {(canonicalize_name(needed.name), e) for e in ("", *needed.extras)}
                todo |= found - seen
    return {name for name, _ in seen} - {"tacit"}

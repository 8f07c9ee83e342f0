"""Kinds of job: one module per kind, found by its name.

A kind is a module of this package with `Spec` (a `JobSpec`) and three verbs:

    quote(spec, facts) -> {silo: PartyQuote}      from public facts alone; reads no row
    coordinate(context) -> Outcome                what the coordinator does
    participate(context) -> Stop                  what a party does, by context.role

A new kind is one such module, one flow and one page of docs.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from federation.documents import parse, read_yaml
from federation.errors import BadInput
from federation.jobs.base import JobKind
from federation.spec import JobSpec


def kinds() -> list[str]:
    """The kinds of job that are installed, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def kind(name: Any, where: str = "job") -> JobKind:
    """The module of a kind; an unknown one raises `BadInput`."""
    if name not in kinds():
        raise BadInput(
            f"{where}: kind: {name!r} is no kind of job; allowed: {', '.join(kinds())}",
            field="kind",
            value=name,
            allowed=kinds(),
        )
    module: ModuleType = importlib.import_module(f"{__name__}.{name}")
    return module  # type: ignore[return-value]


def load(path: Path) -> JobSpec:
    """Read a job's YAML; what is wrong is told by file, field, value and what is allowed."""
    data = read_yaml(path)
    name = data.get("kind") if isinstance(data, dict) else None
    return parse(data, kind(name, str(path)).Spec, str(path))

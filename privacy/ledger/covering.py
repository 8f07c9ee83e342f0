"""Whether one event holds all that another does, by what is run and how often, not by prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy.events import parse, terms


def covers(whole: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether every mechanism of `part` is in `whole`, at least as many times."""
    held = terms(parse(whole))
    return all(n <= held.get(term, 0) for term, n in terms(parse(part)).items())

"""What an account is opened with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privacy.errors import InvalidRequest
from privacy.events import Relation, Unit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LARGEST_EPSILON = 1000.0
"""The largest capacity: beyond it an epsilon says nothing, and integers would run out at 9007."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTerms:
    """The terms of an account: they never change, but for the capacity `epsilon`.

    `source`: the rows. `unit` and `relation`: what one unit of privacy is. `epsilon` and `delta`:
    the capacity, of which `delta0` is set aside for events that carry a delta. Anything that is
    not finite or not in range raises `InvalidRequest`.
    """

    source: str
    unit: Unit
    relation: Relation
    epsilon: float
    delta: float
    filter: str = "renyi"
    delta0: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", _member(Unit, "unit", self.unit))
        object.__setattr__(self, "relation", _member(Relation, "relation", self.relation))
        name("source", self.source)
        check_epsilon(self.epsilon)
        _check("delta", self.delta, lambda x: 0 < x < 1, "0 < delta < 1")
        _check("delta0", self.delta0, lambda x: 0 <= x < self.delta, "0 <= delta0 < delta")
        if self.delta0 and self.filter not in ("renyi", "renyi1"):
            raise InvalidRequest(
                f"delta0: filter {self.filter!r} cannot set delta aside",
                field="delta0",
                value=self.delta0,
                allowed="0, or filter renyi or renyi1",
            )

    @property
    def id(self) -> str:
        """The account's name: SOURCE/UNIT."""
        return f"{self.source}/{self.unit.value}"

    def document(self) -> dict[str, Any]:
        """The terms as plain data."""
        return {
            "source": self.source,
            "unit": self.unit.value,
            "relation": self.relation.value,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "filter": self.filter,
            "delta0": self.delta0,
        }

    @classmethod
    def read(cls, data: dict[str, Any]) -> AccountTerms:
        """Read plain data; a number that JSON wrote as an integer is a float again."""
        numbers = {field: float(data[field]) for field in ("epsilon", "delta", "delta0")}
        return cls(
            source=data["source"],
            unit=Unit(data["unit"]),
            relation=Relation(data["relation"]),
            filter=data["filter"],
            **numbers,
        )


def check_epsilon(epsilon: float) -> None:
    """Refuse a capacity that is not a number above 0 and up to `LARGEST_EPSILON`."""
    limit = LARGEST_EPSILON
    _check("epsilon", epsilon, lambda x: 0 < x <= limit, f"0 < epsilon <= {limit:g}")


def name(field: str, value: object) -> str:
    """Return a name of a source, job or key, which must be plain: letters, digits, `._-`."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidRequest(
            f"{field}: not a name: {value!r}",
            field=field,
            value=value,
            allowed="up to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return value


def _check(field: str, value: object, holds: Callable[[float], bool], allowed: str) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not holds(value)
    ):
        raise InvalidRequest(
            f"{field}: {value!r} is not allowed, only {allowed}",
            field=field,
            value=value,
            allowed=allowed,
        )


def _member(kind: Any, field: str, value: object) -> Any:
    try:
        return kind(value)
    except ValueError:
        allowed = [member.value for member in kind]
        raise InvalidRequest(
            f"{field}: {value!r} is none of {', '.join(allowed)}",
            field=field,
            value=value,
            allowed=allowed,
        ) from None

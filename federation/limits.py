"""Numbers in documents: how small and how large each kind may be, and what counts as one.

Bounds are generous for people and narrow for arithmetic: whatever a document says within them can
be priced, printed and hashed. An error says both bounds in `allowed`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from federation.errors import BadInput


@dataclass(frozen=True, slots=True)
class Within:
    """A number from `low` to `high`, both included unless `open_above`."""

    low: float
    high: float
    open_above: bool = False

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        return f">= {_short(self.low)}, {'<' if self.open_above else '<='} {_short(self.high)}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The bounds in the forms that are made of a model."""
        top = "exclusiveMaximum" if self.open_above else "maximum"
        return {**handler(schema), "minimum": self.low, top: self.high}

    def _check(self, value: float) -> float:
        wrong = None
        if value < self.low:
            least = f"greater than or equal to {_short(self.low)}"
            wrong = "greater than 0" if 0 < self.low < 1 and value <= 0 else least
        elif value > self.high or (self.open_above and value == self.high):
            than = "less than" if self.open_above else "less than or equal to"
            wrong = f"{than} {_short(self.high)}"
        if wrong is not None:
            raise PydanticCustomError(
                "within", "Input should be {wrong}", {"wrong": wrong, "allowed": self.allowed}
            )
        return value


Epsilon = Annotated[float, Within(1e-7, 1000)]
"""Up to the largest capacity of an account (`privacy.ledger.terms`)."""
Delta = Annotated[float, Within(1e-15, 1, open_above=True)]
NoiseMultiplier = Annotated[float, Within(0.01, 1e7)]
Share = Annotated[float, Within(1e-4, 1, open_above=True)]
Clip = Annotated[float, Within(1e-6, 1e6)]
Rate = Annotated[float, Within(1e-12, 1e38)]
"""A learning rate or another factor that is finite in 32 bits."""
Decay = Annotated[float, Within(0, 1, open_above=True)]
Fraction = Annotated[float, Within(0, 1)]
Count = Annotated[int, Within(1, 10**9)]
CountOrNone = Annotated[int, Within(0, 10**9)]
Rounds = Annotated[int, Within(1, 100_000)]
Seed = Annotated[int, Within(0, 2**53 - 1)]
"""Canonical JSON writes integers exactly up to here (RFC 8785, section 3.2.2.3)."""


def refuse_other_kinds(field: str, value: Any, annotation: Any) -> None:
    """Refuse a truth value or a text where a number is due, and anything else for a truth value.

    YAML reads yes, no, on and off as truth values, and Python counts those as 1 and 0; a number
    in quotes is a text. Raises `BadInput` that names the field, for a validator to pass on.
    """
    leaves = set(_leaves(annotation)) - {type(None)}
    if leaves and leaves <= {int, float}:
        strange = [item for item in _items(value) if isinstance(item, bool | str)]
        said = "a number without quotes; yes, no, on, off, true and false are truth values"
    elif leaves == {bool} or leaves == {True}:
        strange = [] if value is None or isinstance(value, bool) else [value]
        said = "true or false"
    else:
        return
    if strange:
        shown = strange[0] if isinstance(strange[0], bool | str) else value
        raise BadInput(
            f"write {said} (here: {str(shown)[:80]!r})", field=field, value=shown, allowed=said
        )


def _leaves(annotation: Any) -> Iterator[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _leaves(arguments[0])
    elif origin is typing.Literal:
        yield from arguments
    elif origin in (typing.Union, types.UnionType, tuple, list, set, frozenset):
        for argument in arguments:
            if argument is not Ellipsis:
                yield from _leaves(argument)
    elif origin in (dict, Mapping):
        yield from _leaves(arguments[1])
    else:
        yield annotation


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _short(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) or abs(number) < 10**6 else str(number)

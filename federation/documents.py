"""Documents that people write: YAML read into pydantic models, errors that say what to change.

    >>> from federation.spec import PrivacySpec
    >>> parse({"epsilon": 1.0}, PrivacySpec, "job.yaml").epsilon
    1.0

An error names the file, the field, the value and what is allowed; for an unknown field it names
the nearest known one. Values of secret fields (URLs, keys) and of unknown fields are never shown.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from federation.errors import BadInput, NotFound
from federation.plain_yaml import LARGEST, NotPlain, load

M = TypeVar("M", bound=BaseModel)

_SECRET = frozenset({"url", "ledger", "password", "token"})
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


def load_yaml(path: Path, model: type[M]) -> M:
    """Read one YAML document into `model`.

    Raises `NotFound` where there is no such file and `BadInput` where it is not YAML, says a key
    twice, or does not fit the model.
    """
    return parse(read_yaml(path), model, str(path))


def read_yaml(path: Path) -> Any:
    """Read one YAML document as plain data; what `federation.plain_yaml` refuses is `BadInput`."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-8") if len(data) <= LARGEST else ""
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", field="file", value=str(path)) from None
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: cannot be read as text ({type(error).__name__})",
            field="file",
            value=str(path),
            allowed="a readable UTF-8 file",
        ) from None
    if len(data) > LARGEST:
        raise BadInput(
            f"{path}: more than {LARGEST} bytes",
            field="file",
            value=str(path),
            allowed=f"at most {LARGEST} bytes",
        )
    try:
        return load(text)
    except NotPlain as error:
        place = f"line {error.line}: " if error.line else ""
        raise BadInput(
            f"{path}: {place}{error.reason}",
            field=error.key or "file",
            value=str(path) if error.key is None else None,
            allowed="each key once" if error.key else "YAML: mappings, lists, texts and numbers",
        ) from None


def parse(data: Any, model: type[M], where: str) -> M:
    """Read plain data into `model`; `where` names its origin in the `BadInput` raised."""
    if not isinstance(data, Mapping):
        raise BadInput(
            f"{where}: expected a mapping of fields, found {_kind(data)}",
            field="document",
            allowed=sorted(model.model_fields),
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _bad_input(error, model, where) from None


def _bad_input(error: ValidationError, model: type[BaseModel], where: str) -> BadInput:
    # An unknown field is told first: a misspelt name also makes its proper field "missing".
    problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = problems[0]
    loc = first["loc"]
    path, known, wanted = _locate(model, loc)
    field = ".".join(path) or "document"
    more = _more(len(problems) - 1)
    if first["type"] == "extra_forbidden":
        path[-1] = path[-1][:80]
        field = ".".join(path)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        return BadInput(
            f"{where}: {field}: unknown field{hint}{more}",
            field=field,
            value=path[-1],
            allowed=known,
        )
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):  # from a check that knows which field it is about
        field = ".".join([*path, cause.field]) if cause.field else field
        return BadInput(
            f"{where}: {field}: {cause.message}{more}",
            field=field,
            value=cause.value,
            allowed=cause.allowed,
        )
    value = _shown(first, path)
    says = _says(first, value, wanted)
    said = f" (here: {value!r})" if value is not None else ""
    return BadInput(
        f"{where}: {field}: {says}{said}{more}",
        field=field,
        value=value,
        allowed=_allowed(first, says),
    )


def _more(problems: int) -> str:
    if problems < 1:
        return ""
    return f" ({problems} further problem{'s' if problems > 1 else ''})"


def _says(problem: ErrorDetails, value: object, wanted: Any) -> str:
    """What is wrong, in words of the document; `wanted` is the type of what belongs there."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "required field is not there"
    if problem["input"] is None and kind != "value_error":
        return "nothing is declared yet; write a value"
    if kind in _LIST_ERRORS:
        return f"write a list, such as [{_an_entry(wanted) if value is None else value}]"
    if kind in _MAPPING_ERRORS:
        return f"write a mapping, such as {{{_first_field(wanted)}: ...}}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        limit = context["min_length" if least else "max_length"]
        things = "entry" if limit == 1 else "entries"
        return f"at {'least' if least else 'most'} {limit} {things}; here: {len(problem['input'])}"
    if kind == "string_pattern_mismatch":
        return _in_words(context["pattern"])
    if kind == "union_tag_not_found":
        return f"required field {context['discriminator'].strip(chr(39))} is not there"
    if kind == "union_tag_invalid":
        name = context["discriminator"].strip("'")
        return f"{name}: {context['tag'][:80]!r} is none of {context['expected_tags']}"
    message = _MESSAGES.get(kind) or problem["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


_LIST_ERRORS = ("tuple_type", "list_type", "set_type", "frozen_set_type")
_MAPPING_ERRORS = ("dict_type", "mapping_type", "model_type", "model_attributes_type")
_MESSAGES = {
    "string_type": "write a text",
    "path_type": "write a path, which is a text",
    "int_from_float": "write a whole number",
}
_ONE_CHARACTER = r'^[^"\r\n]$'
_NAMES = re.compile(r"\^\[a-z0-9\]\[a-z0-9\._-\]\{0,(\d+)\}\$")
_HEXADECIMAL = re.compile(r"\^\[0-9a-f\]\{(\d+)\}\$")


def _in_words(pattern: str) -> str:
    """What a text has to look like, for people."""
    if of_names := _NAMES.fullmatch(pattern):
        return (
            "write lower-case letters, digits, dot, dash, underscore, and a letter or digit first; "
            f"at most {int(of_names[1]) + 1} characters"
        )
    if of_digits := _HEXADECIMAL.fullmatch(pattern):
        return f"write {of_digits[1]} hexadecimal digits, 0 to 9 and a to f"
    if pattern == _ONE_CHARACTER:
        return "write one character, no quote and no line break"
    return f"write a text of the form {pattern}"


def _an_entry(annotation: Any) -> str:
    """What one entry of a list of this type looks like."""
    entry = _strip((typing.get_args(_strip(annotation)) or (None,))[0])
    if isinstance(entry, type) and issubclass(entry, BaseModel):
        return f"{{{_first_field(entry)}: ...}}"
    return "..."


def _first_field(annotation: Any) -> str:
    """The field that somebody would write first in a mapping of this type."""
    here = _strip(annotation)
    members = [_strip(member) for member in _members(here)]
    if members and isinstance(members[0], type) and issubclass(members[0], BaseModel):
        tags = members[0].model_fields.items()
        return next(n for n, f in tags if typing.get_origin(f.annotation) is typing.Literal)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return "NAME"
    fields = here.model_fields
    return next((n for n, field in fields.items() if field.is_required()), next(iter(fields)))


def _allowed(problem: ErrorDetails, says: str) -> object:
    context = problem.get("ctx", {})
    for name in ("allowed", "expected", "expected_tags", "pattern"):
        if name in context:
            return context[name]
    limits = [f"{sign} {context[name]}" for name, sign in _LIMITS.items() if name in context]
    return ", ".join(limits) or says


def _shown(problem: ErrorDetails, path: list[str]) -> object:
    value = problem["input"]
    if problem["type"] == "missing" or _SECRET.intersection(path):
        return None
    if isinstance(value, bool | int | float):
        return value if abs(value) < 10**30 or isinstance(value, float) else "a longer number"
    return value[:80] if isinstance(value, str) else None


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[str], Any]:
    """The path as a person wrote it, the names known where it ends, and the type of what is there.

    The type is None where it is not known.
    """
    path: list[str] = []
    known: list[str] = []
    here: Any = model
    for part in loc:
        if part == "[key]":  # pydantic's word for: the name itself, not what stands under it
            continue
        here = _strip(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            known = sorted(here.model_fields)
            fields = here.model_fields
            here = fields[str(part)].annotation if part in fields else None
            path.append(str(part))
            continue
        members = list(_members(here))
        if members:
            # A tagged union puts its tag into the location; nobody wrote it there.
            tagged = [m for m in members if str(part) in _tags(m)]
            if tagged:
                here = tagged[0]
                continue
        path.append(str(part))
        arguments = typing.get_args(here)
        here = arguments[-1] if typing.get_origin(here) in _MAPPINGS else (arguments or (None,))[0]
    return path, known, here


_MAPPINGS = (dict, Mapping)


def _strip(annotation: Any) -> Any:
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
            continue
        members = [m for m in _members(annotation) if m is not type(None)]
        if len(members) != 1:
            return annotation
        annotation = members[0]


def _members(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        yield from typing.get_args(annotation)


def _tags(member: Any) -> set[str]:
    member = _strip(member)
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return {getattr(member, "__name__", str(member))}
    literals = (typing.get_args(f.annotation) for f in member.model_fields.values())
    return {str(value) for values in literals for value in values if isinstance(value, str)}


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"

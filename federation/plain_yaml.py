r"""YAML as documents need it: mappings, lists and scalars, and nothing that surprises.

    >>> load("delta: 1e-5\nname: 2024-01-01\n")
    {'delta': 1e-05, 'name': '2024-01-01'}

Built from the parser's events, each looked at once. Refused: anchors and aliases (a line of them
can stand for gigabytes), tags (they name types), depth beyond `DEPTH`, a key said twice, a second
document. Keys are text. Plain scalars are null, truth values (yes, no, on, off as well), decimal
numbers as in YAML 1.2 (1e-5 is one; 0x10, 010, 1_000 and 12:30 are text), or text: dates as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

DEPTH = 50
"""How deep mappings and lists may stand in one another."""

LARGEST = 2**20
"""Bytes that a document may have."""

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_ODD_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_DIGITS = 400
"""Digits beyond which no number fits a float."""
_NULL = ("", "~", "null", "Null", "NULL")
_TRUTH = {
    word: truth
    for truth, words in ((True, ("yes", "on", "true")), (False, ("no", "off", "false")))
    for plain in words
    for word in (plain, plain.capitalize(), plain.upper())
}


class NotPlain(Exception):
    """A document that is none, or says what has no place in one: `line` from 1 and `reason`.

    `key` is the key where one stands twice.
    """

    def __init__(self, reason: str, mark: Any = None, key: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = None if mark is None else mark.line + 1
        self.key = key


def load(text: str) -> Any:
    """Read one document; None where it is empty. Raises `NotPlain`."""
    try:
        events = iter(yaml.parse(text, Loader=_PARSER))
        found: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise NotPlain("a second document stands in the file", event.start_mark)
                found = _value(next(events), events, 0)
        return found
    except yaml.YAMLError as error:
        raise NotPlain("not a YAML document", getattr(error, "problem_mark", None)) from None


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    mark = event.start_mark
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise NotPlain("anchors and aliases (&, *) have no place here; write it out", mark)
    if event.tag is not None and event.tag != "!":
        raise NotPlain("tags (!) have no place here", mark)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if depth >= DEPTH:
        raise NotPlain(f"more than {DEPTH} mappings and lists in one another", mark)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise NotPlain("a key is a text, not a mapping or a list", event.start_mark)
        _value(event, events, depth + 1)  # a key has no anchor and no tag either
        if event.value in mapping:
            key = event.value[:80]
            raise NotPlain(f"{key!r} stands here twice", event.start_mark, key)
        mapping[event.value] = _value(next(events), events, depth + 1)
    return mapping


def _scalar(event: Any) -> Any:
    text = event.value
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise NotPlain("a text that is not Unicode", event.start_mark)
    if event.style not in (None, "") or not event.implicit[0]:
        return text
    if text in _NULL:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if _INTEGER.fullmatch(text):
        if len(text) > _DIGITS:
            raise NotPlain(f"a number of more than {_DIGITS} digits", event.start_mark)
        return int(text)
    if _ODD_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.fullmatch(text):
        return float(text)
    return text


class Dumper(yaml.SafeDumper):
    """YAML that `load` reads back as what it was: no aliases, and quotes where they are needed."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


Dumper.add_implicit_resolver(  # texts that are numbers to `load` get quotes
    "tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")
)

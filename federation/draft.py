"""`tacit dataset draft`: the names and likely types of a file's columns, bounds left to a person.

The draft holds no value of the rows: a bound or a list of categories taken from rows would tell
of them. Types are guessed from the whole file, on the owner's machine.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from federation.plain_yaml import Dumper
from federation.sources.locator import file_source
from federation.sources.table import columns, read
from federation.sources.values import texts

_FEW = 10

_HEAD = """\
# A draft of a data set's schema. Replace every null by what people know of the field, not by what
# these rows happen to hold: bounds and categories become public.
name: {name}     # what jobs call it: their dataset
description: ""
features:
"""

_NUMBER = """\
  {name}:
    type: number
    bounds: null     # declare [low, high]; values outside are clamped
    # missing: 0     # what stands in for a missing value; without it the row is left out
"""

_CATEGORY = """\
  {name}:
    type: category
    values: null     # declare [a, b, c]
    unknown: zero    # any other value: zero, slot (a position of its own), drop (leave the row out)
"""

_TAIL = """\
# Move one of the columns above here, out of the features: what is to be predicted.
label:
  column: null       # declare the column
  classes: null      # declare [a, b], or write positive_above: 0 instead
# Uncomment where a person can have several rows; at most max_rows of them count.
# subject: {column: patient, max_rows: 4}
split: {by: hash, salt: SALT, test_fraction: 0.25}   # or {by: column, ...}, or {by: files}
"""


def draft_schema(path: Path, name: str | None = None) -> str:
    """Return the YAML of a draft for a CSV, Parquet or NPZ file; a person has to complete it.

    The data set is called after `name`, or after the file: a silo's file is often called after
    the silo.
    """
    called = _dataset_name(path.stem if name is None else name)
    source = file_source(path, "draft")
    names = columns(source)
    table = read(source, names)
    text = _HEAD.format(name=_written(called))
    for field in names:
        column = table.columns[field]
        values = [t for t in texts(column) if t is not None] if column.ndim == 1 else []
        form = _NUMBER if _is_number(values) else _CATEGORY
        text += form.format(name=_written(field))
    return text + _TAIL.replace("SALT", _written(called))


def _is_number(values: list[str]) -> bool:
    """Whether most values are numbers, and more than a few different ones."""
    numbers = [value for value in values if _float(value)]
    return len(numbers) > 0.9 * len(values) and len(set(numbers)) > _FEW


def _float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _written(name: str) -> str:
    """The name as YAML writes it, in quotes where it has to be."""
    for style in (None, '"'):
        listed: str = yaml.dump(
            [name],
            Dumper=Dumper,
            default_flow_style=True,
            default_style=style,
            allow_unicode=True,
            width=10**6,
        )
        if "\n" not in listed.strip():
            break
    return listed.strip()[1:-1]


def _dataset_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return name[:63] or "dataset"

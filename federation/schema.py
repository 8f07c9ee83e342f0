"""Dataset schemas: what all silos agree that a row looks like, and how it becomes numbers.

    >>> heart = Dataset.model_validate({
    ...     "name": "heart",
    ...     "features": {
    ...         "age": {"type": "number", "bounds": [20, 90]},
    ...         "cp": {"type": "category", "values": [1, 2, 3, 4], "unknown": "slot"},
    ...     },
    ...     "label": {"column": "num", "positive_above": 0},
    ...     "split": {"by": "hash", "salt": "heart", "test_fraction": 0.25},
    ... })
    >>> heart.input_shape, heart.n_classes
    ((6,), 2)

Every constant here is declared by people and public: bounds, categories, what stands in for a
missing value. Nothing is estimated from rows, so preprocessing costs no privacy. Rows are mapped
one by one, and no content of a row makes that fail (`federation.sources.rows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from federation.limits import Within
from federation.spec import Block, Name, digest

Column = Annotated[str, Field(min_length=1, max_length=200)]
Value = Annotated[str, Field(max_length=200)]


def canonical_text(value: object) -> str | None:
    """One text for one value, whatever the source wrote it in; None where there is none.

    Numbers are compared as numbers (1, 1.0, "1" and "01" are the same), booleans are "true" and
    "false", other text is compared as it stands, without the space around it.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        text = str(value).strip()
    except ValueError:  # an integer of more digits than Python writes
        return None
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    if len(text) <= 40 and text.lstrip("+-").isdecimal():
        try:
            return str(int(text))  # exactly, however large: identifiers of people can be
        except ValueError:
            return text
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return text
    if math.isnan(number):
        return None
    if number.is_integer() and abs(number) < 2**53:
        return str(int(number))
    return text if math.isinf(number) else repr(number)


def _declared(values: Any) -> Any:
    """Read values as they stand in a schema, so that rows can be compared with them."""
    if not isinstance(values, list | tuple):
        return values
    for value in values:
        if isinstance(value, bool):
            raise ValueError(
                "YAML reads yes, no, on, off, true and false as truth values; "
                "write them in quotes, as they stand in the source"
            )
    texts = [canonical_text(value) for value in values]
    if None in texts:
        raise ValueError("an empty value cannot be a category; leave it out: it counts as missing")
    if len(set(texts)) < len(texts):
        raise ValueError("the same value stands here twice (1, 1.0 and '01' are the same)")
    return tuple(texts)


class NumberFeature(Block):
    """A number with public bounds, clamped to them and mapped to [-1, 1].

    `missing` stands in for a value that is empty or not a number; without it such a row is left
    out of the data set.
    """

    type: Literal["number"] = "number"
    bounds: tuple[float, float]
    missing: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.bounds
        if not low < high:
            raise ValueError(
                f"bounds [{low:g}, {high:g}] are reversed; write [low, high], low < high"
            )
        if not math.isfinite(high - low):
            raise ValueError("bounds are too far apart for arithmetic")
        if self.missing is not None and not low <= self.missing <= high:
            raise ValueError(f"missing {self.missing:g} is outside bounds [{low:g}, {high:g}]")
        return self

    @property
    def width(self) -> int:
        """How many input positions the feature takes."""
        return 1


class CategoryFeature(Block):
    """A category with public values, mapped to one position per value (one-hot).

    `missing` is the value that an empty field stands for. What is still not among `values` is
    `unknown`: a position of its own ("slot"), all zero ("zero"), or the row is left out ("drop").
    """

    type: Literal["category"] = "category"
    values: Annotated[tuple[Value, ...], Field(min_length=2, max_length=1000)]
    missing: Value | None = None
    unknown: Literal["slot", "zero", "drop"] = "zero"

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        return _declared(values)

    @field_validator("missing", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return None if value is None else _declared([value])[0]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.missing is not None and self.missing not in self.values:
            raise ValueError(f"missing {self.missing!r} is not among the values")
        return self

    @property
    def width(self) -> int:
        """How many input positions the feature takes."""
        return len(self.values) + (self.unknown == "slot")


class ImageFeature(Block):
    """An image of fixed shape, [height, width] or [channels, height, width], mapped to [0, 1].

    Pixels are clamped to `bounds`; one that is not a number counts as the lower bound.
    """

    type: Literal["image"] = "image"
    shape: Annotated[tuple[Annotated[int, Within(1, 4096)], ...], Field(min_length=2, max_length=3)]
    bounds: tuple[float, float] = (0.0, 255.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.bounds
        if not (-1e9 <= low < high <= 1e9 and high - low > 1e-3 * max(abs(low), abs(high), 1e-9)):
            raise ValueError(
                f"bounds [{low:g}, {high:g}]: write [low, high], low < high, within +-1e9 and "
                "apart in 32-bit arithmetic"
            )
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[channels, height, width]."""
        return self.shape if len(self.shape) == 3 else (1, *self.shape)


Feature = Annotated[NumberFeature | CategoryFeature | ImageFeature, Field(discriminator="type")]


class Label(Block):
    """What is predicted: `classes` lists the values of a column, `positive_above` cuts a number.

    `positive_above: 0` makes class 1 of a value above 0 and class 0 of any other number. A row
    whose label is missing or outside the rule is in no part but that of unlabelled rows.
    """

    column: Column
    classes: Annotated[tuple[Value, ...], Field(min_length=2, max_length=1000)] | None = None
    positive_above: float | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        return _declared(values)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.classes is None) == (self.positive_above is None):
            raise ValueError("give exactly one of classes: [...] and positive_above: NUMBER")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in words, in the order of their numbers."""
        if self.classes is not None:
            return self.classes
        return (
            f"{self.column} <= {self.positive_above:g}",
            f"{self.column} > {self.positive_above:g}",
        )


class Subject(Block):
    """The column that says whose row it is, and how many rows of one subject count at most.

    More than `max_rows` are cut by the salted hash of the row, a rule that looks at that
    subject's rows only.
    """

    column: Column
    max_rows: Annotated[int, Within(1, 100_000)]


class ColumnSplit(Block):
    """Parts by a column of the source: rows with other values belong to no part."""

    by: Literal["column"] = "column"
    column: Column
    train: Value
    test: Value

    @field_validator("train", "test", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return _declared([value])[0]

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.train == self.test:
            raise ValueError("train and test are the same value")
        return self


class FileSplit(Block):
    """Parts from separate files or tables: each silo's source names its test part."""

    by: Literal["files"] = "files"


class HashSplit(Block):
    """Parts by a salted hash of the unit: the subject where there is one, else the row's content.

    Where a row goes depends on nothing but that unit and the public salt, so the split costs no
    privacy, and a subject is never on both sides.
    """

    by: Literal["hash"] = "hash"
    salt: Annotated[str, Field(min_length=1, max_length=200)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]


Split = Annotated[ColumnSplit | FileSplit | HashSplit, Field(discriminator="by")]


class Dataset(Block):
    """A schema that all silos share. Feature order is the order of the model's inputs."""

    name: Name
    description: Annotated[str, Field(max_length=2000)] = ""
    features: Annotated[dict[Column, Feature], Field(min_length=1, max_length=100_000)]
    label: Label
    subject: Subject | None = None
    split: Split

    @model_validator(mode="after")
    def _columns_apart(self) -> Self:
        images = [n for n, f in self.features.items() if isinstance(f, ImageFeature)]
        if images and len(self.features) > 1:
            raise ValueError(
                f"{images[0]!r} is an image; a data set with an image has no other feature"
            )
        used: dict[str, str] = {self.label.column: "label"}
        if self.subject is not None:
            if self.subject.column in used:
                raise ValueError(f"column {self.subject.column!r} cannot be both label and subject")
            used[self.subject.column] = "subject"
        if isinstance(self.split, ColumnSplit):
            if self.split.column in used:
                raise ValueError(
                    f"the split column {self.split.column!r} cannot be the "
                    f"{used[self.split.column]} column too"
                )
            used[self.split.column] = "split"
        for name in self.features:
            if name in used:
                raise ValueError(
                    f"column {name!r} cannot be a feature: it is the {used[name]} column"
                )
        return self

    @property
    def image(self) -> tuple[str, ImageFeature] | None:
        """The image feature and its column, in a data set of images."""
        for name, feature in self.features.items():
            if isinstance(feature, ImageFeature):
                return name, feature
        return None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row as a model sees it: [positions] or [channels, height, width]."""
        if self.image is not None:
            return self.image[1].input_shape
        return (len(self.input_names),)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What each input position of a tabular data set holds, such as `age` or `cp=1`."""
        return tuple(self._positions())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in words, in the order of their numbers."""
        return self.label.names

    @property
    def n_classes(self) -> int:
        """How many classes the label has."""
        return len(self.class_names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a source must have."""
        extra = [self.label.column]
        if self.subject is not None:
            extra.append(self.subject.column)
        if isinstance(self.split, ColumnSplit):
            extra.append(self.split.column)
        return (*self.features, *extra)

    def digest(self) -> str:
        """SHA-256 of the schema, the order of its features included."""
        return digest({"schema": self.model_dump(mode="json"), "order": list(self.features)})

    def _positions(self) -> Iterator[str]:
        for name, feature in self.features.items():
            if isinstance(feature, CategoryFeature):
                yield from (f"{name}={value}" for value in feature.values)
                if feature.unknown == "slot":
                    yield f"{name}=?"
            elif isinstance(feature, NumberFeature):
                yield name


def named(datasets: Any) -> Any:
    """Give each schema of a mapping the name of its key, for documents that say it once."""
    if not isinstance(datasets, Mapping):
        return datasets
    return {
        name: {"name": name, **schema} if isinstance(schema, Mapping) else schema
        for name, schema in datasets.items()
    }

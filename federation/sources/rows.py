"""Rows as a model sees them: one row at a time, by declared constants, never failing on a row.

Numbers are clamped to their bounds and mapped to [-1, 1], categories become one position per
value, images go to [0, 1]. What stands in for a missing or unknown value is declared; a row for
which nothing is declared is left out. Whatever one row contains changes that row alone: this is
what lets the sensitivity of one row be counted as one row (Dwork and Roth 2014, section 2.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import BadInput
from federation.schema import (
    CategoryFeature,
    ColumnSplit,
    Dataset,
    FileSplit,
    HashSplit,
    ImageFeature,
    NumberFeature,
)
from federation.settings import SiloConfig
from federation.sources.locator import file_source
from federation.sources.table import PARTS, UNLABELLED, Table, read
from federation.sources.values import identities, numbers, texts

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """A part of one silo's rows, as a model sees it.

    `features`: float32 [rows, *input_shape]; `labels`: int64 [rows], -1 in the part of rows without
    one; `subjects`: int64 [rows], equal for rows of one subject, or None in a data set without a
    subject column; `numbers`: int64 [rows], their places in the source, from 0. How many rows there
    are is as private as the rows.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64] | None
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Mapped:
    """All rows of a table after the mapping, the dropped ones marked, with what was bent.

    `keep` are the rows of the parts for training and test, `unlabelled` those that only lack a
    label. `faults` counts rows per rule and column, for the owner's check only.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.object_] | None
    keep: Bools
    unlabelled: Bools
    faults: dict[tuple[str, str], int]


def load_part(config: SiloConfig, dataset: Dataset, part: str) -> Part:
    """Read one part of a data set at a silo: "train", "test", or the "unlabelled" rows.

    Those have no label, or none within its rule, and are in neither of the others; where parts are
    files, they are those of the file for training. `config` comes from `Home.silo_config`. Raises
    `BadInput` for a source that lacks a column, `Missing` for one that is not there; no content of
    a row raises.
    """
    if part not in (*PARTS, UNLABELLED):
        raise BadInput(
            f"part: {part!r} is no part of a data set",
            field="part",
            value=part,
            allowed=(*PARTS, UNLABELLED),
        )
    source = config.sources[config.source_of(dataset.name)]
    separate = part == "test" and isinstance(dataset.split, FileSplit)
    table = read(source, dataset.columns, separate_test=separate)
    mapped = map_rows(dataset, table)
    if part == UNLABELLED:
        rows = np.flatnonzero(mapped.unlabelled)
        return Part(mapped.features[rows], mapped.labels[rows], None, rows.astype(np.int64))
    chosen = mapped.keep & in_part(dataset, table, mapped, part)
    return _cut(dataset, mapped, np.flatnonzero(chosen))


def read_features(path: Path, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read what a model needs of a CSV, Parquet or NPZ file, without labels or parts.

    Returns the numbers of the rows that the schema accepts, from 0, and float32
    [rows, *input_shape].
    """
    table = read(file_source(path, dataset.name), tuple(dataset.features))
    keep, _, fault = _book(table)
    features = _features(dataset, table, fault)
    return np.flatnonzero(keep).astype(np.int64), features[keep]


def map_rows(dataset: Dataset, table: Table) -> Mapped:
    """Map every row of a table; rows that a rule leaves out are marked in `keep`."""
    keep, faults, fault = _book(table)
    features = _features(dataset, table, fault)
    subjects = None
    if dataset.subject is not None:
        subjects = identities(table.columns[dataset.subject.column])
        nobody = np.array([s is None for s in subjects], dtype=bool)
        fault(dataset.subject.column, "no subject: left out", nobody, drop=True)
    unlabelled = keep.copy()
    labels = _labels(dataset, table, fault)
    unlabelled &= labels < 0
    return Mapped(features, labels, subjects, keep, unlabelled, faults)


def in_part(dataset: Dataset, table: Table, mapped: Mapped, part: str) -> Bools:
    """Which rows belong to a part, whether or not they are kept."""
    split = dataset.split
    if isinstance(split, FileSplit):
        return np.ones(table.rows, dtype=bool)
    if isinstance(split, ColumnSplit):
        wanted = split.train if part == "train" else split.test
        return np.array([t == wanted for t in texts(table.columns[split.column])], dtype=bool)
    in_test = _by_hash(split, mapped)
    return in_test if part == "test" else ~in_test


def _by_hash(split: HashSplit, mapped: Mapped) -> Bools:
    """True where the unit's hash puts it into the test part."""
    threshold = int(split.test_fraction * 2**64)
    if mapped.subjects is not None:
        keys = [_bytes(str(subject)) for subject in mapped.subjects]
    else:
        keys = _contents(mapped)
    return np.array([_hash("split", split.salt, key) < threshold for key in keys], dtype=bool)


def _cut(dataset: Dataset, mapped: Mapped, rows: NDArray[np.intp]) -> Part:
    """Take rows, at most `max_rows` of each subject: those with the least hashes of content."""
    codes = None
    if mapped.subjects is not None and dataset.subject is not None:
        contents = _contents(mapped)
        owned: dict[str, list[int]] = {}
        for row in rows:
            owned.setdefault(str(mapped.subjects[row]), []).append(int(row))
        chosen: list[tuple[int, int]] = []
        for code, subject in enumerate(sorted(owned)):
            ranked = sorted(owned[subject], key=lambda row: _hash("rows", subject, contents[row]))
            chosen += [(row, code) for row in ranked[: dataset.subject.max_rows]]
        chosen.sort()
        rows = np.array([row for row, _ in chosen], dtype=np.intp)
        codes = np.array([code for _, code in chosen], dtype=np.int64)
    return Part(mapped.features[rows], mapped.labels[rows], codes, rows.astype(np.int64))


def _hash(purpose: str, salt: str, key: bytes) -> int:
    """64 bits of BLAKE2b over a length-prefixed purpose and salt, and the key."""
    head = b"".join(len(t).to_bytes(4, "big") + t for t in (purpose.encode(), _bytes(salt)))
    return int.from_bytes(hashlib.blake2b(head + key, digest_size=8).digest(), "big")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # any text a source can hold has its bytes


def _contents(mapped: Mapped) -> list[bytes]:
    """Each row's mapped content, the same whatever kind of source it came from."""
    return [
        features.tobytes() + label.tobytes()
        for features, label in zip(mapped.features, mapped.labels, strict=True)
    ]


Fault = Callable[..., None]


def _book(table: Table) -> tuple[Bools, dict[tuple[str, str], int], Fault]:
    """Which rows stay, what was bent, and the function that writes both down."""
    keep = np.ones(table.rows, dtype=bool)
    faults: dict[tuple[str, str], int] = {}

    def fault(column: str, rule: str, rows: Bools, *, drop: bool = False) -> None:
        if rows.any():
            faults[column, rule] = int(rows.sum())
        if drop:
            np.logical_and(keep, ~rows, out=keep)

    return keep, faults, fault


def _features(dataset: Dataset, table: Table, fault: Fault) -> NDArray[np.float32]:
    for name, column in table.columns.items():
        if column.ndim != 1 and (dataset.image is None or name != dataset.image[0]):
            raise BadInput(
                f"column {name!r}: an array per row where the schema says one value",
                field="column",
                value=name,
                allowed="one value per row",
            )
    if dataset.image is not None:
        name, image = dataset.image
        return _images(name, image, table.columns[name], fault)
    blocks: list[NDArray[np.float32]] = []
    for name, feature in dataset.features.items():
        column = table.columns[name]
        if isinstance(feature, NumberFeature):
            blocks.append(_scaled(name, feature, column, fault))
        elif isinstance(feature, CategoryFeature):
            blocks.append(_one_hot(name, feature, column, fault))
    return np.concatenate(blocks, axis=1)


def _scaled(
    name: str, feature: NumberFeature, column: NDArray[Any], fault: Fault
) -> NDArray[np.float32]:
    low, high = feature.bounds
    values = numbers(column)
    absent = np.isnan(values)
    empty = absent.copy()
    empty[absent] = [t is None for t in texts(column[absent])]
    fate = "left out" if feature.missing is None else "replaced by the declared constant"
    drop = feature.missing is None
    fault(name, f"missing: {fate}", empty, drop=drop)
    fault(name, f"not a number: {fate}", absent & ~empty, drop=drop)
    fault(name, "out of bounds: clamped", (values < low) | (values > high))
    values = np.where(absent, low if feature.missing is None else feature.missing, values)
    scaled = 2.0 * ((np.clip(values, low, high) - low) / (high - low)) - 1.0
    matrix: NDArray[np.float32] = scaled.astype(np.float32)[:, None]
    return matrix


def _one_hot(
    name: str, feature: CategoryFeature, column: NDArray[Any], fault: Fault
) -> NDArray[np.float32]:
    index = {value: i for i, value in enumerate(feature.values)}
    said = texts(column)
    absent = np.array([t is None for t in said], dtype=bool)
    stand_in = index[feature.missing] if feature.missing is not None else -1
    codes = np.array([stand_in if t is None else index.get(t, -1) for t in said], dtype=np.int64)
    fate = {"slot": "marked unknown", "zero": "all zero", "drop": "left out"}[feature.unknown]
    drop = feature.unknown == "drop"
    kind = "replaced by the declared value" if feature.missing is not None else fate
    fault(name, f"missing: {kind}", absent, drop=drop and feature.missing is None)
    fault(name, f"unknown category: {fate}", (codes < 0) & ~absent, drop=drop)
    matrix = np.zeros((len(codes), feature.width), dtype=np.float32)
    if feature.unknown == "slot":
        codes = np.where(codes < 0, len(index), codes)
    rows = np.flatnonzero(codes >= 0)
    matrix[rows, codes[rows]] = 1.0
    return matrix


def _images(
    name: str, image: ImageFeature, column: NDArray[Any], fault: Fault
) -> NDArray[np.float32]:
    size = int(np.prod(image.input_shape))
    if column.dtype == object:
        flat = np.full((len(column), size), np.nan, dtype=np.float32)
        wrong = np.zeros(len(column), dtype=bool)
        for row, value in enumerate(column):
            pixels = _pixels(value)
            if pixels is None or pixels.size != size:
                wrong[row] = True
            else:
                flat[row] = _float32(pixels.reshape(-1))
        fault(name, "not an image of the declared shape: left out", wrong, drop=True)
    else:
        if column.dtype.kind not in "biuf" or int(np.prod(column.shape[1:])) != size:
            raise BadInput(
                f"column {name!r}: its arrays do not have the declared shape {list(image.shape)}",
                field="column",
                value=list(column.shape[1:]),
                allowed=list(image.shape),
            )
        flat = _float32(column.reshape(len(column), size))
        wrong = np.zeros(len(column), dtype=bool)
    low, high = image.bounds
    strange = ~np.isfinite(flat).all(axis=1) & ~wrong
    fault(name, "pixels that are not numbers: lower bound", strange)
    fault(name, "pixels out of bounds: clamped", ((flat < low) | (flat > high)).any(axis=1))
    flat[np.isnan(flat)] = low
    # In 32 bits, of bounds that are not round, the quotient can pass one by a rounding.
    scaled = np.clip((np.clip(flat, low, high) - low) / (high - low), 0.0, 1.0)
    images: NDArray[np.float32] = scaled.reshape(len(column), *image.input_shape)
    return images


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # too large for the type is out of bounds: clamped
        return values.astype(np.float32)


def _pixels(value: object) -> NDArray[np.float64] | None:
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None


def _labels(dataset: Dataset, table: Table, fault: Fault) -> NDArray[np.int64]:
    label = dataset.label
    column = table.columns[label.column]
    if label.classes is not None:
        index = {value: i for i, value in enumerate(label.classes)}
        codes = np.array([index.get(t, -1) if t is not None else -1 for t in texts(column)])
        codes = codes.astype(np.int64).reshape(-1)
    else:
        values = numbers(column)
        above = values > (label.positive_above or 0.0)
        codes = np.where(np.isnan(values), -1, above).astype(np.int64)
    fault(label.column, "label outside its rule: left out", codes < 0, drop=True)
    return codes

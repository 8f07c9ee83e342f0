"""A small data set for tests: its schema, and silos with sources of every kind."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from federation.documents import parse
from federation.schema import Dataset
from federation.settings import SiloConfig

HASH = {"by": "hash", "salt": "s", "test_fraction": 0.25}
BY_COLUMN = {"by": "column", "column": "part", "train": "train", "test": "test"}

FEATURES = {
    "age": {"type": "number", "bounds": [20, 90], "missing": 55},
    "dose": {"type": "number", "bounds": [0, 1]},
    "cp": {"type": "category", "values": [1, 2, 3], "unknown": "slot"},
    "sex": {"type": "category", "values": ["f", "m"], "missing": "f"},
    "site": {"type": "category", "values": ["a", "b"], "unknown": "drop"},
}


def dataset(**changes: Any) -> Dataset:
    base: dict[str, Any] = {
        "name": "d",
        "features": FEATURES,
        "label": {"column": "num", "positive_above": 0},
        "split": BY_COLUMN,
    }
    return parse(base | changes, Dataset, "d")


def silo(source: dict[str, Any], directory: Path = Path("/")) -> SiloConfig:
    data = {
        "name": "north",
        "sources": {"d": {"datasets": ["d"], **source}},
        "accounts": [{"source": "d", "epsilon": 1, "delta": 1e-5}],
    }
    return parse(data, SiloConfig, "silo.yaml").anchored(directory)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> SiloConfig:
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return silo({"kind": "csv", "path": str(path)})

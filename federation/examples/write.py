"""Write a silo's example rows in the form of its source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.settings import NpzSource, SourceConfig


def write_rows(directory: Path, source: SourceConfig, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write equally long columns to the CSV or NPZ file that the source names."""
    if isinstance(source, NpzSource):
        arrays: dict[str, Any] = dict(columns)
        np.savez_compressed(directory / source.path, **arrays)
        return
    with (directory / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))

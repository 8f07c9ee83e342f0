"""Breast Cancer Wisconsin (Diagnostic): 569 biopsies, thirty measurements of cell nuclei.

Wolberg, Mangasarian, Street, Street (1995), UCI Machine Learning Repository, CC BY 4.0, as
shipped with scikit-learn. Bounds are round numbers for what such measurements usually are; what
lies outside is clamped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.examples.source import load

FORM = "csv"

# measurement: (mean over the nuclei, standard error of it, mean of the three largest)
_BOUNDS: dict[str, tuple[tuple[float, float], ...]] = {
    "radius": ((5, 25), (0, 1.2), (5, 35)),
    "texture": ((5, 35), (0, 3), (10, 50)),
    "perimeter": ((40, 160), (0, 8), (40, 220)),
    "area": ((100, 1500), (0, 120), (100, 2500)),
    "smoothness": ((0.05, 0.15), (0, 0.015), (0.05, 0.25)),
    "compactness": ((0, 0.3), (0, 0.08), (0, 0.8)),
    "concavity": ((0, 0.4), (0, 0.1), (0, 1)),
    "concave_points": ((0, 0.2), (0, 0.03), (0, 0.3)),
    "symmetry": ((0.1, 0.3), (0, 0.05), (0.1, 0.6)),
    "fractal_dimension": ((0.05, 0.1), (0, 0.01), (0.05, 0.15)),
}
_KINDS = ("mean", "error", "worst")

FEATURES = tuple(f"{kind}_{name}" for kind in _KINDS for name in _BOUNDS)

SCHEMA: dict[str, Any] = {
    "description": "Breast Cancer Wisconsin (Diagnostic), thirty measurements of cell nuclei",
    "features": {
        f"{kind}_{name}": {"type": "number", "bounds": list(bounds[place])}
        for place, kind in enumerate(_KINDS)
        for name, bounds in _BOUNDS.items()
    },
    "label": {"column": "diagnosis", "classes": ["benign", "malignant"]},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}


def rows() -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The columns of all rows, and the number of each row's class."""
    bunch = load("load_breast_cancer")
    labels = 1 - np.asarray(bunch.target, dtype=np.int64)  # scikit-learn says 0 for malignant
    columns: dict[str, NDArray[Any]] = {
        name: np.asarray(bunch.data[:, place]) for place, name in enumerate(FEATURES)
    }
    columns["diagnosis"] = np.array(["benign", "malignant"])[labels]
    return columns, labels

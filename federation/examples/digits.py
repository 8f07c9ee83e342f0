"""Optical Recognition of Handwritten Digits: 1,797 images of 8x8 pixels in 17 greys.

Alpaydin, Kaynak (1998), UCI Machine Learning Repository, CC BY 4.0, as shipped with
scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.examples.source import load

FORM = "npz"

SCHEMA: dict[str, Any] = {
    "description": "Optical recognition of handwritten digits, 8x8 pixels",
    "features": {"image": {"type": "image", "shape": [8, 8], "bounds": [0, 16]}},
    "label": {"column": "digit", "classes": list(range(10))},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}


def rows() -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The columns of all rows, and the number of each row's class."""
    bunch = load("load_digits")
    labels = np.asarray(bunch.target, dtype=np.int64)
    return {"image": np.asarray(bunch.images, dtype=np.uint8), "digit": labels}, labels

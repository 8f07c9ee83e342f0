"""Federations of synthetic rows, written as files, for measuring how cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from federation.home import Home
from federation.init import init_dataset

FEATURES = 16
ROWS = 128
STEPS = 64
BATCH = 10

HIDDEN = {10**3: 24, 10**4: 90, 10**5: 305, 10**6: 990, 10**7: 3150}
"""Two hidden layers of this width make a model of about so many parameters."""


def synthetic_home(directory: Path, silos: int) -> Home:
    """A federation of `silos` NPZ files with about 128 training rows of 16 numbers each.

    Sizes differ from silo to silo, so that no silo's price is another's.
    """
    directory.mkdir(parents=True)
    schema = {
        "name": "synthetic",
        "features": {f"x{i}": {"type": "number", "bounds": [-3, 3]} for i in range(FEATURES)},
        "label": {"column": "y", "classes": [0, 1]},
        "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
    }
    (directory / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    random, sources, sizes = np.random.default_rng(0), {}, {}
    for number in range(silos):
        name, rows = f"silo-{number:02d}", ROWS + number
        columns: dict[str, Any] = {f"x{i}": random.normal(size=rows + 50) for i in range(FEATURES)}
        columns["y"] = (columns["x0"] + random.normal(size=rows + 50) > 0).astype(np.int64)
        columns["part"] = np.array(["train"] * rows + ["test"] * 50)
        np.savez(directory / f"{name}.npz", **columns)
        sources[name], sizes[name] = str(directory / f"{name}.npz"), f"{rows}/50"
    return init_dataset(
        directory / "home", directory / "schema.yaml", sources, sizes, epsilon=1e3, delta=1e-5
    )


def job(parameters: int, rounds: int, steps: int = STEPS, batch: int = BATCH) -> dict[str, Any]:
    """A train job: rounds of so many steps of `batch` expected rows, priced, noised, evaluated."""
    width = HIDDEN[parameters]
    return {
        "kind": "train",
        "name": "scaling",
        "dataset": "synthetic",
        "model": {"name": "mlp", "hidden": [width, width]},
        "strategy": {
            "name": "fedavg",
            "rounds": rounds,
            "local_steps": steps,
            "batch_size": batch,
            "learning_rate": 0.1,
        },
        "privacy": {"unit": "record", "epsilon": 1.0, "clip": 1.0},
        "evaluation": {"split": "test", "release": "dp"},
    }

"""The four hospitals of UCI Heart Disease, in the split that FLamby publishes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from federation.check import check_silo
from federation.init import init_dataset
from federation.sources.rows import load_part

SHARED = Path(os.environ.get("TACIT_SHARED", "../shared"))
HEART = SHARED / "data" / "heart"

SCHEMA = {
    "name": "heart",
    "features": {
        "age": {"type": "number", "bounds": [20, 90]},
        "sex": {"type": "number", "bounds": [0, 1]},
        "cp": {"type": "category", "values": [1, 2, 3, 4]},
        "trestbps": {"type": "number", "bounds": [80, 200]},
        "chol": {"type": "number", "bounds": [0, 600]},
        "fbs": {"type": "number", "bounds": [0, 1]},
        "restecg": {"type": "category", "values": [0, 1, 2]},
        "thalach": {"type": "number", "bounds": [60, 220]},
        "exang": {"type": "number", "bounds": [0, 1]},
        "oldpeak": {"type": "number", "bounds": [-3, 7]},
    },
    "label": {"column": "num", "positive_above": 0},
    "split": {"by": "column", "column": "set", "train": "train", "test": "test"},
}

# FLamby, Fed-Heart-Disease: rows complete without slope, ca and thal.
PUBLISHED = {
    "cleveland": (199, 104),
    "hungarian": (172, 89),
    "switzerland": (30, 16),
    "va": (85, 45),
}


def _rows(hospital: str) -> list[dict[str, str]]:
    with (HEART / f"{hospital}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(
    not HEART.is_dir(), reason=f"the heart data are not under {SHARED} (TACIT_SHARED)"
)
def test_four_csv_files_become_a_federation_in_flambys_split(tmp_path: Path) -> None:
    with (HEART / "flamby_split.csv").open(newline="") as file:
        sets = {(r["hospital"], int(r["row"])): r["set"] for r in csv.DictReader(file)}
    for hospital in PUBLISHED:
        rows = _rows(hospital)
        with (tmp_path / f"{hospital}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "set"])
            writer.writeheader()
            writer.writerows({**r, "set": sets[hospital, i]} for i, r in enumerate(rows))
    (tmp_path / "heart.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    home = init_dataset(
        tmp_path / "fed",
        tmp_path / "heart.yaml",
        {hospital: str(tmp_path / f"{hospital}.csv") for hospital in PUBLISHED},
        {hospital: f"{train}/{test}" for hospital, (train, test) in PUBLISHED.items()},
        delta=1e-4,
    )
    dataset = home.federation().dataset("heart")
    assert dataset.input_shape == (15,)
    for hospital, (train, test) in PUBLISHED.items():
        config = home.silo_config(hospital)
        parts = load_part(config, dataset, "train"), load_part(config, dataset, "test")
        assert (len(parts[0]), len(parts[1])) == (train, test)
        for part, name in zip(parts, ("train", "test"), strict=True):
            chosen = [r for i, r in enumerate(_rows(hospital)) if sets[hospital, i] == name]
            labels = [int(float(r["num"]) > 0) for r in chosen]
            np.testing.assert_array_equal(part.labels, labels)
            ages = [float(r["age"]) for r in chosen]
            np.testing.assert_allclose(part.features[:, 0], (np.array(ages) - 55) / 35, atol=1e-6)
            cp = [[float(float(r["cp"]) == v) for v in (1, 2, 3, 4)] for r in chosen]
            np.testing.assert_array_equal(part.features[:, 2:6], cp)
        # Every Swiss patient of this split's training part is ill: the owner is told.
        warned = check_silo(home, hospital)["datasets"]["heart"]["warnings"]
        one_class = ["no row for training of class num <= 0"]
        assert warned == (one_class if hospital == "switzerland" else [])


def test_mnist_as_it_is_published(tmp_path: Path) -> None:
    from tests_tabular import silo

    from federation.documents import parse
    from federation.schema import Dataset

    mnist = SHARED / "data" / "mnist"
    if not mnist.is_dir():
        pytest.skip(f"MNIST is not under {SHARED} (TACIT_SHARED)")
    data = {
        "name": "d",
        "features": {"image": {"type": "image", "shape": [28, 28]}},
        "label": {"column": "label", "classes": list(range(10))},
        "split": {"by": "hash", "salt": "mnist", "test_fraction": 0.2},
    }
    names = {"images": "t10k-images-idx3-ubyte.gz", "labels": "t10k-labels-idx1-ubyte.gz"}
    config = silo({"kind": "idx", **names}, mnist.absolute())
    parts = [load_part(config, parse(data, Dataset, "d"), p) for p in ("train", "test")]
    counts = sum(np.bincount(part.labels, minlength=10) for part in parts)
    # Class counts of the test set, as its authors give them.
    np.testing.assert_array_equal(counts, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert parts[0].features.shape[1:] == (1, 28, 28)
    assert abs(len(parts[1]) - 2000) < 4 * (10_000 * 0.2 * 0.8) ** 0.5

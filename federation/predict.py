"""Use a trained model where the rows are; nothing leaves the machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from federation.errors import BadInput
from federation.schema import Dataset
from privacy.ledger.durable import write_durably


def describe(path: Path, *, model: dict[str, object], dataset: Dataset) -> None:
    """Write, beside a model, what it takes to use it: architecture and schema, both public."""
    document = {"model": model, "dataset": dataset.model_dump(mode="json")}
    write_durably(path.with_suffix(".json"), json.dumps(document, indent=1).encode(), 0o644)


def predict_file(model: Path, source: Path, target: Path) -> int:
    """Predict every usable row of a CSV or Parquet file; return how many were written.

    The target, at mode 0600, gets one line per row that the schema accepts: its number in the
    file (from 0), the predicted class and the probability of each class. It must not exist.
    """
    import numpy as np
    import torch
    from safetensors.torch import load

    from federation.models import build_model
    from federation.sources.rows import read_features

    described = model.with_suffix(".json")
    for path, what in ((model, "model"), (described, "the model's description"), (source, "rows")):
        if not path.is_file():
            raise BadInput(f"{path}: no such file; it should hold {what}", field=what)
    if target.exists():
        raise BadInput(f"{target}: already there; name another with --out", field="out")
    document = json.loads(described.read_text())
    dataset = Dataset.model_validate(document["dataset"])
    network = build_model(document["model"], dataset.input_shape, dataset.n_classes, seed=0)
    network.load_state_dict(load(model.read_bytes()))
    network.eval()
    rows, features = read_features(source, dataset)
    with torch.no_grad():
        scores = torch.softmax(network(torch.from_numpy(features)), dim=1).numpy()
    target.touch(mode=0o600)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        names = dataset.class_names
        writer.writerow(["row", "predicted", *(f"p_{name}" for name in names)])
        for row, score in zip(rows, scores, strict=True):
            label = names[int(np.argmax(score))]
            writer.writerow([int(row), label, *(f"{p:.6f}" for p in score)])
    return len(rows)

"""Accuracy of a CNN on MNIST under privacy: four silos, and plain Opacus on the pooled rows.

8,000 training and 2,000 test images (MNIST's own test set in a fixed random order) lie at four
silos of 2,000 and 500. At epsilon 8 and 2 (delta 1e-5, per record) three models are trained, with
the same architecture, first weights, clip, step size, sampling rate and number of steps:

- Tacit with four silos, each adding the noise of its own epsilon to a quarter of the batch: nobody
  is trusted with the rows of others, so the mean of four carries twice the noise of one sum. That
  is what splitting costs;
- Tacit with one silo that holds all rows, which shows what the split costs and what the system;
- Opacus as its documentation uses it, `make_private_with_epsilon` with Poisson sampling, on all
  rows; its noise comes from its own PRV accountant.

Accuracies are shown and held to no limit; they move from run to run by the noise, and by the 2,000
test images (one standard error is about half a point). The one claim is that no run costs more than
its epsilon, by Tacit's PLD price. Evaluation is exact, which the policies of these homes allow for
this measurement only. Settings come from the literature (`jobs/mnist-*.yaml`) and were not searched
on these data. `--quick` runs epsilon 8 for ten steps.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Claims, main, say, shared
from _federations import JOBS, allow_unprotected, job_document, run
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

from federation.home import Home
from federation.init import init_dataset
from federation.models import build_model
from federation.sources.idx import read_idx

TRAIN, SILOS = 8000, 4
NAMES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def measure(claims: Claims, quick: bool) -> None:
    """Three models at every epsilon."""
    root = shared()
    data = root / "data" / "mnist" if root else None
    if data is None or not data.is_dir():
        claims.absent("largest price of a run", "epsilon", None, "no MNIST data (TACIT_SHARED)")
        return
    images, digits = (read_idx(data / name) for name in NAMES)
    order = np.random.default_rng(0).permutation(len(digits))
    images, digits = images[order], digits[order].astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as directory:
        for epsilon in (8,) if quick else (8, 2):
            document = job_document(f"mnist-epsilon-{epsilon}")
            if quick:
                document["strategy"]["rounds"] = 10
            _level(claims, Path(directory), images, digits, document)


def _level(
    claims: Claims,
    place: Path,
    images: NDArray[Any],
    digits: NDArray[np.int64],
    document: dict[str, Any],
) -> None:
    name, epsilon = document["name"], document["privacy"]["epsilon"]
    prices = []
    for silos in (SILOS, 1):
        home = _home(place / f"{name}-{silos}", images, digits, silos)
        strategy = document["strategy"]
        batch = strategy["batch_size"] * SILOS // silos
        ran = run(home, document | {"strategy": strategy | {"batch_size": batch}})
        prices += ran.epsilons.values()
        what = f"{silos} silos" if silos > 1 else "one silo"
        claims.report(f"{name}: Tacit, {what}: accuracy", ran.metrics["accuracy"], "share")
        say(f"     {ran.rounds:.0f} s of rounds")
    accuracy, spent, sigma = _opacus(images, digits, document)
    claims.report(f"{name}: Opacus, pooled: accuracy", accuracy, "share")
    say(f"     its own accountant: epsilon {spent:.3f}, noise multiplier {sigma:.4f}")
    claims.at_most(f"{name}: largest price of a run at any silo", max(prices), "epsilon", epsilon)


def _home(place: Path, images: NDArray[Any], digits: NDArray[np.int64], silos: int) -> Home:
    """Silos of equal size, declared as they are."""
    place.mkdir()
    rest = len(digits) - TRAIN
    train = np.array_split(np.arange(TRAIN), silos)
    test = np.array_split(np.arange(TRAIN, len(digits)), silos)
    for number in range(silos):
        rows = np.concatenate([train[number], test[number]])
        part = np.where(rows < TRAIN, "train", "test")
        np.savez(place / f"silo-{number}.npz", image=images[rows], digit=digits[rows], part=part)
    names = [f"silo-{number}" for number in range(silos)]
    home = init_dataset(
        place / "home",
        JOBS / "mnist-schema.yaml",
        {name: str(place / f"{name}.npz") for name in names},
        {name: f"{TRAIN // silos}/{rest // silos}" for name in names},
        epsilon=100.0,
        delta=1e-5,
    )
    allow_unprotected(home)
    return home


def _opacus(
    images: NDArray[Any], digits: NDArray[np.int64], document: dict[str, Any]
) -> tuple[float, float, float]:
    """Test accuracy, epsilon spent by Opacus' accountant, and its noise multiplier."""
    strategy, privacy = document["strategy"], document["privacy"]
    rows = torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)
    labels = torch.from_numpy(digits)
    batch = strategy["batch_size"] * SILOS
    model = build_model(document["model"], (1, 28, 28), 10, seed=document["seed"])
    engine = PrivacyEngine()
    loader = DataLoader(TensorDataset(rows[:TRAIN], labels[:TRAIN]), batch_size=batch)
    steps_per_epoch = len(loader)
    epochs = max(1, strategy["rounds"] // steps_per_epoch)
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=strategy["learning_rate"]),
        data_loader=loader,
        target_epsilon=privacy["epsilon"],
        target_delta=privacy["delta"],
        epochs=epochs,
        max_grad_norm=privacy["clip"],
        poisson_sampling=True,
    )
    for _ in range(epochs):
        for features, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(features), targets).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (model(rows[TRAIN:]).argmax(dim=1) == labels[TRAIN:]).double().mean()
    return float(right), engine.get_epsilon(privacy["delta"]), float(optimizer.noise_multiplier)


if __name__ == "__main__":
    main("mnist", measure, __doc__)

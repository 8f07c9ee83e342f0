"""Encrypted inference beside TenSEAL's own layer code, on one thread each, in interleaved pairs.

The network is that of TenSEAL's tutorial 4 (4 kernels of 7 by 7 at stride 3, square, 256 to 64,
square, 64 to 10), trained here on 8,000 MNIST images; 2,000 others are the test. Both sides run the
same weights. TenSEAL runs the tutorial's code and parameters (degree 8192, 31 + 6 x 26 + 31 = 218
bits, which is above the 214 of the guideline that Tacit keeps to). A latency is everything from the
image to the answer: encrypt, compute, decrypt. Claims:

- one image: at most 1 s, and at least 4 times faster (95 % bound of the median of the ratios);
- evaluation keys at most 40 MB, an upload at most 250 KB, the forecast of the keys within 10 %;
- 2,000 images, a row per slot: at most 15 ms each, accuracy within 0.05 points of the plain model;
- no error above the proved one, on any image, and in the median that at most 100 times the error;
- at least 90 % of the images certified, and none of them of another class;
- memory flat within 5 % over 200 answers;
- logistic regression (breast cancer, 30 features): same classes, error below 1e-4, at most 40 ms;
- a perceptron 30-16-2 over 4,096 rows: at most 0.5 ms a row.

`--quick` takes few pairs and images and leaves the 2,000 out.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tenseal as ts
import torch
from _common import Claims, main, median_bounds, say, shared
from numpy.typing import NDArray
from torch import nn

from federation.sources.idx import read_idx
from secure.ckks.client import Client
from secure.ckks.compiler import Compiled, compile_network
from secure.ckks.modules import Square
from secure.ckks.network import Network, read
from secure.ckks.server import Server

TRAIN = 8000
NAMES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
Reals = NDArray[np.float64]
T = TypeVar("T")


class Sides:
    """A client and a server of one compiled model."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.client, self.server = Client(compiled.plan), Server(compiled)
        self.keys = self.client.keys()
        self.server.register(self.keys)

    def __call__(self, rows: Reals) -> Any:
        """Encrypt, compute, decrypt."""
        self.upload = self.client.encrypt(rows)
        return self.client.open(self.server.answer(self.upload))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came out."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def measure(claims: Claims, quick: bool) -> None:
    """The three models."""
    torch.set_num_threads(1)
    root = shared()
    data = root / "data" / "mnist" if root else None
    if data is None or not data.is_dir():
        claims.absent("MNIST CNN: one image", "s", 1.0, "no MNIST data (TACIT_SHARED)")
    else:
        _convolutional(claims, quick, data)
    _logistic(claims)
    _perceptron(claims, quick)


def _convolutional(claims: Claims, quick: bool, data: Path) -> None:
    images, digits = (read_idx(data / name) for name in NAMES)
    order = np.random.default_rng(0).permutation(len(digits))
    pixels = torch.from_numpy(images[order].astype(np.float32) / 255).unsqueeze(1)
    labels = torch.from_numpy(digits[order].astype(np.int64))
    model = _trained(pixels[:TRAIN], labels[:TRAIN])
    rows = pixels[TRAIN:].reshape(-1, 784).numpy().astype(np.float64)
    truth = labels[TRAIN:].numpy()
    network = read(model, (1, 28, 28))
    plain = network.plain(rows)
    right = plain.argmax(axis=1) == truth
    claims.report("MNIST CNN: plain accuracy", float(right.mean()), "share")
    seconds, compiled = timed(lambda: compile_network(network, 0.0, 1.0))
    say(f"     compiled in {seconds:.1f} s: {compiled.plan.ring}, error {compiled.plan.error:.3g}")
    sides = Sides(compiled)
    claims.at_most("MNIST CNN: evaluation keys", len(sides.keys) / 1e6, "MB", 40)
    off = abs(compiled.forecast.key_bytes / len(sides.keys) - 1)
    claims.at_most("MNIST CNN: forecast of the keys, off by", off, "share", 0.1)

    peer = _TutorialNetwork(model)
    ours, ratios, answers = [], [], []
    for number in range(5 if quick else 30):
        image = rows[number : number + 1]
        mine, opened = timed(lambda image=image: sides(image))
        theirs, decoded = timed(lambda image=image: peer(image[0].reshape(28, 28)))
        ours.append(mine)
        ratios.append(theirs / mine)
        answers.append((opened, np.asarray(decoded)))
        say(f"     image {number}: {mine:.3f} s, TenSEAL {theirs:.3f} s")
    claims.at_most("MNIST CNN: one image, median", statistics.median(ours), "s", 1.0)
    claims.at_least("MNIST CNN: times faster than TenSEAL", median_bounds(ratios)[0], "x", 4.0)
    claims.at_most("MNIST CNN: upload of one image", len(sides.upload) / 1e3, "KB", 250)
    worst = max(np.abs(theirs - plain[i]).max() for i, (_, theirs) in enumerate(answers))
    claims.report("MNIST CNN: largest error of TenSEAL", float(worst), "logits")

    count = 20 if quick else 2000
    errors, certified, memory = [], [], []
    for number in range(count):
        opened = sides(rows[number : number + 1])
        seen = float(np.abs(opened.values[0] - plain[number]).max())
        errors.append((seen, float(opened.errors[0])))
        same = opened.classes[0] == plain[number].argmax()
        certified.append((bool(opened.certified[0]), bool(same)))
        if number in (20, 220):
            gc.collect()
            memory.append(_resident())
    _errors(claims, "MNIST CNN, one by one", errors)
    agree = sum(same for _, same in certified) / count
    claims.at_least("MNIST CNN, one by one: same class as the plain model", agree, "share", 0.9995)
    wrong = sum(sure and not same for sure, same in certified)
    claims.at_most("MNIST CNN: certified and another class", wrong, "images", 0)
    share = sum(sure for sure, _ in certified) / count
    claims.at_least("MNIST CNN: certified by their margin", share, "share", 0.9)
    ratio = statistics.median(proved / seen for seen, proved in errors)
    claims.at_most("MNIST CNN: proved over observed error, median", ratio, "x", 100)
    if len(memory) == 2:
        grown = memory[1] / memory[0] - 1
        claims.at_most("MNIST CNN: memory grown over 200 answers", grown, "share", 0.05)
    if not quick:
        _together(claims, network, rows, truth)


def _together(claims: Claims, network: Network, rows: Reals, truth: NDArray[np.int64]) -> None:
    plain = network.plain(rows)
    right = plain.argmax(axis=1) == truth
    batch = Sides(compile_network(network, 0.0, 1.0, rows=len(rows)))
    seconds, opened = timed(lambda: batch(rows))
    claims.at_most("MNIST CNN, 2,000 together: an image", seconds / len(rows) * 1e3, "ms", 15)
    found = float((opened.classes == truth).mean())
    apart = abs(found - float(right.mean())) * 100
    claims.at_most("MNIST CNN, 2,000 together: accuracy off by", apart, "points", 0.05)
    seen = np.abs(opened.values - plain).max(axis=1)
    _errors(claims, "MNIST CNN, 2,000 together", list(zip(seen, opened.errors, strict=True)))


def _errors(claims: Claims, name: str, errors: list[tuple[float, float]]) -> None:
    largest = max(float(seen) for seen, _ in errors)
    share = max(float(seen / proved) for seen, proved in errors)
    claims.report(f"{name}: largest error", largest, "logits")
    claims.at_most(f"{name}: largest share of the proved error", share, "x", 1.0)


def _trained(pixels: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """Train with strong weight decay: small weights keep ranges, and so the proved error, small."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 7, stride=3),
        Square(),
        nn.Flatten(),
        nn.Linear(256, 64),
        Square(),
        nn.Linear(64, 10),
    )
    epochs, size = 15, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.3)
    steps = epochs * (len(labels) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class _TutorialNetwork:
    """TenSEAL's tutorial 4: im2col convolution, squares and vector-matrix products."""

    def __init__(self, model: nn.Sequential) -> None:
        self.context = ts.context(
            ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[31, *[26] * 6, 31], n_threads=1
        )
        self.context.global_scale = 2.0**26
        self.context.generate_galois_keys()
        first, middle, last = model[0], model[3], model[5]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(middle, nn.Linear)
        assert isinstance(last, nn.Linear)
        self.kernels = first.weight.detach().reshape(4, 7, 7).tolist()
        self.biases = first.bias.detach().tolist() if first.bias is not None else [0.0] * 4
        self.dense = [
            (m.weight.detach().T.tolist(), m.bias.detach().tolist()) for m in (middle, last)
        ]

    def __call__(self, image: Reals) -> list[float]:
        """Encrypt, compute, decrypt."""
        encoded, windows = ts.im2col_encoding(self.context, image.tolist(), 7, 7, 3)
        channels = [
            encoded.conv2d_im2col(kernel, windows) + bias
            for kernel, bias in zip(self.kernels, self.biases, strict=True)
        ]
        vector = ts.CKKSVector.pack_vectors(channels)
        vector.square_()
        weights, bias = self.dense[0]
        vector = vector.mm(weights) + bias
        vector.square_()
        weights, bias = self.dense[1]
        vector = vector.mm(weights) + bias
        decrypted: list[float] = vector.decrypt()
        return decrypted


def _logistic(claims: Claims) -> None:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    features, labels = features[order], labels[order]
    low, high = features[:400].min(axis=0), features[:400].max(axis=0)
    rows = np.clip(2 * (features - low) / (high - low) - 1, -1, 1)
    torch.manual_seed(0)
    model = nn.Linear(30, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)
    inputs, targets = (torch.tensor(part[:400], dtype=torch.float32) for part in (rows, labels))

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets)
        total = fit + 1e-3 * model.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    network = read(model, (30,))
    sides, test = Sides(compile_network(network, -1.0, 1.0)), rows[400:]
    plain = network.plain(test)
    runs = [timed(lambda row=row: sides(row[None])) for row in test]
    values = np.concatenate([opened.values for _, opened in runs])
    seconds = statistics.median(taken for taken, _ in runs)
    claims.at_most("logistic regression: one row, median", seconds * 1e3, "ms", 40)
    claims.at_most(
        "logistic regression: largest error", float(np.abs(values - plain).max()), "logits", 1e-4
    )
    differ = int(((values > 0) != (plain > 0)).sum())
    claims.at_most("logistic regression: classes that differ", differ, "rows", 0)
    errors = [
        (float(np.abs(v - p).max()), float(opened.errors[0]))
        for v, p, (_, opened) in zip(values, plain, runs, strict=True)
    ]
    _errors(claims, "logistic regression", errors)


def _perceptron(claims: Claims, quick: bool) -> None:
    torch.manual_seed(0)
    network = read(nn.Sequential(nn.Linear(30, 16), Square(), nn.Linear(16, 2)), (30,))
    rows = np.random.default_rng(0).uniform(-1, 1, (4096, 30))
    sides = Sides(compile_network(network, -1.0, 1.0, rows=len(rows)))
    taken, opened = zip(
        *[timed(lambda: sides(rows)) for _ in range(2 if quick else 5)], strict=True
    )
    claims.at_most(
        "perceptron, 4,096 rows together: a row", statistics.median(taken) / 4.096, "ms", 0.5
    )
    seen = np.abs(opened[0].values - network.plain(rows)).max(axis=1)
    _errors(claims, "perceptron", list(zip(seen, opened[0].errors, strict=True)))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main("ckks", measure, __doc__)

"""What consensus finds, and what checking an answer costs.

A network 64-128-10 is trained on scikit-learn's digits and asked the 797 images it was not trained
on, in questions of 16 rows. Four nodes run it in 32-bit floats, each in its own way: hidden units
in another order, or row by row. The tolerance is calibrated on the training rows. Claims:

- four honest nodes agree on every question;
- one liar in four (an output moved by 1 % of the outputs' root mean square, in one row) is found in
  every question, and so is a node that serves the network with 8-bit weights;
- three colluders of four win every question: consensus is no better than that;
- Freivalds' check of a layer of 1,024 by 1,024 on 256 rows in fixed point takes at most a third of
  the time of the product itself, by interleaved pairs;
- a proof by ezkl of a network of 195 weights holds, and one changed bit makes it fail; the same for
  101,770 weights.

`--quick` asks fewer questions and leaves the larger proof out.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _common import Claims, main, median_bounds, say

from secure.errors import SecureError
from secure.keys import SigningKey
from secure.verification import zk
from secure.verification.agreement import UNDECIDED, Outcome
from secure.verification.commitment import Tensor, commit
from secure.verification.consensus import Consensus, Node, PlainLane
from secure.verification.fixed import FixedLinear
from secure.verification.freivalds import Checker
from secure.verification.tolerance import Tolerance, calibrate, power

Compute = Callable[[Any], Any]
NAMES = ("east", "north", "south", "west")
KEYS = {name: SigningKey.generate() for name in NAMES}
ROWS = 16


@dataclass(frozen=True)
class Network:
    """Two layers in 32-bit floats, run in one of several honest ways."""

    layers: list[tuple[Any, Any]]
    one_by_one: bool = False

    def __call__(self, rows: Any) -> Any:
        """Return the logits."""
        if self.one_by_one:
            return np.concatenate([self._run(row[None]) for row in rows])
        return self._run(rows)

    def _run(self, rows: Any) -> Any:
        (w1, b1), (w2, b2) = self.layers
        return np.maximum(rows @ w1.T + b1, 0) @ w2.T + b2

    def turned(self, seed: int) -> Network:
        """The same network with its hidden units in another order."""
        (w1, b1), (w2, b2) = self.layers
        order = np.random.default_rng(seed).permutation(len(w1))
        return Network([(w1[order].copy(), b1[order]), (w2[:, order].copy(), b2)])

    def rounded(self, to: Callable[[Any], Any]) -> Network:
        """The network with its weights rounded."""
        return Network([(to(w), b) for w, b in self.layers])


def int8(weight: Any) -> Any:
    """Round to 8 bits, one scale per matrix."""
    step = np.abs(weight).max() / 127
    return (np.rint(weight / step) * step).astype(np.float32)


def trained() -> tuple[Network, Any, Any]:
    """The network, the rows it was trained on, and the others."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    data = load_digits()
    rows = (data.data / 16).astype(np.float32)
    with warnings.catch_warnings(action="ignore"):  # sixty passes are enough
        model = MLPClassifier((128,), max_iter=60, random_state=0)
        model.fit(rows[:1000], data.target[:1000])
    layers = [
        (np.ascontiguousarray(w.T, np.float32), b.astype(np.float32))
        for w, b in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    network = Network(layers)
    accuracy = float(np.mean(network(rows[1000:]).argmax(axis=1) == data.target[1000:]))
    say(f"     accuracy on the other rows {accuracy:.3f}")
    return network, rows[:1000], rows[1000:]


def ask(rows: Any, computes: Mapping[str, Compute], tolerance: Tolerance) -> Outcome:
    """One question to four nodes."""
    lanes = {name: PlainLane(KEYS[name].public, bytes(32)) for name in NAMES}
    client = Consensus(lanes, rows, shape=(len(rows), 10), tolerance=tolerance)
    nodes = {name: Node(name, KEYS[name], bytes(32), computes[name]) for name in NAMES}
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES:
        client.reveal(nodes[name].reveal(client.closed))
    return client.outcome()


def consensus(claims: Claims, quick: bool) -> None:
    """Ask the same questions of honest nodes, one liar, a substitute, and three colluders."""
    plain, known, fresh = trained()
    honest = [plain, Network(plain.layers, one_by_one=True), plain.turned(1), plain.turned(2)]
    tolerance = calibrate([node(known) for node in honest])
    scale = float(np.sqrt(np.mean(plain(known) ** 2)))
    claims.report("tolerance, relative", tolerance.relative, "")
    answers = honest[0](fresh)
    for what, to in (
        ("8-bit", int8),
        ("16-bit float", lambda w: w.astype(np.float16).astype(np.float32)),
    ):
        share = power(tolerance, answers, plain.rounded(to)(fresh))
        claims.report(f"rows on which {what} weights are out of tolerance", 100 * share, "%")

    def lying(node: Compute) -> Compute:
        def compute(rows: Any) -> Any:
            out = node(rows).copy()
            out[len(rows) // 2, 3] += np.float32(0.01 * scale)
            return out

        return compute

    questions = [fresh[i : i + ROWS] for i in range(0, len(fresh) - ROWS + 1, ROWS)]
    questions = questions[:10] if quick else questions
    agreed = liar = substitute = colluders = undecided = 0
    seconds = []
    for number, rows in enumerate(questions):
        cheat = NAMES[number % 4]
        computes: dict[str, Compute] = dict(zip(NAMES, honest, strict=True))
        begun = time.perf_counter()
        outcome = ask(rows, computes, tolerance)
        seconds.append(time.perf_counter() - begun)
        agreed += outcome.members == NAMES
        undecided += int(np.count_nonzero(outcome.classes() == UNDECIDED))
        outcome = ask(rows, computes | {cheat: lying(computes[cheat])}, tolerance)
        liar += outcome.agreed and set(outcome.dissent) == {cheat}
        outcome = ask(rows, computes | {cheat: plain.rounded(int8)}, tolerance)
        substitute += outcome.agreed and set(outcome.dissent) == {cheat}
        together = {name: lying(computes[name]) for name in NAMES if name != cheat}
        outcome = ask(rows, computes | together, tolerance)
        colluders += outcome.agreed and set(outcome.dissent) == {cheat}
    asked = len(questions)
    claims.report("questions of 16 rows", asked, "")
    claims.at_least("honest nodes agree", 100 * agreed / asked, "% of questions", 100)
    claims.report("rows undecided between two classes", undecided, "")
    claims.at_least("one liar in four is found", 100 * liar / asked, "% of questions", 100)
    claims.at_least("an 8-bit substitute is found", 100 * substitute / asked, "% of questions", 100)
    claims.at_least("three colluders of four win", 100 * colluders / asked, "% of questions", 100)
    claims.report(
        "one question, four nodes and client in one process", 1e3 * np.median(seconds), "ms"
    )


def freivalds(claims: Claims, quick: bool) -> None:
    """Time the product and its check in turns."""
    rng = np.random.default_rng(0)
    limit = 1 << 14
    layer = FixedLinear(
        rng.integers(-limit, limit, (1024, 1024)), rng.integers(-limit, limit, 1024), limit
    )
    x = rng.integers(-limit, limit, (256, 1024))
    check = Checker(layer)
    ratios = []
    for _ in range(30 if quick else 60):
        begun = time.perf_counter()
        y = layer.compute(x)
        between = time.perf_counter()
        check(x, y)
        ratios.append((time.perf_counter() - between) / (between - begun))
    _, _, upper = median_bounds(ratios)
    claims.at_most("Freivalds' check over the product, 256 rows", upper, "x", 1 / 3)


def commitments(claims: Claims) -> None:
    """Time the commitment to 100 MB of weights."""
    rng = np.random.default_rng(0)
    tensors = [Tensor(f"layer.{i}", "F32", (2_500_000,), rng.bytes(10_000_000)) for i in range(10)]
    begun = time.perf_counter()
    commit(tensors)
    claims.report("commitment to a model of 100 MB", time.perf_counter() - begun, "s")


def proof(claims: Claims, *sizes: int) -> None:
    """Prove one row of a network, check it, and check it changed."""
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=(out, into)) / np.sqrt(into), rng.normal(size=out) / 10)
        for into, out in pairwise(sizes)
    ]
    what = f"ezkl, {sum(w.size + b.size for w, b in layers):,} weights"
    rows = rng.normal(size=(4, sizes[0]))
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        begun = time.perf_counter()
        circuit = zk.build(layers, rows[1:], home / "owner")
        zk.draw_parameters(home / "parameters", circuit.size)
        keys = zk.make_keys(circuit, home / "parameters")
        ready = time.perf_counter()
        made = zk.prove(keys, rows[0])
        proven = time.perf_counter()
        zk.check(keys.statement, made, rows[0])
        checked = time.perf_counter()
        document = json.loads(made)
        document["proof"][100] ^= 1
        try:
            zk.check(keys.statement, json.dumps(document).encode(), rows[0])
            refused = 0
        except SecureError:
            refused = 1
    claims.report(f"{what}: circuit, parameters and keys", ready - begun, "s")
    claims.report(f"{what}: largest error of an output on three rows", circuit.error, "")
    claims.report(f"{what}: one proof", proven - ready, "s")
    claims.report(f"{what}: its size", len(made) / 1e3, "kB")
    claims.report(f"{what}: its check", checked - proven, "s")
    claims.at_least(f"{what}: a proof with one changed bit is refused", refused, "of 1", 1)


def measure(claims: Claims, quick: bool) -> None:
    """Measure all of it."""
    consensus(claims, quick)
    freivalds(claims, quick)
    commitments(claims)
    proof(claims, 8, 16, 3)
    if not quick:
        proof(claims, 784, 128, 10)


if __name__ == "__main__":
    main("verification", measure, __doc__)

"""Equivariant sealing: the plain model's answers, in its time, and what attacks make of it.

A decoder of 6 layers and an encoder of 12, both of width 256 with 2,000 words and random weights,
are sealed by `Owner.seal`, run at a `Node`, sealed and opened at a `Silo`, bytes between them. Both
sides run in this process on one thread. Claims:

- the largest difference to the plain answer is at most 1e-10 of the largest answer in float64 and
  1e-4 in float32, and the same word is the largest at 1,000 positions;
- opened with another sealing's key, fewer than ten words are right (two random permutations share
  one word on average);
- the node's run takes at most 1.02 of the plain model's: the 95 % bound of the median of
  interleaved pairs, in turns the one or the other first, in seconds of the processor, so that other
  work on the machine does not decide. By the clock, and with sealing and opening at the data silo
  and all bytes, it is shown;
- with the base model the attack tells at least 99 % of all words, and the report says "obfuscation,
  not encryption". Without a base, what it tells is shown, and what the other attacks recover from
  a synthetic language; the frequency attack also reads this repository's own pages;
- a CNN trained on MNIST keeps its class on every test image. How alike its input and feature maps
  at the node are to the image is shown.

`--quick` takes fewer pairs and trains the CNN shortly.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from _common import Claims, main, median_bounds, say, shared
from torch import Tensor, nn

from secure.equivariant import (
    LABEL,
    Decoder,
    Encoder,
    Model,
    Node,
    Owner,
    Probes,
    SealingKey,
    Silo,
    from_torch,
)
from secure.equivariant.architecture import Architecture
from secure.equivariant.attacks import traffic
from secure.keys import SigningKey

OWNER, NODE, SILO = (SigningKey.generate() for _ in range(3))
WORDS, WIDTH, BATCH, LENGTH = 2000, 256, 20, 50
TRAIN = 8000
DECODER = Decoder(
    vocabulary=WORDS,
    width=WIDTH,
    layers=6,
    heads=8,
    kv_heads=4,
    head_width=32,
    hidden=688,
    positions=512,
)
ENCODER = Encoder(
    vocabulary=WORDS,
    positions=512,
    types=2,
    width=WIDTH,
    layers=12,
    heads=8,
    hidden=1024,
    head="masked",
)


def drawn(architecture: Architecture, dtype: torch.dtype) -> Model:
    """A model with random weights of the usual sizes."""
    chance = torch.Generator().manual_seed(1)
    weights = {}
    for name, shape in architecture.tensors().items():
        noise = torch.randn(shape, generator=chance, dtype=torch.float64)
        if len(shape) == 2:
            weights[name] = noise / shape[1] ** 0.5
        else:
            gain = "norm" in name and not name.endswith("bias")
            weights[name] = 0.1 * noise + (1 if gain else 0)
    return Model(architecture, {name: tensor.to(dtype) for name, tensor in weights.items()})


class Sealed:
    """A model at its three parties, with the attacks' report."""

    def __init__(self, model: Model, probes: Probes | None = None) -> None:
        self.plain = model
        begun = time.perf_counter()
        sealing = Owner(OWNER).seal(
            model, SealingKey.generate(), node=NODE.public, silo=SILO.public, probes=probes
        )
        self.seconds = time.perf_counter() - begun
        self.report, self.manifest = sealing.report, sealing.manifest
        self.node = Node(sealing.node, me=NODE.public, owner=OWNER.public)
        self.silo = Silo(sealing.silo, SILO, owner=OWNER.public)

    def ask(self, inputs: dict[str, Tensor]) -> Tensor:
        """From the silo to the node and back."""
        return self.silo.open(self.node.run(self.silo.seal(inputs)))


def measure(claims: Claims, quick: bool) -> None:
    """Both transformers, then real text, then a CNN."""
    torch.set_num_threads(1)
    for name, architecture in (("decoder", DECODER), ("encoder", ENCODER)):
        exactness(claims, name, architecture)
        sealed = Sealed(drawn(architecture, torch.float32))
        speed(claims, name, sealed, 40 if quick else 200)
        attacked(claims, name, sealed)
    real_text(claims)
    digits(claims, quick)


def tokens() -> dict[str, Tensor]:
    """A thousand positions."""
    chance = torch.Generator().manual_seed(2)
    return {"tokens": torch.randint(WORDS, (BATCH, LENGTH), generator=chance)}


def exactness(claims: Claims, name: str, architecture: Architecture) -> None:
    """Sealed and plain answers, and those under a wrong key."""
    inputs = tokens()
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = drawn(architecture, dtype)
        sealed, done = model.transform(SealingKey.generate().secret)
        other = model.transform(SealingKey.generate().secret)[1]
        plain = model.run(inputs)
        answer = sealed.run(model.architecture.takes.sealed(inputs, done.input))
        found = done.output.to(dtype).inverted().apply(answer)
        kind = str(dtype).removeprefix("torch.")
        error = float((found - plain).abs().max() / plain.abs().max())
        claims.at_most(f"{name}, {kind}: largest relative difference", error, "", limit)
        best = plain.argmax(-1)
        differ = int((found.argmax(-1) != best).sum())
        claims.at_most(
            f"{name}, {kind}: largest word differs, of {best.numel()}", differ, "positions", 0
        )
    wrong = other.output.to(dtype).inverted().apply(answer).argmax(-1)
    right = len(best[wrong == best].unique())
    claims.at_most(f"{name}: words right under a wrong key, of {WORDS}", right, "words", 9)


def speed(claims: Claims, name: str, sealed: Sealed, pairs: int) -> None:
    """Interleaved pairs of the plain model and the node's."""
    inputs = {"tokens": tokens()["tokens"][: BATCH // 4]}
    hidden = sealed.plain.architecture.takes.sealed(inputs, sealed.silo._input)

    def timed(work: Callable[[], object]) -> tuple[float, float]:
        begun = time.process_time(), time.perf_counter()
        work()
        return time.process_time() - begun[0], time.perf_counter() - begun[1]

    sides = {
        "plain": lambda: sealed.plain.run(inputs),
        "node": lambda: sealed.node.model.run(hidden),
        "all": lambda: sealed.ask(inputs),
    }
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for pair in range(-3, pairs):
        for side in list(sides)[:: 1 if pair % 2 else -1]:
            seconds = timed(sides[side])
            if pair >= 0:
                taken[side].append(seconds)

    def ratio(side: str, clock: int) -> tuple[float, float, float]:
        both = zip(taken[side], taken["plain"], strict=True)
        return median_bounds([ours[clock] / plain[clock] for ours, plain in both])

    size = inputs["tokens"].numel()
    plain = median_bounds([seconds[0] for seconds in taken["plain"]])[1]
    claims.report(f"{name}: the plain model, {size} positions", plain * 1e3, "ms")
    claims.report(f"{name}: node over plain, median", ratio("node", 0)[1], "x")
    claims.at_most(
        f"{name}: node over plain, 95 % bound of {pairs} pairs", ratio("node", 0)[2], "x", 1.02
    )
    claims.report(f"{name}: node over plain by the clock, median", ratio("node", 1)[1], "x")
    claims.report(f"{name}: with sealing, opening and all bytes", ratio("all", 0)[1], "x")


def attacked(claims: Claims, name: str, sealed: Sealed) -> None:
    """What the report of the sealing says."""
    claims.report(f"{name}: sealing and attacking", sealed.seconds, "s")
    labelled = sealed.report.label == sealed.manifest["protection"] == LABEL
    claims.at_least(f'{name}: the report says "{LABEL}"', float(labelled), "", 1)
    first, *rest = sealed.report.findings
    claims.at_least(f"{name}: {first.attack}, {first.knows}", 100 * first.value, "%", 99)
    for found in rest:
        claims.report(f"{name}: {found.attack}, {found.knows}", 100 * found.value, "%")


def real_text(claims: Claims) -> None:
    """The frequency attack on English: this repository's pages, half known and half sealed."""
    root = Path(__file__).resolve().parents[1]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    words = re.findall(r"[a-z]+", " ".join(p.read_text(encoding="utf-8") for p in pages).lower())
    common = [word for word, _ in Counter(words).most_common(WORDS - 1)]
    number = {word: place for place, word in enumerate(common)}
    ids = torch.tensor([number.get(word, WORDS - 1) for word in words])
    ids = ids[: len(ids) // 64 * 64].reshape(-1, 64)
    probes = Probes(ids[::2], ids[1::2], "pages")
    key = drawn(DECODER, torch.float32).transform(SealingKey.generate().secret)[1].input
    seen = DECODER.takes.sealed({"tokens": probes.observed}, key)["tokens"]
    guess = traffic.read_by_frequency(seen, probes.reference, WORDS)
    share = float((guess[seen] == probes.observed).double().mean())
    claims.report(f"token frequency on {seen.numel()} words of English", 100 * share, "%")


def digits(claims: Claims, quick: bool) -> None:
    """A CNN on MNIST: its classes, and what its node sees of an image."""
    data = shared()
    claim = "MNIST CNN: classes that differ"
    if data is None or not (data / "data" / "mnist").is_dir():
        claims.absent(claim, "images", 0, "no MNIST in the shared data")
        return
    from federation.sources.idx import read_idx

    images = torch.from_numpy(read_idx(data / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(
        read_idx(data / "data" / "mnist" / "t10k-labels-idx1-ubyte.gz")
    ).long()
    images = images.float()[:, None] / 255
    network = trained(images[:TRAIN], labels[:TRAIN], 1 if quick else 5)
    model = from_torch(network, (1, 28, 28))
    sealed = Sealed(model, Probes.of(model.architecture.takes, images[:TRAIN:4]))
    test = images[TRAIN:]
    plain, found = model.run({"rows": test}), sealed.ask({"rows": test})
    hits = float((plain.argmax(1) == labels[TRAIN:]).float().mean())
    claims.report("MNIST CNN: accuracy of the plain model", 100 * hits, "%")
    differ = int((plain.argmax(1) != found.argmax(1)).sum())
    claims.at_most(f"{claim}, of {len(test)}", differ, "images", 0)
    for finding in sealed.report.findings:
        if finding.attack == "feature maps":
            claims.report(f"MNIST CNN: similarity, {finding.knows}", finding.value, "")
            claims.report(f"MNIST CNN: to other images, {finding.knows}", finding.chance, "")
        else:
            claims.report(f"MNIST CNN: {finding.attack}, {finding.knows}", 100 * finding.value, "%")


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    """A small CNN, plainly trained."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    say(f"     trained on {len(images)} images, {epochs} epochs")
    return network.eval()


if __name__ == "__main__":
    main("equivariant", measure, __doc__)

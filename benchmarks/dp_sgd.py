"""What clipping per row costs a training step, beside no privacy and beside every mode of Opacus.

One step of a model on one batch, on one thread, without noise on any side, as noise is the same
work for all who clip: forward, backward, clipped sum, update. In one process, in turn:

- plain: PyTorch's backward pass and `torch.optim.SGD`;
- ours: `Clipper`, then the update, as in `DpSgd`;
- Opacus: hooks, functorch, expanded weights and ghost clipping, each with its own optimizer.

Models: a 64-256-256-10 MLP, the CNN of `model: {name: cnn}` on 8x8 and 28x28 images, and a
transformer encoder of four layers, width 128, on 64 words (Opacus gets its own attention there, by
its own `fix`). Claims, at batches of 64 and 256: the median step over a plain one, at most 1.6
for MLP and CNN and 1.5 for the transformer; against the best mode of Opacus at least 5 times
faster for the MLP and 1.3 times for the rest; peak memory of a step, by PyTorch's own
count with parameters, at most 1.5 times plain, where a plain step takes less than 8 MiB counted as
that. Times are processor time of the thread; values are the 95 % bounds of medians of pairs. What a
mode of Opacus does not take is not measured.

Shown without limit: a whole private step with secret sample and cryptographic noise, and by how
much the steps of the heart and MNIST jobs got faster than with Opacus' hooks, which they ran on
before. fastDP is on no package index, and jax-privacy clips JAX models, whose plain steps are not
these; both are left out. `--quick` takes few pairs and the two smallest models.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _common import Claims, main, median_bounds
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import profile

from federation.models import build_model
from privacy.events import Unit
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import Clipper
from privacy.mechanisms.clipping.fallback import Hooked
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource

CLIP, RATE, CLASSES = 1.0, 1e-4, 10
SMALL = 8 * 2**20
"""Bytes below which nobody asks what a step takes: the process has 300 MiB from its imports."""

WORDS, POSITIONS, WIDTH = 1000, 64, 128
Step = Callable[[], None]
Rows = Callable[[int], Tensor]


class Encoder(nn.Module):
    """A transformer encoder over words, averaged to one of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
                for _ in range(4)
            )
        )
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Words [n, positions] to [n, classes]."""
        places = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
        x: Tensor = self.layers(self.words(rows) + self.places(places))
        out: Tensor = self.out(x.mean(1))
        return out


def mlp() -> nn.Module:
    """64-256-256-10."""
    hidden = (nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh())
    return nn.Sequential(*hidden, nn.Linear(256, CLASSES))


def cnn(side: int) -> nn.Module:
    """The CNN of a job spec."""
    spec = {"name": "cnn", "channels": [16, 32], "activation": "tanh"}
    return build_model(spec, (side, side), CLASSES, seed=0)


MODELS: dict[str, tuple[Callable[[], nn.Module], Rows, float, float, int]] = {
    # name: model, rows, at most over plain, at least over Opacus, pairs
    "MLP": (mlp, lambda n: torch.randn(n, 64), 1.6, 5.0, 300),
    "CNN 8x8": (lambda: cnn(8), lambda n: torch.randn(n, 8, 8), 1.6, 1.3, 300),
    "CNN 28x28": (lambda: cnn(28), lambda n: torch.randn(n, 28, 28), 1.6, 1.3, 60),
    "transformer": (Encoder, lambda n: torch.randint(0, WORDS, (n, POSITIONS)), 1.5, 1.3, 12),
}


def plain(model: nn.Module, rows: Tensor, labels: Tensor) -> Step:
    """No privacy."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(rows), labels).backward()
        optimizer.step()

    return step


def ours(model: nn.Module, rows: Tensor, labels: Tensor) -> Step:
    """Clipped sums and the update, as `DpSgd` takes them."""
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    for p, view in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.data = view.view_as(p)
    clipper = Clipper(model, cross_entropy, Clip((CLIP,)))

    def step() -> None:
        total = torch.zeros(clipper.size, dtype=torch.float64)
        most = clipper.at_once(rows, labels)
        for start in range(0, len(labels), most):
            some = slice(start, start + most)
            clipper(rows[some], labels[some], into=total)
        flat.sub_(total.to(flat.dtype).div_(len(labels)), alpha=RATE)

    return step


def opacus(mode: str) -> Callable[[nn.Module, Tensor, Tensor], Step]:
    """A mode of Opacus with its own optimizer and no noise."""

    def made(model: nn.Module, rows: Tensor, labels: Tensor) -> Step:
        model = ModuleValidator.fix(model)
        options = {"noise_multiplier": 0.0, "max_grad_norm": CLIP, "expected_batch_size": len(rows)}
        if mode == "ghost":
            hooked = GradSampleModuleFastGradientClipping(
                model, max_grad_norm=CLIP, use_ghost_clipping=True
            )
            inner = torch.optim.SGD(hooked.parameters(), lr=RATE)
            optimizer = DPOptimizerFastGradientClipping(inner, **options)
            loss = DPLossFastGradientClipping(hooked, optimizer, nn.CrossEntropyLoss())
        else:
            if mode == "expanded weights":
                hooked = GradSampleModuleExpandedWeights(model)
            else:
                hooked = GradSampleModule(model, force_functorch=mode == "functorch")
            optimizer = DPOptimizer(torch.optim.SGD(hooked.parameters(), lr=RATE), **options)
            loss = nn.CrossEntropyLoss()

        def step() -> None:
            optimizer.zero_grad()
            loss(hooked(rows), labels).backward()
            optimizer.step()

        return step

    return made


MODES = ("hooks", "functorch", "expanded weights", "ghost")


def seconds(step: Step) -> float:
    """Processor time of the one thread that steps: other load on the machine is not in it."""
    begun = time.thread_time()
    step()
    return time.thread_time() - begun


def paired(first: Step, second: Step, pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn, after two unmeasured pairs."""
    for step in (first, second) * 2:
        step()
    times = [(seconds(first), seconds(second)) for _ in range(pairs)]
    return [a for a, _ in times], [b for _, b in times]


def peak(step: Step, model: nn.Module) -> float:
    """Most bytes that PyTorch held in a step, with the parameters."""
    step()
    with profile(profile_memory=True) as seen:
        step()
    held = most = sum(p.numel() * p.element_size() for p in model.parameters())
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return float(most)


def compare(claims: Claims, name: str, batch: int, quick: bool) -> None:
    """One model at one batch: against plain, against Opacus, memory."""
    build, draw, over_plain, over_opacus, pairs = MODELS[name]
    pairs = 5 if quick else pairs if batch < 100 else pairs // 2
    torch.manual_seed(0)
    model, rows, labels = build(), draw(batch), torch.randint(0, CLASSES, (batch,))
    what = f"{name}, batch {batch}"
    bare_model, our_model = copy.deepcopy(model), copy.deepcopy(model)
    bare, private = plain(bare_model, rows, labels), ours(our_model, rows, labels)
    bares, privates = paired(bare, private, pairs)
    claims.report(f"{what}: plain step", float(np.median(bares)) * 1e3, "ms")
    claims.report(f"{what}: clipped step", float(np.median(privates)) * 1e3, "ms")
    ratios = [b / a for a, b in zip(bares, privates, strict=True)]
    claims.at_most(f"{what}: clipped over plain", median_bounds(ratios)[2], "x", over_plain)
    gains = {}
    for mode in MODES:
        try:
            theirs = opacus(mode)(copy.deepcopy(model), rows, labels)
            clipped, others = paired(private, theirs, max(5, pairs // 4))
        except Exception as error:  # what a mode cannot do is told, whatever it raises
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            claims.absent(f"{what}: Opacus {mode} over ours", "x", None, reason)
            continue
        gains[mode] = median_bounds([b / a for a, b in zip(clipped, others, strict=True)])[0]
        claims.report(f"{what}: Opacus {mode} over ours", gains[mode], "x")
    best = f"{what}: best mode of Opacus over ours"
    if gains:
        claims.at_least(best, min(gains.values()), "x", over_opacus)
    else:
        claims.absent(best, "x", over_opacus, "no mode of Opacus takes the model")
    most, least = peak(private, our_model), peak(bare, bare_model)
    claims.report(f"{what}: peak memory of a plain step", least / 2**20, "MiB")
    ratio = most / max(least, SMALL)
    claims.at_most(f"{what}: peak memory over plain or 8 MiB", ratio, "x", 1.5)


def whole(claims: Claims, name: str, model: nn.Module, rows: Tensor, quick: bool) -> None:
    """A private step with sample and noise, and the same by Opacus' hooks."""
    plan = DpSgdPlan(
        unit=Unit.RECORD, rate=1.0, noise_multiplier=1.0, clip=CLIP, denominator=len(rows), steps=1
    )
    features, labels = rows.numpy(), np.zeros(len(rows), np.int64)
    secret = os.urandom(32)

    def step(model: nn.Module, *, hooks: bool) -> Step:
        mechanism = DpSgd(model, cross_entropy, plan, learning_rate=RATE)
        if hooks:
            clipper = mechanism._clipper
            clipper._hooked = Hooked(model, clipper._parameters, clipper._places, "as before")
        return lambda: mechanism.step(features, labels, None, StepSource(secret, name))

    now, before = step(copy.deepcopy(model), hooks=False), step(copy.deepcopy(model), hooks=True)
    nows, befores = paired(now, before, 5 if quick else 30)
    size = sum(p.numel() for p in model.parameters())
    noises = [seconds(lambda: StepSource(secret, name).normal(size)) for _ in range(9)]
    claims.report(f"{name}: private step", float(np.median(nows)) * 1e3, "ms")
    claims.report(f"{name}: of it, noise", float(np.median(noises)) * 1e3, "ms")
    gain = median_bounds([b / a for a, b in zip(nows, befores, strict=True)])[0]
    claims.report(f"{name}: with Opacus' hooks over now", gain, "x")


def measure(claims: Claims, quick: bool) -> None:
    """Every model at both batches, then whole steps of jobs."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in list(MODELS)[:2] if quick else MODELS:
        for batch in (64, 256):
            compare(claims, name, batch, quick)
    logistic = build_model({"name": "logistic"}, (13,), 2, seed=0)
    whole(claims, "heart job (13 inputs, batch 32)", logistic, torch.randn(32, 13), quick)
    whole(claims, "MNIST job (CNN, batch 128)", cnn(28), torch.randn(128, 28, 28), quick)
    whole(claims, "MLP, batch 256", mlp(), torch.randn(256, 64), quick)


if __name__ == "__main__":
    main("dp_sgd", measure, __doc__)

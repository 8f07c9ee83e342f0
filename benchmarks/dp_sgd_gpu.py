"""Clipped sums on a GPU: the same numbers as on a processor, the same bound, and what they cost.

The models of `dp_sgd.py` at batches of 64, 256 and 1,024. Claims: sums differ from the processor's
by at most 1e-5 of their norm in 32 bits (convolutions in TF32 would differ by a thousandth) and
1e-12 in 64; a row more, of gradients far above the clip, moves a sum by at most the clip, in every
one of many batches of odd sizes; a private step with the processor's sample and noise gives the
processor's model. Shown without limit: the median step over a plain one and over Opacus' modes, by
the GPU's own clock; the limits for a processor are in `dp_sgd.py`. Without a GPU nothing
is measured. `--quick` takes few pairs and the two smallest models.
"""

from __future__ import annotations

import copy
import os
import statistics
import warnings

import numpy as np
import torch
from _common import Claims, main, say
from dp_sgd import CLASSES, CLIP, MODELS, MODES, Rows, Step, opacus, ours, plain
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from privacy.events import Unit
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import Clipper
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import ETA, DpSgdPlan
from privacy.mechanisms.randomness import StepSource

BOUND = CLIP * (1 - ETA)
"""What a mechanism clips to, so that a unit moves a sum by at most the clip."""


def total(model: nn.Module, rows: Tensor, labels: Tensor) -> Tensor:
    """The clipped sum, on the device where the model is, back on the processor."""
    device = next(model.parameters()).device
    rows, labels = rows.to(device), labels.to(device)
    if rows.is_floating_point():
        rows = rows.to(next(model.parameters()).dtype)
    return Clipper(model, cross_entropy, Clip((BOUND,)))(rows, labels).total.cpu()


def off(model: nn.Module, rows: Tensor, labels: Tensor) -> float:
    """Distance of the GPU's sum from the processor's, over its norm."""
    here = total(model, rows, labels)
    return float((total(copy.deepcopy(model).cuda(), rows, labels) - here).norm() / here.norm())


def moved(model: nn.Module, draw: Rows, tries: int) -> float:
    """The most that one row more moved a sum on the GPU, in clips; gradients are far above it."""
    there, most = copy.deepcopy(model).cuda(), 0.0
    for number in range(tries):
        count = 17 + 13 * number
        rows, labels = draw(count), torch.randint(0, CLASSES, (count,))
        if rows.is_floating_point():
            rows = rows * 30
        fewer = total(there, rows[:-1], labels[:-1])
        most = max(most, float((total(there, rows, labels) - fewer).norm()) / CLIP)
    return most


def stepped(model: nn.Module, rows: Tensor, device: str) -> Tensor:
    """The parameters after a private step with a fixed secret."""
    plan = DpSgdPlan(
        unit=Unit.RECORD, rate=0.5, noise_multiplier=1.0, clip=CLIP, denominator=len(rows), steps=1
    )
    model = copy.deepcopy(model).to(device)
    mechanism = DpSgd(model, cross_entropy, plan, learning_rate=1.0)
    labels = np.zeros(len(rows), np.int64)
    mechanism.step(rows.numpy(), labels, None, StepSource(b"s" * 32, "gpu"))
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu()


def milliseconds(step: Step) -> float:
    """One step by the GPU's clock."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    step()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended)


def ratio(first: Step, second: Step, pairs: int) -> float:
    """The median of second over first, in turn, after two unmeasured pairs."""
    for step in (first, second) * 2:
        step()
    return statistics.median(milliseconds(second) / milliseconds(first) for _ in range(pairs))


def measure(claims: Claims, quick: bool) -> None:
    """Every model at every batch, where there is a GPU."""
    if not torch.cuda.is_available():
        claims.absent("clipped sums on a GPU", "x", None, "there is no GPU")
        return
    say(f"GPU: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    warnings.filterwarnings("ignore")
    pairs = 5 if quick else 30
    for name in list(MODELS)[:2] if quick else MODELS:
        build, draw, *_ = MODELS[name]
        torch.manual_seed(0)
        model = build()
        labels = torch.randint(0, CLASSES, (256,))
        rows = draw(256)
        claims.at_most(f"{name}: off the processor, 32 bits", off(model, rows, labels), "", 1e-5)
        double = copy.deepcopy(model).double()
        claims.at_most(f"{name}: off the processor, 64 bits", off(double, rows, labels), "", 1e-12)
        most = moved(model, draw, 10 if quick else 60)
        claims.at_most(f"{name}: a row more moves a sum by", most, "clips", 1.0)
        here, there = stepped(model, rows, "cpu"), stepped(model, rows, "cuda")
        apart = float((here - there).norm() / here.norm())
        claims.at_most(f"{name}: a private step, off the processor's", apart, "", 1e-5)
        torch.set_default_device("cuda")
        for batch in (64, 256, 1024):
            rows, labels = draw(batch), torch.randint(0, CLASSES, (batch,))
            made = [copy.deepcopy(model).cuda() for _ in range(2)]
            bare, private = plain(made[0], rows, labels), ours(made[1], rows, labels)
            over = ratio(bare, private, pairs)
            claims.report(f"{name}, batch {batch}: clipped over plain", over, "x")
            for mode in MODES:
                try:
                    theirs = opacus(mode)(copy.deepcopy(model).cuda(), rows, labels)
                    gain = ratio(private, theirs, pairs // 3)
                except Exception as error:  # what a mode cannot do is told, whatever it raises
                    why = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
                    claims.absent(f"{name}, batch {batch}: Opacus {mode} over ours", "x", None, why)
                    continue
                claims.report(f"{name}, batch {batch}: Opacus {mode} over ours", gain, "x")
        torch.set_default_device("cpu")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    main("dp_sgd_gpu", measure, __doc__)

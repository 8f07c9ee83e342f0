"""What numbers a network can meet: interval arithmetic on the declared input box.

Every value that an activation sees is enclosed for **all** rows of the box. A polynomial in place
of another function is refused unless its argument provably stays where it was fitted: outside it
explodes. The same pass bounds how far the approximation leads away from the plain model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure.ckks.network import Affine, Network
from secure.errors import BadParameters

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """Enclosures of every layer: arguments of the activations, their values, the answers.

    `inputs` and `after[i]` are the lowest and highest values per feature of a row and of the i-th
    activation, `before[i]` the largest absolute values in front of it. `approximation` bounds, per
    output, the distance between the compiled network in exact arithmetic and the plain model.
    `sample` is the mean, over rows drawn evenly from the box, of what the last activation gives.
    """

    inputs: tuple[Reals, Reals]
    before: tuple[Reals, ...]
    after: tuple[tuple[Reals, Reals], ...]
    approximation: Reals
    sample: Reals


def enclose(network: Network, low: npt.ArrayLike, high: npt.ArrayLike) -> Ranges:
    """Enclose a network over the box [low, high] per feature.

    Errors: `BadParameters` where the box is not one, or where an argument of an approximated
    activation can leave its range; the message says what bound would hold.
    """
    bottom = np.broadcast_to(np.asarray(low, dtype=np.float64).reshape(-1), network.features)
    top = np.broadcast_to(np.asarray(high, dtype=np.float64).reshape(-1), network.features)
    if not (np.isfinite(bottom).all() and np.isfinite(top).all() and (bottom <= top).all()):
        raise BadParameters("box: every feature needs finite bounds, low <= high", field="box")
    inputs = bottom, top
    before, after = [], []
    apart = np.zeros(network.features)
    for place, affine in enumerate(network.affines):
        bottom, top = _through(affine, bottom, top)
        apart = np.abs(affine.weight) @ apart
        before.append(np.maximum(np.abs(bottom), np.abs(top)))
        if place == len(network.activations):
            break
        activation = network.activations[place]
        if activation is None:
            apart = (2 * before[-1] + apart) * apart
            least = np.where((bottom < 0) & (top > 0), 0.0, np.minimum(bottom**2, top**2))
            bottom, top = least, before[-1] ** 2
        else:
            reach = float(before[-1].max())
            if reach > 1.0:
                needed = reach * activation.bound
                raise BadParameters(
                    f"range: on the declared box the argument of activation {place} can reach "
                    f"{needed:.4g}, and its polynomial holds for {activation.bound:g}; declare a "
                    f"bound of at least {_up(needed):g}, or a smaller box",
                    field=f"approximations[{place}].bound",
                    value=activation.bound,
                    allowed=f"at least {_up(needed):g}",
                )
            apart = activation.error + activation.lipschitz * activation.bound * apart
            pairs = [activation.interval(a, b) for a, b in zip(bottom, top, strict=True)]
            bottom, top = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
        after.append((bottom, top))
    rows = np.random.default_rng(0).uniform(*inputs, (64, network.features))
    sample = np.abs(network.approximate(rows, hidden=True)).mean(axis=0)
    return Ranges(inputs, tuple(before), tuple(after), apart, sample)


def _through(affine: Affine, low: Reals, high: Reals) -> tuple[Reals, Reals]:
    middle, radius = (high + low) / 2, (high - low) / 2
    centre = affine.weight @ middle + affine.bias
    # Double precision over at most 2^26 terms of one size, rounded up by far.
    spread = np.abs(affine.weight) @ radius
    slack = 1e-12 * (np.abs(affine.weight) @ np.abs(middle) + np.abs(affine.bias) + spread)
    return centre - spread - slack, centre + spread + slack


def _up(value: float) -> float:
    """Two significant digits, rounded up."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / power) * power

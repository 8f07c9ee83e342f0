"""A bound for the row at hand: one more output measures how far the last square carries noise.

Interval arithmetic must allow for rows that no silo has: a square carries an error e of h as 2 h e,
and the largest h that the box allows is many times what real rows give. So the circuit computes
G = sum_i rho_i h_i^2 beside the answers, from numbers that it has anyway. With proxy s_i and drift
d_i of h_i's error, and V the last matrix, the part of an answer's error that grows with h has proxy
A = sum_i 4 V_li^2 s_i h_i^2 <= mu G, mu = max_i 4 s_i max_l V_li^2 / rho_i, and drift at most
sum_i 2 |V_li h_i| d_i <= sqrt(mu G) |d / sqrt(s)| (Cauchy and Schwarz). Everything else is `rest`:

    |answer - exact| <= sqrt(mu (G + error of G)) (TAIL + |d / sqrt(s)|) + rest.

The client learns one number more about the model, a weighted square sum of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from secure.ckks.bounds import Error, Proof
from secure.ckks.network import Affine, Network
from secure.ckks.noise import TAIL

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Witness:
    """The bound for a row whose witness is G: `gain` sqrt(G + `error`) + `rest`."""

    gain: float
    error: float
    rest: float

    def bound(self, values: Reals) -> Reals:
        """Bound the error of every answer of rows with these witnesses."""
        bound: Reals = self.gain * np.sqrt(np.maximum(values + self.error, 0.0)) + self.rest
        return bound


def extend(network: Network, hidden: Error) -> Network:
    """Return the circuit with a witness as its last output, weighted by where noise is carried."""
    weights = _carried(network.affines[-1].weight, hidden)
    last = network.affines[-1]
    # As large as the largest row of answers, so that it fits wherever they do.
    size = np.abs(last.weight).sum(axis=1).max() / weights.sum()
    affine = Affine(np.vstack([last.weight, size * weights]), np.append(last.bias, 0.0))
    return replace(network, affines=(*network.affines[:-1], affine))


def witness(circuit: Network, hidden: Error, proof: Proof) -> Witness:
    """Return the bound that a circuit made by `extend` gives, from its own proof."""
    weights = circuit.affines[-1].weight[-1]
    used = weights > 0
    carried = _carried(circuit.affines[-1].weight[:-1], hidden)
    ratio = hidden.drift[used] / np.sqrt(hidden.proxy[used])
    return Witness(
        math.sqrt(float((carried[used] / weights[used]).max()))
        * (TAIL + float(np.linalg.norm(ratio))),
        float(proof.errors[-1]),
        float(proof.rest[:-1].max()),
    )


def _carried(last: Reals, hidden: Error) -> Reals:
    carried: Reals = 4 * np.abs(last).max(axis=0) ** 2 * hidden.proxy
    return carried

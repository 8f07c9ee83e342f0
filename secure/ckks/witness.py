"""A bound for the row at hand: one more output measures how far the last square carries noise.

Interval arithmetic must allow for rows that no silo has: a square carries an error e of h as 2 h e,
and the largest h that the box allows is many times what real rows give. So the circuit computes
G = sum_i rho_i h_i^2 beside the answers, from numbers that it has anyway. With proxy s_i and drift
d_i of h_i's error, and V the last matrix, the part of an answer's error that grows with h has proxy
A = sum_i 4 V_li^2 s_i h_i^2 <= mu G, mu = max_i 4 s_i max_l V_li^2 / rho_i, and drift at most
sum_i 2 |V_li h_i| d_i <= sqrt(mu G) |d / sqrt(s)| (Cauchy and Schwarz). Rounding V by r_li changes
sum_i r_li h_i^2 <= G max_i |r_li| / rho_i. Everything else is `rest`:

    |answer - exact| <= gain sqrt(G) + slope G + rest, gain = sqrt(mu) (TAIL + |d / sqrt(s)|).

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
    """The bound for a row whose witness is G, known up to `error`."""

    gain: float
    slope: float
    error: float
    rest: float

    def bound(self, values: Reals) -> Reals:
        """Bound the error of every answer of rows with these witnesses."""
        largest = np.maximum(values + self.error, 0.0)
        bound: Reals = self.gain * np.sqrt(largest) + self.slope * largest + self.rest
        return bound


def extend(network: Network, hidden: Error) -> Network:
    """Return the circuit with a witness as its last output, weighted by where noise is carried."""
    last = network.affines[-1]
    # As large as the largest row of answers, so that it fits wherever they do.
    size = float(np.abs(last.weight).sum(axis=1).max())
    weights = size * _weights(last.weight, hidden)
    affine = Affine(np.vstack([last.weight, weights]), np.append(last.bias, 0.0))
    return replace(network, affines=(*network.affines[:-1], affine))


def witness(circuit: Network, hidden: Error, proof: Proof) -> Witness:
    """Return the bound that a circuit made by `extend` gives, from its own proof."""
    last = circuit.affines[-1].weight
    return _witness(last[:-1], last[-1], hidden, proof.rounded, proof.rest[:-1], proof.errors[-1])


def typical(network: Network, proof: Proof, squares: Reals) -> float:
    """Bound the answers of a row whose last squares are these, for comparing parameters."""
    if proof.hidden is None:
        return float(proof.errors.max())
    last = network.affines[-1].weight
    weights = _weights(last, proof.hidden)
    found = _witness(last, weights, proof.hidden, proof.rounded, proof.rest, 0.0)
    return float(found.bound(weights @ squares))


def _witness(
    last: Reals, weights: Reals, hidden: Error, rounded: Reals, rest: Reals, error: float
) -> Witness:
    ratio = float(np.linalg.norm(hidden.drift / np.sqrt(hidden.proxy)))
    return Witness(
        math.sqrt(float((_carried(last, hidden) / weights).max())) * (TAIL + ratio),
        float((rounded / weights).max()),
        float(error),
        float(rest.max()),
    )


def _weights(last: Reals, hidden: Error) -> Reals:
    """What noise each square carries, and a tenth of the mean, as shares."""
    carried = _carried(last, hidden)
    if not carried.any():
        return np.full(len(carried), 1 / len(carried))
    weights: Reals = carried / carried.sum() + 0.1 / len(carried)
    return weights / 1.1


def _carried(last: Reals, hidden: Error) -> Reals:
    carried: Reals = 4 * np.abs(last).max(axis=0) ** 2 * hidden.proxy
    return carried

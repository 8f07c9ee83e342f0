"""How the noise of a ciphertext goes through one matrix of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """How noise goes through one matrix, whatever the parameters are.

    `matrix` [results, inputs] is followed slot by slot, or is the plain matrix, where `shared`
    copies of a result may read one slot (0: followed). `turned` times the proxy of a key switch is
    the covariance that the rotations before the weights leave, a diagonal above it where shared;
    `origin` [results, slots] times its drift is their drift. `after` bounds the number of key
    switches that are added up behind the weights.
    """

    matrix: Reals = field(repr=False)
    absolute: Reals = field(repr=False)
    shared: int
    turned: Reals = field(repr=False)
    origin: Reals = field(repr=False)
    after: int

    def covariance(self, proxy: Reals) -> Reals:
        """Return matrix V matrix^T for independent inputs of these proxies."""
        if np.ptp(proxy) == 0.0:
            return float(proxy[0]) * self._gram
        covariance: Reals = (self.matrix * proxy) @ self.matrix.T
        return covariance

    @cached_property
    def _gram(self) -> Reals:
        return self.matrix @ self.matrix.T

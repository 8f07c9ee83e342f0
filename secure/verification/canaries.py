"""Canaries: queries whose answers are known, hidden among the others.

    canaries = Canaries(known_rows, known_answers, tolerance)
    mixed = canaries.hide(rows, 20)
    answers = mixed.open(node(mixed.rows))   # raises NotVerified if a canary is wrong

A node that answers c of N rows wrongly, without knowing which rows are the m canaries, escapes
with probability C(N - m, c) / C(N, c), which is at most (1 - m/N)^c. A single wrong answer among
many is therefore rarely found: canaries find nodes that cheat often.

They prove nothing where the node can tell a canary from a row. Canaries must look like the rows,
and each is used once: a node that sees one again may remember it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters, NotVerified
from secure.verification.hashing import Array
from secure.verification.tolerance import Tolerance


@dataclass(frozen=True)
class Mixed:
    """Rows with canaries among them; which is which stays with the client.

    Privacy: `places` and `known` are secret until the answers are in.
    """

    rows: Array = field(repr=False)
    places: npt.NDArray[np.int64] = field(repr=False)
    known: Array = field(repr=False)
    tolerance: Tolerance

    def open(self, answers: Array) -> Array:
        """Return the answers to the true rows, in their order.

        Errors: `NotVerified` where the answers are of another number, or a canary's is wrong; then
        none of the answers is to be used.
        """
        if len(answers) != len(self.rows) or answers.shape[1:] != self.known.shape[1:]:
            raise NotVerified(
                "the answers are not one for each query",
                field="answers",
                value=list(answers.shape),
                allowed=[len(self.rows), *self.known.shape[1:]],
            )
        wrong = self.tolerance.rows_that_differ(self.known, answers[self.places])
        if wrong:
            raise NotVerified(
                f"{wrong} of {len(self.places)} canaries came back wrong",
                field="canaries",
                value=wrong,
                allowed=0,
            )
        rest = np.ones(len(self.rows), dtype=bool)
        rest[self.places] = False
        opened: Array = answers[rest]
        return opened


class Canaries:
    """A stock of queries [n, ...] with known answers [n, outputs], each used once."""

    def __init__(self, rows: Array, answers: Array, tolerance: Tolerance) -> None:
        if len(rows) != len(answers) or answers.ndim != 2:
            raise BadParameters(
                "a canary is a row with its known answer", field="canaries", value=len(rows)
            )
        self._rows, self._answers, self._tolerance = rows, answers, tolerance
        self._used = 0
        self._random = random.SystemRandom()

    @property
    def left(self) -> int:
        """How many canaries have not been used."""
        return len(self._rows) - self._used

    def hide(self, rows: Array, count: int) -> Mixed:
        """Mix `count` fresh canaries with the rows, at places from the system's generator.

        Errors: `BadParameters` where fewer are left, or rows have another shape or type.
        """
        if not 1 <= count <= self.left:
            raise BadParameters(
                f"{count} canaries asked for and {self.left} left",
                field="canaries",
                value=count,
                allowed=f"1 to {self.left}",
            )
        if rows.shape[1:] != self._rows.shape[1:] or rows.dtype != self._rows.dtype:
            raise BadParameters(
                "rows of another shape or type than the canaries stand out",
                field="rows",
                value=[str(rows.dtype), *rows.shape[1:]],
                allowed=[str(self._rows.dtype), *self._rows.shape[1:]],
            )
        taken = slice(self._used, self._used + count)
        self._used += count
        total = len(rows) + count
        places = np.array(self._random.sample(range(total), count), dtype=np.int64)
        mixed = np.empty((total, *rows.shape[1:]), dtype=rows.dtype)
        rest = np.ones(total, dtype=bool)
        rest[places] = False
        mixed[places], mixed[rest] = self._rows[taken], rows
        return Mixed(mixed, places, self._answers[taken], self._tolerance)


def escape_probability(queries: int, canaries: int, wrong: int) -> float:
    """Return the probability that `wrong` wrong answers among `queries` touch no canary.

    `queries` counts the canaries in; the wrong ones are chosen without knowing which they are.
    """
    if not (0 <= canaries <= queries and 0 <= wrong <= queries):
        raise BadParameters(
            "more canaries or wrong answers than queries", field="queries", value=queries
        )
    return math.comb(queries - canaries, wrong) / math.comb(queries, wrong)

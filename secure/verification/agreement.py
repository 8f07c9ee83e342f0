"""What redundant answers agree on: the largest group whose members agree pair by pair.

Agreement within a tolerance is not transitive, so groups are cliques, not balls around a centre.
The answer is the median over the group, output by output. While fewer than a third of n nodes lie
and the group has at least 2n/3 members, liars are a minority in it, and every output of the median
lies between two honest ones: whatever the liars sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters
from secure.verification.hashing import Array
from secure.verification.tolerance import Tolerance

FEWEST, MOST = 3, 16
"""How many nodes: of two, none tells which one lies; above sixteen, groups are too many to try."""

UNDECIDED = -1


@dataclass(frozen=True)
class Outcome:
    """What the nodes' answers came to.

    `values` is None where no quorum agrees. `members` agreed; `dissent` tells of each other node
    why it is not among them: no commitment, no reveal, a malformed answer, or another answer.
    Dissent is not guilt: with as many liars as the quorum has members, the honest dissent.
    """

    values: Array | None = field(repr=False)
    members: tuple[str, ...]
    dissent: Mapping[str, str]
    quorum: int
    tolerance: Tolerance

    @property
    def agreed(self) -> bool:
        """Whether a quorum agreed."""
        return self.values is not None

    def classes(self) -> npt.NDArray[np.int64]:
        """Return the class of each row, `UNDECIDED` where the top two outputs are too close.

        A row is decided where its top two differ by more than twice what the tolerance allows:
        then every member's own answer, at most the tolerance away, has the same class.
        Errors: `BadParameters` without a quorum, or where outputs are not [rows, classes].
        """
        if self.values is None or self.values.ndim != 2 or self.values.shape[1] < 2:
            raise BadParameters("no agreed scores [rows, classes] here", field="values")
        top = np.sort(self.values, axis=1)[:, -2:]
        allowed = self.tolerance.allowed(np.abs(top).max(axis=1))
        found: npt.NDArray[np.int64] = np.argmax(self.values, axis=1)
        found[top[:, 1] - top[:, 0] <= 2 * allowed] = UNDECIDED
        return found


def quorum(nodes: int) -> int:
    """Return how many of `nodes` must agree: two thirds, rounded up."""
    return -(-2 * nodes // 3)


def decide(
    nodes: int, answers: Mapping[str, Array], dissent: Mapping[str, str], tolerance: Tolerance
) -> Outcome:
    """Find the largest group that agrees; of several, the one whose members are closest.

    `nodes` counts all that were asked: one without an answer counts against the quorum.
    Errors: `BadParameters` for fewer than three or more than sixteen nodes.
    """
    if not FEWEST <= nodes <= MOST:
        raise BadParameters(
            f"{nodes} nodes", field="nodes", value=nodes, allowed=f"{FEWEST} to {MOST}"
        )
    names = sorted(answers)
    agree = {
        pair: tolerance.agree(answers[pair[0]], answers[pair[1]]) for pair in combinations(names, 2)
    }
    needed = quorum(nodes)
    for size in range(len(names), needed - 1, -1):
        groups = [
            group
            for group in combinations(names, size)
            if all(agree[pair] for pair in combinations(group, 2))
        ]
        if groups:
            group = min(groups, key=lambda group: _spread(group, answers))
            others = {name: "another answer" for name in names if name not in group}
            values: Array = np.median([answers[name] for name in group], axis=0)
            return Outcome(values, group, dict(dissent) | others, needed, tolerance)
    others = dict.fromkeys(names, "no quorum")
    return Outcome(None, (), dict(dissent) | others, needed, tolerance)


def _spread(group: tuple[str, ...], answers: Mapping[str, Array]) -> float:
    """The largest difference between any two members."""
    stack = np.stack([answers[name] for name in group]).astype(np.float64)
    return float(np.ptp(stack, axis=0).max()) if stack.size else 0.0

"""What a sealing is worth: what each attack recovered, and who can undo it.

Every report says "obfuscation, not encryption", whatever the attacks found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LABEL = "obfuscation, not encryption"

UNDONE_BY = (
    "the owner together with the node: one holds the key, the other the states",
    "the data silo together with the node: the silo holds the keys of input and answer",
    "anybody who sees the sealed model and has its base model, or one close to it",
)

VISIBLE = {
    "tokens": (
        "which tokens are equal, and how often each comes",
        "lengths, positions, masks and attention patterns",
        "how alike any two tokens are to the model, and any two states",
    ),
    "rows": (
        "which rows are equal, and the inner products of any two under an orthogonal key",
        "how many classes there are, and which rows are answered alike",
    ),
    "images": (
        "the image itself, up to a mixture of its colour channels",
        "feature maps in their places: no key moves a pixel",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One attack's result.

    `value` is a share in [0, 1] unless `measure` says otherwise; `chance` is what the same measure
    gives without the sealed model.
    """

    attack: str
    knows: str
    measure: str
    value: float
    chance: float
    says: str


@dataclass(frozen=True)
class Report:
    """The findings on one sealing, for the owner."""

    kind: str
    sealed: str
    probes: str
    visible: tuple[str, ...]
    findings: tuple[Finding, ...]
    label: str = LABEL
    undone_by: tuple[str, ...] = UNDONE_BY

    def document(self) -> dict[str, Any]:
        """The report as plain JSON."""
        return asdict(self)

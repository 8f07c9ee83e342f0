"""What every kind of model has: a description in plain JSON, a forward pass, and a sealing.

A model is a description and named weights; nothing of it is code from outside. The plain model and
the sealed one run by the same `forward`, so sealing costs the node nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from secure.equivariant.groups import Boundary, Dense, Group, Key, Monomial
from secure.equivariant.inputs import Inputs, Rows, Tokens
from secure.equivariant.operations import Part, Shape, Weights
from secure.equivariant.stream import Stream

Seen = dict[str, Tensor]
"""The states at the boundaries of a run, for the attacks: what a node can look at."""


@dataclass
class Keys:
    """The keys drawn for one sealing, and the manifest's line for each."""

    secret: bytes = field(repr=False)
    by_name: dict[str, Key] = field(default_factory=dict, repr=False)
    boundaries: list[Boundary] = field(default_factory=list)

    def stream(self, at: str) -> Stream:
        """The secret numbers of one boundary."""
        return Stream(self.secret, at)

    def draw(self, at: str, group: Group, size: int) -> Key:
        """Draw the key of a boundary from its group and write it down."""
        key = group.draw(self.stream(at), size)
        self.by_name[at] = key
        self.note(at, group.name, size)
        return key

    def note(self, at: str, group: str, size: int) -> None:
        """Write down which group a boundary's key comes from."""
        self.boundaries.append(Boundary(at, group, size))


@dataclass(frozen=True)
class Transformed:
    """A sealed model with all its keys: what the owner alone ever has together.

    `input` acts on the features, channels or token ids of an input, `output` on the last
    dimension of the answer.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    input: Monomial | Dense
    output: Monomial | Dense
    keys: dict[str, Key]
    boundaries: tuple[Boundary, ...]


class Architecture(Part):
    """A kind of model; subclasses add the sizes."""

    @abstractmethod
    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of all weights."""

    @property
    @abstractmethod
    def takes(self) -> Rows | Tokens:
        """The form of an input."""

    @abstractmethod
    def forward(self, weights: Weights, inputs: Inputs, seen: Seen | None = None) -> Tensor:
        """Run the model on checked inputs; `seen` collects the states on the way."""

    @abstractmethod
    def transform(self, weights: Weights, secret: bytes) -> Transformed:
        """Draw keys from the secret and seal float64 weights under them."""

"""Consensus over nodes that each have a sealing of their own: the seals are the real ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from secure.equivariant import Model, Owner, SealingKey, Silo, from_torch
from secure.equivariant import Node as SealedNode
from secure.keys import SigningKey
from secure.verification.agreement import Outcome
from secure.verification.commitment import Tensor, commit
from secure.verification.consensus import Consensus, Node
from secure.verification.tolerance import calibrate

NAMES = ("east", "north", "south", "west")
OWNER, SILO = SigningKey(b"o" * 32), SigningKey(b"s" * 32)
NODES = {name: SigningKey(name.encode().ljust(32)) for name in NAMES}
ROWS = np.random.default_rng(5).normal(size=(24, 20)).astype(np.float32)
Compute = Callable[[np.ndarray], np.ndarray]


def as_array(message: bytes) -> np.ndarray:
    return np.frombuffer(message, np.uint8)


class Lane:
    """One node's sealing, as the data silo holds it."""

    def __init__(self, public: str, silo: Silo, model: bytes) -> None:
        self.public, self.model, self._silo = public, model, silo

    def seal(self, rows: np.ndarray) -> np.ndarray:
        return as_array(self._silo.seal({"rows": torch.from_numpy(rows)}))

    def open(self, answer: np.ndarray) -> np.ndarray:
        return self._silo.open(answer.tobytes()).numpy()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """The weights in 8 bits, one scale for all."""
    step = weight.abs().max() / 127
    return torch.round(weight / step) * step


class Sealed:
    """A network sealed for one node: the client's lane, and the node, honest or cheap."""

    def __init__(self, name: str) -> None:
        public = NODES[name].public
        model = from_torch(network(), (20,))
        sealing = Owner(OWNER).seal(model, SealingKey.generate(), node=public, silo=SILO.public)
        root = commit([Tensor("sealed", "U8", (len(sealing.node),), sealing.node)]).root
        self.lane = Lane(public, Silo(sealing.silo, SILO, owner=OWNER.public), root)
        self.node = SealedNode(sealing.node, me=public, owner=OWNER.public)
        self.cheap = SealedNode(sealing.node, me=public, owner=OWNER.public)
        weights = {name: rounded(weight) for name, weight in self.cheap.model.weights.items()}
        self.cheap.model = Model(self.cheap.model.architecture, weights)

    def honest(self, x: np.ndarray) -> np.ndarray:
        return as_array(self.node.run(x.tobytes()))

    def saving(self, x: np.ndarray) -> np.ndarray:
        return as_array(self.cheap.run(x.tobytes()))


@pytest.fixture(scope="module")
def parties() -> dict[str, Sealed]:
    return {name: Sealed(name) for name in NAMES}


def ask(parties: dict[str, Sealed], cheats: dict[str, Compute]) -> Outcome:
    lanes = {name: party.lane for name, party in parties.items()}
    plain = network()(torch.from_numpy(ROWS)).detach().numpy()
    runs = [party.lane.open(party.honest(party.lane.seal(ROWS))) for party in parties.values()]
    client = Consensus(lanes, ROWS, shape=plain.shape, tolerance=calibrate([plain, *runs]))
    nodes = {
        name: Node(name, NODES[name], party.lane.model, cheats.get(name, party.honest))
        for name, party in parties.items()
    }
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES:
        client.reveal(nodes[name].reveal(client.closed))
    return client.outcome()


def test_nodes_under_seals_of_their_own_agree_on_the_plain_answer(
    parties: dict[str, Sealed],
) -> None:
    outcome = ask(parties, {})
    plain = network()(torch.from_numpy(ROWS)).detach().numpy()
    assert outcome.members == NAMES
    assert np.abs(outcome.values - plain).max() < 1e-5
    assert len({party.lane.seal(ROWS).tobytes() for party in parties.values()}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_node_that_saves_bits_of_its_sealed_weights_is_found(
    parties: dict[str, Sealed], name: str
) -> None:
    outcome = ask(parties, {name: parties[name].saving})
    assert outcome.agreed and outcome.dissent == {name: "another answer"}


def test_another_node_s_answer_is_of_no_use(parties: dict[str, Sealed]) -> None:
    theirs = parties["east"].honest(parties["east"].lane.seal(ROWS))
    outcome = ask(parties, {"west": lambda x: theirs})
    assert outcome.members == ("east", "north", "south")
    assert outcome.dissent == {"west": "an answer that its key does not open"}

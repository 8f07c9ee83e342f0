"""Nodes that hold sealings of their own answer one question; who lies or copies is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests_models import network

from secure.equivariant import Node, Owner, SealingKey, Silo
from secure.keys import SigningKey
from secure.verification import consensus
from secure.verification.tolerance import calibrate

NAMES = ("east", "north", "south", "west")
KEYS = {name: SigningKey(name.encode().ljust(32)) for name in NAMES}
OWNER, SILO = SigningKey(b"o" * 32), SigningKey(b"s" * 32)
ROWS = np.random.default_rng(3).normal(size=(20, 30)).astype(np.float32)


@dataclass
class Lane:
    """A data silo's side of one node; messages travel as arrays of bytes."""

    public: str
    model: bytes
    silo: Silo

    def seal(self, rows):
        return np.frombuffer(self.silo.seal({"rows": torch.from_numpy(rows)}), np.uint8)

    def open(self, answer):
        return self.silo.open(answer.tobytes()).numpy()


class World:
    """Four nodes with a sealing each, of one model and from one seed."""

    def __init__(self):
        self.plain, self.nodes, self.lanes = network("mlp", torch.float32), {}, {}
        for name in NAMES:
            public = KEYS[name].public
            sealing = Owner(OWNER).seal(
                self.plain, SealingKey(b"k" * 32), node=public, silo=SILO.public
            )
            self.nodes[name] = Node(sealing.node, me=public, owner=OWNER.public)
            content = bytes.fromhex(self.nodes[name].manifest.content)
            self.lanes[name] = Lane(public, content, Silo(sealing.silo, SILO, owner=OWNER.public))

    def honest(self, name):
        return lambda rows: np.frombuffer(self.nodes[name].run(rows.tobytes()), np.uint8)

    def ask(self, dishonest):
        runs = [lane.open(self.honest(n)(lane.seal(ROWS))) for n, lane in self.lanes.items()]
        client = consensus.Consensus(self.lanes, ROWS, shape=(20, 5), tolerance=calibrate(runs))
        answering = {
            name: consensus.Node(
                name, KEYS[name], self.lanes[name].model, dishonest.get(name, self.honest(name))
            )
            for name in NAMES
        }
        for name in NAMES:
            client.commit(answering[name].commit(*client.question(name)))
        client.close()
        for name in NAMES:
            client.reveal(answering[name].reveal(client.closed))
        return client.outcome()


@pytest.fixture(scope="module")
def world():
    return World()


def test_honest_nodes_agree_on_the_plain_answer(world):
    outcome = world.ask({})
    assert outcome.members == NAMES
    expected = world.plain.run({"rows": torch.from_numpy(ROWS)}).numpy()
    assert np.allclose(outcome.values, expected, atol=1e-5)


def test_a_copied_answer_is_opened_by_no_key(world):
    east = world.honest("east")(world.lanes["east"].seal(ROWS))
    outcome = world.ask({"west": lambda rows: east})
    assert outcome.dissent == {"west": "an answer that its key does not open"}


def test_a_node_that_computes_something_else_is_found(world):
    def lie(rows):
        weights = world.nodes["north"].model.weights
        weights["8.bias"][0] += 1
        try:
            return world.honest("north")(rows)
        finally:
            weights["8.bias"][0] -= 1

    outcome = world.ask({"north": lie})
    assert outcome.agreed and outcome.dissent == {"north": "another answer"}

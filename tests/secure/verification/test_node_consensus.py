"""Consensus: a liar and a substitute are found, colluders above a third win, nobody can copy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verification_networks import Network, SealedLane, int8, lane, network, sealed

from secure.errors import BadMessage, BadParameters, BadSignature, KeyFileError, RoundRefused
from secure.keys import SigningKey
from secure.verification.agreement import UNDECIDED, Outcome, decide, quorum
from secure.verification.consensus import (
    Closed,
    Consensus,
    Node,
    PlainLane,
    Reveal,
    check_evidence,
)
from secure.verification.tolerance import EXACT, Tolerance, calibrate

NAMES = ("east", "north", "south", "west")
KEYS = {name: SigningKey(name.encode().ljust(32)) for name in NAMES}
LANES: dict[str, SealedLane] = {
    name: lane(KEYS[name].public, seed) for seed, name in enumerate(NAMES)
}
PLAIN = network()
ROWS = np.random.default_rng(7).normal(size=(40, 20)).astype(np.float32)
SHAPE = (40, 10)
Compute = Callable[[np.ndarray], np.ndarray]


def honest(name: str, plain: Network = PLAIN) -> Network:
    return sealed(plain, LANES[name], seed=NAMES.index(name))


TOLERANCE = calibrate([LANES[n].open(honest(n)(LANES[n].seal(ROWS))) for n in NAMES])


def start(tolerance: Tolerance = TOLERANCE) -> Consensus:
    return Consensus(LANES, ROWS, shape=SHAPE, tolerance=tolerance)


def node(name: str, compute: Compute | None = None) -> Node:
    return Node(name, KEYS[name], LANES[name].model, compute or honest(name))


def play(dishonest: Mapping[str, Compute], tolerance: Tolerance = TOLERANCE) -> Outcome:
    client = start(tolerance)
    nodes = {name: node(name, dishonest.get(name)) for name in NAMES}
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES:
        client.reveal(nodes[name].reveal(client.closed))
    return client.outcome()


def lie(name: str) -> Compute:
    """Add one to the plain class 3, under the node's own seal."""
    shift = np.zeros(10, np.float32)
    shift[3] = 1
    return lambda rows: honest(name)(rows) + shift[LANES[name].order]


def test_honest_nodes_under_four_seals_agree_on_the_plain_answer() -> None:
    outcome = play({})
    assert outcome.members == NAMES and not outcome.dissent and outcome.quorum == 3
    exact = np.maximum(ROWS.astype(float) @ PLAIN.first.T.astype(float), 0)
    exact = exact @ PLAIN.second.T.astype(float)
    assert np.abs(outcome.values - exact).max() < 1e-5
    decided = outcome.classes() != UNDECIDED
    assert decided.sum() >= 39
    assert np.array_equal(outcome.classes()[decided], exact.argmax(axis=1)[decided])


@pytest.mark.parametrize("name", NAMES)
def test_one_liar_in_four_is_found(name: str) -> None:
    outcome = play({name: lie(name)})
    assert outcome.agreed and set(outcome.members) == set(NAMES) - {name}
    assert outcome.dissent == {name: "another answer"}


@pytest.mark.parametrize("name", NAMES)
def test_an_int8_substitute_is_found(name: str) -> None:
    outcome = play({name: honest(name, int8(PLAIN))})
    assert outcome.agreed and outcome.dissent == {name: "another answer"}


def test_two_liars_of_four_that_do_not_collude_leave_no_quorum() -> None:
    outcome = play({"east": lie("east"), "west": lambda rows: -honest("west")(rows)})
    assert not outcome.agreed and outcome.members == ()
    assert set(outcome.dissent.values()) == {"no quorum"}
    with pytest.raises(BadParameters):
        outcome.classes()


def test_three_colluders_of_four_win_as_the_documentation_says() -> None:
    outcome = play({name: lie(name) for name in ("east", "north", "south")})
    assert outcome.members == ("east", "north", "south")
    assert outcome.dissent == {"west": "another answer"}
    truth = LANES["west"].open(honest("west")(LANES["west"].seal(ROWS)))
    assert np.allclose(outcome.values[:, 3] - truth[:, 3], 1, atol=1e-4)


def test_two_colluders_of_four_stop_the_answer_and_do_not_make_one() -> None:
    assert not play({name: lie(name) for name in ("east", "north")}).agreed


def test_a_node_that_does_not_commit_or_reveal_dissents() -> None:
    client, nodes = start(), {name: node(name) for name in NAMES}
    for name in NAMES[1:]:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES[1:3]:
        client.reveal(nodes[name].reveal(client.closed))
    assert not client.outcome().agreed  # two of four are no quorum, though all that spoke agree
    assert client.outcome().dissent["east"] == "no commitment"
    assert client.outcome().dissent["west"] == "no reveal"
    client.reveal(nodes["west"].reveal(client.closed))
    assert client.outcome().members == ("north", "south", "west")


def test_nothing_is_revealed_before_all_have_committed_and_nothing_committed_after() -> None:
    client, nodes = start(), {name: node(name) for name in NAMES}
    commits = {name: nodes[name].commit(*client.question(name)) for name in NAMES}
    for name in NAMES[:3]:
        client.commit(commits[name])
    for refused in (lambda: client.closed, client.outcome):
        with pytest.raises(RoundRefused):
            refused()
    with pytest.raises(RoundRefused):
        client.commit(commits["east"])
    client.close()
    with pytest.raises(RoundRefused):
        client.commit(commits["west"])
    with pytest.raises(RoundRefused):
        nodes["west"].reveal(client.closed)  # its commitment is not in the list
    client.reveal(nodes["east"].reveal(client.closed))
    with pytest.raises(RoundRefused):
        client.reveal(nodes["east"].reveal(client.closed))
    with pytest.raises(RoundRefused):
        client.reveal(Reveal("west", commits["west"].question, b"s" * 32, np.zeros(1)))


def test_a_node_cannot_change_its_answer_after_it_committed() -> None:
    client, nodes = start(), {name: node(name) for name in NAMES}
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES:
        reveal = nodes[name].reveal(client.closed)
        if name == "north":
            with pytest.raises(BadMessage, match="does not open"):
                client.reveal(replace(reveal, answer=reveal.answer + np.float32(1e-6)))
        else:
            client.reveal(reveal)
    assert client.outcome().dissent == {"north": "no reveal"}


def test_what_a_liar_reveals_in_the_names_of_others_changes_nothing() -> None:
    client, nodes = start(), {name: node(name) for name in NAMES}
    nodes["west"] = node("west", lie("west"))
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    forged = [np.zeros(SHAPE, np.float32), np.zeros(3, np.complex128), np.array([None])]
    for name in NAMES[:3]:
        asked = client.question(name)[0].digest
        for answer, salt in itertools.product(forged, (b"s" * 32, b"")):
            with pytest.raises(BadMessage):
                client.reveal(Reveal(name, asked, salt, answer))
    assert set(client.outcome().dissent.values()) == {"no reveal"}
    for name in NAMES:
        client.reveal(nodes[name].reveal(client.closed))
    assert client.outcome().dissent == {"west": "another answer"}


def test_a_copied_commitment_is_not_the_copier_s() -> None:
    # All nodes without a seal: even then a commitment holds its node's name.
    lanes = {name: PlainLane(KEYS[name].public, b"m" * 32) for name in NAMES}
    client = Consensus(lanes, ROWS, shape=SHAPE, tolerance=TOLERANCE)
    first = Node("east", KEYS["east"], b"m" * 32, PLAIN)
    commit = first.commit(*client.question("east"))
    client.commit(commit)
    with pytest.raises(BadMessage):
        client.commit(replace(commit, node="west"))
    asked = client.question("west")[0].digest
    with pytest.raises(BadSignature):
        client.commit(replace(commit, node="west", question=asked))
    # Signed by the copier itself it is taken, and the revealed answer does not open it.
    signed = Node("west", KEYS["west"], b"m" * 32, PLAIN).commit(*client.question("west"))
    assert signed.commitment != commit.commitment


def test_a_commitment_hides_the_answer_and_two_questions_share_nothing() -> None:
    commits = {node("east").commit(*start().question("east")).commitment for _ in range(3)}
    client = start()
    again = {node("east").commit(*client.question("east")).commitment for _ in range(3)}
    assert len(commits) == len(again) == 3


def test_a_forged_or_foreign_commitment_counts_for_nothing() -> None:
    client, other = start(), start()
    east = node("east")
    commit = east.commit(*client.question("east"))
    for forged in (
        replace(commit, commitment=b"c" * 32),
        replace(commit, signature=bytes(64)),
        replace(commit, signature=b"short"),
    ):
        with pytest.raises(BadSignature):
            client.commit(forged)
    with pytest.raises(BadMessage):
        client.commit(replace(commit, node="nobody"))
    with pytest.raises(BadMessage):
        client.commit(node("east").commit(*other.question("east")))
    client.commit(commit)  # none of these kept the node's own out


def test_a_node_refuses_what_is_not_for_it() -> None:
    client = start()
    question, rows = client.question("east")
    with pytest.raises(BadMessage):
        node("west").commit(question, rows)
    with pytest.raises(BadMessage):
        node("east").commit(question, rows + 1)
    with pytest.raises(BadMessage):
        Node("east", KEYS["east"], b"another model".ljust(32), PLAIN).commit(question, rows)
    east = node("east")
    with pytest.raises(RoundRefused):
        east.reveal(Closed(question.nonce, {}))
    commit = east.commit(question, rows)
    with pytest.raises(RoundRefused):
        east.commit(question, rows)
    for closed in (
        Closed(question.nonce, {}),
        Closed(question.nonce, {"east": b"c" * 32}),
        Closed(b"n" * 32, {"east": commit.commitment}),
    ):
        with pytest.raises(RoundRefused):
            east.reveal(closed)


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((40, 9), np.float32),
        np.zeros(3, np.float32),
        np.full(SHAPE, np.nan, np.float32),
        np.full(SHAPE, np.inf, np.float32),
        np.zeros(SHAPE, np.float16),
        np.zeros((0, 10), np.float32),
    ],
    ids=["classes", "flat", "nan", "inf", "half", "no rows"],
)
def test_a_malformed_answer_is_dissent_and_stops_nobody(answer: np.ndarray) -> None:
    outcome = play({"south": lambda rows: answer})
    assert outcome.members == ("east", "north", "west")
    assert "answer" in outcome.dissent["south"]


@dataclass(frozen=True)
class Messages:
    """A lane whose rows and answers travel as bytes."""

    inside: SealedLane

    @property
    def public(self) -> str:
        return self.inside.public

    @property
    def model(self) -> bytes:
        return self.inside.model

    def seal(self, rows: np.ndarray) -> np.ndarray:
        return as_bytes(self.inside.seal(rows))

    def open(self, answer: np.ndarray) -> np.ndarray:
        if answer.tobytes() == b"stale":
            raise KeyFileError("a key out of date")
        return self.inside.open(np.frombuffer(answer.tobytes(), np.float32).reshape(40, -1))


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)


@pytest.mark.parametrize("bad", [b"stale", b"short", bytes(4 * 40 * 9)])
def test_sealed_messages_travel_as_bytes_and_one_that_does_not_open_is_dissent(bad: bytes) -> None:
    lanes = {name: Messages(LANES[name]) for name in NAMES}
    client = Consensus(lanes, ROWS, shape=SHAPE, tolerance=TOLERANCE)

    def run(name: str) -> Compute:
        plain = honest(name)
        return lambda x: as_bytes(plain(np.frombuffer(x.tobytes(), np.float32).reshape(40, 20)))

    computes = {name: run(name) for name in NAMES} | {
        "south": lambda x: np.frombuffer(bad, np.uint8)
    }
    nodes = {name: node(name, computes[name]) for name in NAMES}
    for name in NAMES:
        client.commit(nodes[name].commit(*client.question(name)))
    client.close()
    for name in NAMES:
        client.reveal(nodes[name].reveal(client.closed))
    assert client.outcome().members == ("east", "north", "west")
    assert client.outcome().dissent == {"south": "an answer that its key does not open"}


def test_what_a_node_signed_convicts_it_before_anybody() -> None:
    client, liar = start(), node("east", lie("east"))
    question, rows = client.question("east")
    commit = liar.commit(question, rows)
    client.commit(commit)
    client.close()
    reveal = liar.reveal(client.closed)
    answer = check_evidence(question, commit, reveal, KEYS["east"].public)
    assert not np.allclose(answer, honest("east")(rows))
    with pytest.raises(BadMessage):
        check_evidence(question, commit, replace(reveal, answer=answer + 1), KEYS["east"].public)
    with pytest.raises(BadSignature):
        check_evidence(question, commit, reveal, KEYS["west"].public)


# The decision itself


@pytest.mark.parametrize(("nodes", "needed"), [(3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (16, 11)])
def test_the_quorum_is_two_thirds_rounded_up(nodes: int, needed: int) -> None:
    assert quorum(nodes) == needed


def test_too_few_or_many_nodes_are_refused() -> None:
    for nodes in (2, 17):
        with pytest.raises(BadParameters):
            decide(nodes, {}, {}, EXACT)


def answers(*values: float) -> dict[str, np.ndarray]:
    return {f"n{i}": np.array([[value, 0.0]]) for i, value in enumerate(values)}


def test_agreement_is_pair_by_pair_and_not_through_a_middle() -> None:
    tolerance = Tolerance(1.0, 0.0)
    chain = decide(4, answers(0.0, 0.9, 1.8, 2.7), {}, tolerance)
    assert not chain.agreed  # neighbours agree, three of them never do
    group = decide(4, answers(0.0, 0.5, 0.9, 1.8), {}, tolerance)
    assert group.members == ("n0", "n1", "n2") and group.values[0, 0] == 0.5


def test_of_two_groups_the_closer_one_counts() -> None:
    found = decide(4, answers(0.0, 0.8, 0.9, 1.1), {}, Tolerance(1.0, 0.0))
    assert found.members == ("n1", "n2", "n3")


def test_integers_agree_only_when_equal() -> None:
    same = np.array([[3, 4]], dtype=np.int64)
    found = decide(3, {"a": same, "b": same, "c": same + 1}, {}, EXACT)
    assert found.members == ("a", "b") and found.dissent == {"c": "another answer"}


def test_a_class_is_undecided_within_twice_the_tolerance() -> None:
    tolerance = Tolerance(0.1, 0.0)
    scores = np.array([[1.0, 0.85], [1.0, 0.75], [0.5, 0.5]])
    found = decide(3, {"a": scores, "b": scores, "c": scores}, {}, tolerance)
    assert found.classes().tolist() == [UNDECIDED, 0, UNDECIDED]


@settings(max_examples=200, deadline=None)
@given(st.integers(3, 10), st.data())
def test_below_a_third_of_liars_the_answer_lies_between_honest_ones(
    nodes: int, data: st.DataObject
) -> None:
    liars = data.draw(st.integers(0, (nodes - 1) // 3))
    near = st.floats(-0.5, 0.5)
    truth = [data.draw(near) for _ in range(nodes - liars)]
    lies = [data.draw(st.floats(-3, 3)) for _ in range(liars)]
    found = decide(nodes, answers(*truth, *lies), {}, Tolerance(1.0, 0.0))
    assert found.agreed
    assert min(truth) - 1e-12 <= found.values[0, 0] <= max(truth) + 1e-12


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=7))
def test_the_group_is_the_largest_there_is(values: list[float]) -> None:
    found = decide(len(values), answers(*values), {}, Tolerance(1.0, 0.0))
    # On a line, a clique is a window of width one.
    best = max(sum(low <= v <= low + 1.0 for v in values) for low in values)
    slack = max(sum(low - 1e-9 <= v <= low + 1.0 + 1e-9 for v in values) for low in values)
    size = len(found.members)
    assert (best >= quorum(len(values))) <= found.agreed <= (slack >= quorum(len(values)))
    assert not found.agreed or best <= size <= slack

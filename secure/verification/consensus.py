"""Consensus over redundant nodes: all commit to their answers before any reveals.

    client = Consensus(lanes, rows, shape=(len(rows), 10), tolerance=tolerance)
    for name, node in nodes.items():
        client.commit(node.commit(*client.question(name)))
    client.close()                       # no commitment is taken after this
    for node in nodes.values():
        client.reveal(node.reveal(client.closed))
    client.outcome().members

Each node has a lane of its own: its own sealing key, so its own sealed model and its own sealed
rows. What one node sees of another's answer is of no use to it. A commitment is a hash over the
question (which holds a fresh nonce, the node's name, the root of its model and the digest of its
rows), a random salt and the answer; it is signed, so a node that lied stays shown to have lied. A
revealed answer is the node's where it opens that commitment; whoever sent one that does not, it
counts for nothing, and least of all against the node that it names.

What it takes: fewer than a third of the nodes lie. Of four nodes one liar is found; **three that
collude win**, and the honest one is the dissenter. A model that is wrong at every node is agreed
on. Every node sees its rows, sealed or not. What the tolerance lets through is in `tolerance`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgpack
import numpy as np

from secure.errors import BadMessage, RoundRefused, SecureError
from secure.exchange.envelope import Signer
from secure.keys import verify
from secure.verification.agreement import Outcome, decide
from secure.verification.hashing import NUMBERS, Array, array_digest, digest
from secure.verification.tolerance import Tolerance

SALT = 32
MAX_VALUES = 1 << 26
"""Most values in an answer that a client opens."""

DTYPES = ("<f4", "<f8", "<i8", "|u1")
"""Types of an answer as it comes from a node: numbers, or the bytes of a sealed message."""


class Lane(Protocol):
    """The client's side of one node: who it is, and the seal of its own that rows travel under.

    `public` is the node's identity key, `model` the root of the model that the node was given
    (`commitment`), sealed for it alone. `open` undoes the seal of an answer; one that it cannot
    open raises `ValueError` or a `SecureError`. Rows and answers that are messages rather than
    numbers travel as arrays of bytes.
    """

    public: str
    model: bytes

    def seal(self, rows: Array) -> Array:
        """Return the rows as this node is to see them."""
        ...

    def open(self, answer: Array) -> Array:
        """Return the node's answer in plain."""
        ...


@dataclass(frozen=True)
class PlainLane:
    """A lane without a seal: the node sees the rows."""

    public: str
    model: bytes

    def seal(self, rows: Array) -> Array:
        """Return the rows."""
        return rows

    def open(self, answer: Array) -> Array:
        """Return the answer."""
        return answer


@dataclass(frozen=True)
class Question:
    """What one node is asked. Every commitment covers all of it."""

    nonce: bytes
    node: str
    model: bytes
    rows: bytes  # digest of the rows as this node sees them

    @property
    def digest(self) -> bytes:
        """The digest that stands for the question."""
        return digest(b"tacit consensus question 1", self.nonce, self.node, self.model, self.rows)


@dataclass(frozen=True)
class Commit:
    """A node's signed commitment to its answer."""

    node: str
    question: bytes
    commitment: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Reveal:
    """A node's answer, and the salt that opens its commitment."""

    node: str
    question: bytes
    salt: bytes = field(repr=False)
    answer: Array = field(repr=False)


@dataclass(frozen=True)
class Closed:
    """That commitments are closed: the nonce, and each node's commitment. Nodes reveal on it."""

    nonce: bytes
    commitments: Mapping[str, bytes]


class Node:
    """A node's side of one question. `compute` maps rows to an answer and is called once."""

    def __init__(
        self, name: str, key: Signer, model: bytes, compute: Callable[[Array], Array]
    ) -> None:
        self._name, self._key, self._model, self._compute = name, key, model, compute
        self._pending: tuple[Question, bytes, bytes, Array] | None = None

    def commit(self, question: Question, rows: Array) -> Commit:
        """Compute the answer and commit to it.

        Errors: `BadMessage` where the question is for another node or model, or its digest is not
        that of the rows; `RoundRefused` for a second question.
        """
        if question.node != self._name or question.model != self._model:
            raise BadMessage("a question for another node or model", field="question")
        if question.rows != array_digest(rows):
            raise BadMessage("the rows are not those of the question", field="rows")
        if self._pending is not None:
            raise RoundRefused("a question is answered once", field="question")
        answer, salt = self._compute(rows), os.urandom(SALT)
        commitment = _commitment(question.digest, salt, answer)
        self._pending = question, salt, commitment, answer
        signature = self._key.sign(_statement(question.digest, commitment))
        return Commit(self._name, question.digest, commitment, signature)

    def reveal(self, closed: Closed) -> Reveal:
        """Open the commitment, once the client has closed the round with it in the list.

        Errors: `RoundRefused` where the list does not hold this node's own commitment.
        """
        if self._pending is None:
            raise RoundRefused("nothing was committed to", field="commitments")
        question, salt, commitment, answer = self._pending
        listed = closed.commitments.get(self._name)
        if (closed.nonce, listed) != (question.nonce, commitment):
            raise RoundRefused("the list does not hold this node's commitment", field="commitments")
        return Reveal(self._name, question.digest, salt, answer)


class Consensus:
    """The client's side of one question to all nodes: commit, close, reveal, outcome.

    Shapes: `shape` is that of the plain answer; any other is malformed. The client may stop waiting
    at any time: a node that has not committed by `close`, or not revealed by `outcome`, dissents.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        rows: Array,
        *,
        shape: tuple[int, ...],
        tolerance: Tolerance,
    ) -> None:
        self._lanes, self._shape, self._tolerance = dict(lanes), shape, tolerance
        self._nonce = os.urandom(32)
        self._questions: dict[str, tuple[Question, Array]] = {}
        for name, lane in self._lanes.items():
            sealed = lane.seal(rows)
            question = Question(self._nonce, name, lane.model, array_digest(sealed))
            self._questions[name] = (question, sealed)
        self._commits: dict[str, Commit] = {}
        self._answers: dict[str, Array] = {}
        self._dissent: dict[str, str] = {}
        self._closed = False

    def question(self, name: str) -> tuple[Question, Array]:
        """Return what to send to a node: the question, and the rows under its seal."""
        return self._questions[name]

    def commit(self, commit: Commit) -> None:
        """Take a node's commitment, the first and only one.

        Errors: `RoundRefused` once closed or for a second one; `BadMessage` for no node of this
        round or another question; `BadSignature` where the node did not sign it. A refused message
        counts for nothing: whoever sent it, the node itself may still commit.
        """
        question = self._asked(commit.node, commit.question)
        if self._closed or commit.node in self._commits:
            raise RoundRefused("commitments are closed", field="node", value=commit.node)
        statement = _statement(question.digest, commit.commitment)
        verify(self._lanes[commit.node].public, statement, commit.signature)
        self._commits[commit.node] = commit

    def close(self) -> None:
        """Take no more commitments; who has not committed dissents."""
        self._closed = True
        for name in self._lanes.keys() - self._commits.keys():
            self._dissent[name] = "no commitment"

    @property
    def closed(self) -> Closed:
        """The list on which nodes reveal; only once commitments are closed."""
        if not self._closed:
            raise RoundRefused("commitments are still open", field="commitments")
        return Closed(self._nonce, {n: c.commitment for n, c in self._commits.items()})

    def reveal(self, reveal: Reveal) -> None:
        """Take a node's answer; one that it committed to and that is none makes it a dissenter.

        Errors: `RoundRefused` before `close`, for a node that did not commit or has revealed;
        `BadMessage` for no node of this round, another question, or an answer that does not open
        the node's commitment. A refused message counts for nothing: the node may still reveal.
        """
        question = self._asked(reveal.node, reveal.question)
        name = reveal.node
        if not self._closed or name in self._answers or name in self._dissent:
            raise RoundRefused("no answer of this node is awaited", field="node", value=name)
        if not _opens(question.digest, self._commits[name].commitment, reveal):
            raise BadMessage(
                "an answer that does not open the commitment of the node it names",
                field="answer",
                value=name,
            )
        try:
            self._answers[name] = self._plain(name, reveal.answer)
        except ValueError as error:
            self._dissent[name] = str(error)

    def outcome(self) -> Outcome:
        """Decide; who has not revealed dissents. Errors: `RoundRefused` before `close`."""
        if not self._closed:
            raise RoundRefused("commitments are still open", field="commitments")
        silent = self._lanes.keys() - self._answers.keys() - self._dissent.keys()
        dissent = self._dissent | dict.fromkeys(silent, "no reveal")
        return decide(len(self._lanes), self._answers, dissent, self._tolerance)

    def _asked(self, name: str, asked: bytes) -> Question:
        if name not in self._questions:
            raise BadMessage("no node of this round", field="node", value=name)
        question, _ = self._questions[name]
        if asked != question.digest:
            raise BadMessage("a message of another question", field="question")
        return question

    def _plain(self, name: str, answer: Array) -> Array:
        """A node's own answer without its seal; `ValueError` says why the node dissents."""
        if answer.dtype.str not in DTYPES:
            raise ValueError("a malformed answer")
        try:
            plain = self._lanes[name].open(answer)
        except (ValueError, SecureError):
            raise ValueError("an answer that its key does not open") from None
        if plain.shape != self._shape or not np.isfinite(plain).all():
            raise ValueError("a malformed answer")
        return plain


def check_evidence(question: Question, commit: Commit, reveal: Reveal, public: str) -> Array:
    """Return the answer that a node has signed, for anybody to judge; the node cannot deny it.

    Errors: `BadSignature` where the commitment is not the node's, `BadMessage` where the answer
    does not open it or belongs to another question.
    """
    verify(public, _statement(question.digest, commit.commitment), commit.signature)
    if not _opens(question.digest, commit.commitment, reveal):
        raise BadMessage("the answer does not open the commitment", field="answer")
    return reveal.answer


def _commitment(asked: bytes, salt: bytes, answer: Array) -> bytes:
    return digest(b"tacit consensus commitment 1", asked, salt, array_digest(answer))


def _opens(asked: bytes, commitment: bytes, reveal: Reveal) -> bool:
    """Whether a commitment was made to this answer: one that can be hashed, and is not too long."""
    answer = reveal.answer
    if answer.dtype.kind not in NUMBERS or answer.size > MAX_VALUES or len(reveal.salt) != SALT:
        return False
    return _commitment(asked, reveal.salt, answer) == commitment


def _statement(asked: bytes, commitment: bytes) -> bytes:
    packed: bytes = msgpack.packb(["tacit consensus commit 1", asked, commitment])
    return packed

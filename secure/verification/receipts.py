"""Receipts of answers: signed by the node that gave them, each following the one before.

    with ReceiptChain(Path("receipts.jsonl"), key) as chain:
        receipt = chain.append(model=root, request=request, answer=answer, mode="plain")
    check_chain(Path("receipts.jsonl").read_text().splitlines(), key.public)

A receipt says: this key answered this request with this answer under the model of this root. It
does not say that the answer is right; it makes a wrong one attributable. A client keeps its own
receipts. Whoever signs can keep two chains and show each client another: only clients that compare
heads find that out, and `check_chain` takes the receipts that a client holds.

Privacy: request and answer appear as digests with a random nonce that only client and node know,
so that a reader of the chain cannot try rows. The number of answers and their times are visible.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import rfc8785

from secure.errors import BadMessage, BadSignature, NotVerified
from secure.exchange.envelope import Signer
from secure.keys import verify
from secure.verification.hashing import Array, array_digest, digest, unhex

FORMAT = "tacit inference receipt 1"
GENESIS = b"tacit inference receipts 1"
MODES = ("plain", "ckks", "equivariant")
FIELDS = {
    "receipt": str,
    "chain": str,
    "number": int,
    "previous": str,
    "time": str,
    "model": str,
    "request": str,
    "answer": str,
    "mode": str,
}
"""The fields of a receipt's body and their types; digests are 64 hexadecimal digits."""


@dataclass(frozen=True)
class Receipt:
    """One receipt: its canonical JSON and the signature. Claims until `check_chain` has passed."""

    body: str
    signature: str

    @property
    def data(self) -> dict[str, Any]:
        """The parsed body."""
        data: dict[str, Any] = json.loads(self.body)
        return data

    @property
    def number(self) -> int:
        """The receipt's place in its chain, from 1."""
        return int(self.data["number"])

    @property
    def hash(self) -> str:
        """What the next receipt follows."""
        return hashlib.sha256(FORMAT.encode() + b"\0" + self.body.encode()).hexdigest()

    def line(self) -> str:
        """The receipt as one line of a file."""
        return json.dumps({"body": self.body, "signature": self.signature})

    @classmethod
    def read(cls, line: str) -> Receipt:
        """Read a line; anything but a well-formed receipt raises `BadMessage`."""
        try:
            outer = json.loads(line)
            if not isinstance(outer, dict) or outer.keys() != {"body", "signature"}:
                raise ValueError("other fields")
            receipt = cls(outer["body"], outer["signature"])
            unhex(receipt.signature, 64)
            data = receipt.data
            if not isinstance(data, dict) or data.keys() != FIELDS.keys():
                raise ValueError("other fields in the body")
            for name, kind in FIELDS.items():
                if type(data[name]) is not kind:
                    raise ValueError(f"{name} of a wrong type")
            for name in ("previous", "model", "request", "answer"):
                unhex(data[name], 32)
            if data["receipt"] != FORMAT or data["mode"] not in MODES:
                raise ValueError("another format or mode")
            # What does not encode to itself could be read in two ways.
            if rfc8785.dumps(data).decode() != receipt.body:
                raise ValueError("not canonical")
        except (
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
            rfc8785.CanonicalizationError,
        ) as error:
            said = type(error).__name__ if isinstance(error, json.JSONDecodeError) else error
            raise BadMessage(f"not a receipt: {said}", field="receipt") from None
        return receipt


@dataclass(frozen=True)
class Head:
    """Where a chain stands: its identity, the number of its last receipt and that one's hash."""

    chain: str
    number: int
    hash: str


def request_digest(nonce: bytes, rows: Array) -> str:
    """Return what a receipt says of a request; `nonce` has 32 random bytes, fresh per request."""
    return _salted(b"tacit request 1", nonce, rows)


def answer_digest(nonce: bytes, answer: Array) -> str:
    """Return what a receipt says of an answer; the nonce is that of the request."""
    return _salted(b"tacit answer 1", nonce, answer)


def check_chain(
    lines: Iterable[str], public: str, *, held: Mapping[int, str] | None = None
) -> Head:
    """Check a whole chain of receipts and return its head.

    `public` is the key that must have signed every one; `held` names receipts that the caller
    holds, number to hash, and that must be in it, so that a chain cut short or replaced is found.
    Errors: `NotVerified` with the number of the first bad receipt as its value.
    """
    head: Head | None = None
    wanted = dict(held or {})
    for number, line in enumerate(lines, start=1):
        try:
            receipt = Receipt.read(line)
            verify(public, _statement(receipt), bytes.fromhex(receipt.signature))
        except (BadMessage, BadSignature) as error:
            raise _bad(number, error.message) from None
        data = receipt.data
        head = head or Head(data["chain"], 0, _genesis(data["chain"], public))
        follows = (data["chain"], data["number"], data["previous"])
        if follows != (head.chain, number, head.hash):
            raise _bad(number, "does not follow the one before")
        if wanted.pop(number, receipt.hash) != receipt.hash:
            raise _bad(number, "is not the receipt that you hold")
        head = Head(head.chain, number, receipt.hash)
    if wanted:
        raise _bad(min(wanted), "is missing: you hold it")
    return head or Head("", 0, "")


class ReceiptChain:
    """A node's file of receipts: opened once, checked whole, then only appended to.

    A receipt is on disk before `append` returns it. A last line without its end, which a crash
    leaves, was never handed out and is cut off. One process writes at a time; the file is locked.
    Errors: `NotVerified` where the file is not this key's chain, `BadMessage` where it is in use.
    """

    def __init__(self, path: Path, key: Signer) -> None:
        import fcntl

        self._key = key
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            whole = self._file.read()
            kept = whole[: whole.rfind(b"\n") + 1]
            head = check_chain(kept.decode("utf-8", "replace").splitlines(), key.public)
            self._file.truncate(len(kept))
            self._file.seek(len(kept))
        except BlockingIOError:
            self._file.close()
            raise BadMessage(
                f"{path}: another process writes these receipts", field="receipts", value=str(path)
            ) from None
        except NotVerified:
            self._file.close()
            raise
        if head.number == 0:
            chain = os.urandom(16).hex()
            head = Head(chain, 0, _genesis(chain, key.public))
        self.head = head

    def append(self, *, model: bytes, request: str, answer: str, mode: str) -> Receipt:
        """Sign and store the receipt of one answer.

        `model` is the root of the model's commitment, `request` and `answer` are digests
        (`request_digest`, `answer_digest`), `mode` one of `plain`, `ckks`, `equivariant`.
        """
        body: dict[str, Any] = {
            "receipt": FORMAT,
            "chain": self.head.chain,
            "number": self.head.number + 1,
            "previous": self.head.hash,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": model.hex(),
            "request": request,
            "answer": answer,
            "mode": mode,
        }
        unsigned = Receipt(rfc8785.dumps(body).decode(), "")
        signature = self._key.sign(_statement(unsigned)).hex()
        receipt = Receipt.read(Receipt(unsigned.body, signature).line())
        self._file.write(receipt.line().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.head = Head(self.head.chain, receipt.number, receipt.hash)
        return receipt

    def __enter__(self) -> ReceiptChain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _salted(domain: bytes, nonce: bytes, array: Array) -> str:
    if len(nonce) != 32:
        raise BadMessage("a nonce has 32 bytes", field="nonce", value=len(nonce))
    return digest(domain, nonce, array_digest(array)).hex()


def _statement(receipt: Receipt) -> bytes:
    return FORMAT.encode() + b"\0" + bytes.fromhex(receipt.hash)


def _genesis(chain: str, public: str) -> str:
    return digest(GENESIS, chain, public).hex()


def _bad(number: int, reason: str) -> NotVerified:
    return NotVerified(f"receipt {number}: {reason}", field="receipt", value=number)

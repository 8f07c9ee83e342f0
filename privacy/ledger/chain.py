"""The chain: sealed entries, the receipts that they are, and the head that stands for them.

An entry's `body` is canonical JSON that holds everything: ledger, schema version, number, the
hash of the entry before, time, kind and what happened. Its hash covers the body, its signature
the hash. The first entry follows the genesis hash, which covers the ledger's identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privacy.errors import LedgerTampered
from privacy.ledger import canonical
from privacy.ledger.signing import Signer, Verifier

SCHEMA = 1
"""The version of the entries' schema; it is part of every hash."""


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of a ledger's last entry, as `holder` knows it."""

    seq: int
    hash: str
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which ledger it is: made once, covered by the genesis hash."""

    ledger: str
    silo: str
    public: str
    created_at: str

    @property
    def genesis(self) -> str:
        """The hash that entry 1 follows."""
        text = canonical.encode(
            {
                "ledger": self.ledger,
                "silo": self.silo,
                "public": self.public,
                "created_at": self.created_at,
                "schema": SCHEMA,
            }
        )
        return canonical.digest(canonical.GENESIS, text)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One sealed entry: canonical body, hash, the silo's signature. Also what the silo hands out.

    `silo`, `public` and `hash` are claims until `check` has passed.
    """

    silo: str
    public: str
    body: str
    hash: str
    signature: str

    @property
    def data(self) -> dict[str, Any]:
        """The parsed body."""
        data: dict[str, Any] = canonical.decode(self.body)
        return data

    @property
    def ledger(self) -> str:
        """The ledger's identity."""
        return str(self.data["ledger"])

    @property
    def seq(self) -> int:
        """The entry's number."""
        return int(self.data["seq"])

    @property
    def kind(self) -> str:
        """The entry's kind."""
        return str(self.data["kind"])

    @property
    def job(self) -> str | None:
        """The job that the entry is about."""
        job = self.data.get("job")
        return None if job is None else str(job)

    @property
    def head(self) -> Head:
        """The head that this entry makes."""
        return Head(self.seq, self.hash)

    def check(self, public: str, verify: Verifier) -> None:
        """Raise `LedgerTampered` unless `public` signed exactly this body."""
        if self.public != public:
            raise LedgerTampered(
                "a receipt is not by the key of its silo", field="public", value=self.public
            )
        check_seal(self.body, self.hash, self.signature, public, verify)

    def document(self) -> dict[str, Any]:
        """The receipt as plain data."""
        return {
            "silo": self.silo,
            "public": self.public,
            "body": self.body,
            "hash": self.hash,
            "signature": self.signature,
        }

    @classmethod
    def read(cls, data: Any) -> Receipt:
        """Read plain data; anything else raises `LedgerTampered`."""
        fields = ("silo", "public", "body", "hash", "signature")
        if (
            not isinstance(data, dict)
            or set(data) != set(fields)
            or not all(isinstance(data[field], str) for field in fields)
        ):
            raise LedgerTampered("not a receipt", field="receipt", allowed=fields)
        receipt = cls(**data)
        try:
            body = receipt.data
            whole = isinstance(body["seq"], int) and isinstance(body["kind"], str)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise LedgerTampered("not a receipt: its body is no entry", field="body")
        return receipt


Entry = Receipt
"""An entry of the chain; every entry can serve as a receipt."""


def seal(body: dict[str, Any], identity: Identity, signer: Signer) -> Receipt:
    """Make the canonical text of a body, hash it and sign the hash."""
    text = canonical.encode(body)
    hash_ = canonical.digest(canonical.ENTRY, text)
    signature = signer.sign(canonical.statement(canonical.ENTRY, hash_)).hex()
    return Receipt(identity.silo, identity.public, text, hash_, signature)


def check_seal(body: str, hash_: str, signature: str, public: str, verify: Verifier) -> None:
    """Raise `LedgerTampered` unless hash and signature are those of the body."""
    if canonical.digest(canonical.ENTRY, body) != hash_:
        raise LedgerTampered("the hash is not that of the body", field="hash", value=hash_)
    check_signature(canonical.ENTRY, hash_, signature, public, verify)


def check_signature(
    domain: bytes, hash_: str, signature: str, public: str, verify: Verifier
) -> None:
    """Raise `LedgerTampered` unless `public` signed the hash within the domain."""
    try:
        verify(public, canonical.statement(domain, hash_), canonical.unhex(signature))
    except Exception:
        raise LedgerTampered(
            "the signature is not by the ledger's key", field="signature"
        ) from None

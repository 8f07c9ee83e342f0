"""Signed checkpoints: a head that its holder can lay beside the ledger years later."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from privacy.errors import LedgerTampered
from privacy.ledger import canonical
from privacy.ledger.chain import Head, Identity, check_signature
from privacy.ledger.clock import stamp
from privacy.ledger.durable import write_durably
from privacy.ledger.signing import Signer, Verifier


def write(path: Path, identity: Identity, head: Head, signer: Signer, now: datetime) -> None:
    """Write a checkpoint of `head`, durably, signed by the ledger's key."""
    text = canonical.encode(
        {
            "ledger": identity.ledger,
            "silo": identity.silo,
            "public": identity.public,
            "seq": head.seq,
            "hash": head.hash,
            "at": stamp(now),
        }
    )
    digest = canonical.digest(canonical.CHECKPOINT, text)
    signature = signer.sign(canonical.statement(canonical.CHECKPOINT, digest)).hex()
    document = {"checkpoint": text, "signature": signature}
    write_durably(path, (canonical.encode(document) + "\n").encode())


def read(path: Path, *, public: str, verify: Verifier) -> Head:
    """Read a checkpoint by the key `public`; anything else raises `LedgerTampered`.

    Give the head to `Ledger.verify` as one of `known_heads`.
    """
    try:
        document = canonical.decode(path.read_text())
        text, signature = document["checkpoint"], document["signature"]
        data = canonical.decode(text)
        head = Head(int(data["seq"]), str(data["hash"]), str(path.name))
    except (ValueError, KeyError, TypeError):
        raise LedgerTampered(f"{path}: not a checkpoint", field="checkpoint") from None
    digest = canonical.digest(canonical.CHECKPOINT, text)
    check_signature(canonical.CHECKPOINT, digest, signature, public, verify)
    return head

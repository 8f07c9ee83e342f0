"""A sealing's key: one seed, from which every matrix is derived, locked at rest.

    >>> key = SealingKey.generate()
    >>> key.for_node("node's public key", "digest of the model").secret == key.secret
    False

At rest only the node's own seed is kept, in a box of libsodium: under a passphrase (Argon2id, then
XSalsa20-Poly1305) or sealed to the owner's identity key. The document around it is signed by the
owner, so that nobody can change what a key is said to be for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import rfc8785
from nacl import exceptions, pwhash, secret, utils

from secure.equivariant.errors import WrongPassphrase
from secure.equivariant.stream import derive
from secure.errors import BadMessage, BadSignature, KeyFileError
from secure.exchange.sealing import seal_for, unseal
from secure.keys import SigningKey, verify

COST = {
    "opslimit": pwhash.argon2id.OPSLIMIT_MODERATE,
    "memlimit": pwhash.argon2id.MEMLIMIT_MODERATE,
}
"""What one guess of a passphrase costs: libsodium's middle setting, 256 MiB and about a second."""


class SealingKey:
    """The seed of sealings; it never shows itself (no repr, no pickle, no log)."""

    __slots__ = ("secret",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise BadMessage("a sealing key has 32 bytes", field="key")
        self.secret = seed

    @classmethod
    def generate(cls) -> SealingKey:
        """Draw a key from the operating system's generator."""
        return cls(os.urandom(32))

    def for_node(self, node: str, model: str) -> SealingKey:
        """Return the key of one node and model; two nodes' keys tell nothing of each other."""
        return SealingKey(derive(self.secret, "node", node, model))

    def __repr__(self) -> str:
        return "SealingKey(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a sealing key does not travel")


def lock(
    key: SealingKey, manifest: dict[str, Any], owner: SigningKey, passphrase: str | None = None
) -> bytes:
    """Return the key file: the manifest, the locked seed, and the owner's signature over both."""
    box: dict[str, Any]
    if passphrase is None:
        box = {"by": "owner", "box": seal_for(owner.public, key.secret).hex()}
    else:
        salt = utils.random(pwhash.argon2id.SALTBYTES)
        sealed = secret.SecretBox(_stretched(passphrase, salt, **COST)).encrypt(key.secret)
        box = {"by": "passphrase", "salt": salt.hex(), **COST, "box": bytes(sealed).hex()}
    document = {"manifest": manifest, "seed": box}
    signature = owner.sign(_statement(document)).hex()
    return json.dumps(document | {"signature": signature}, indent=1).encode()


def unlock(
    data: bytes, owner: SigningKey, passphrase: str | None = None
) -> tuple[SealingKey, dict[str, Any]]:
    """Return the key and the manifest of a key file.

    Raises `BadSignature` where anything of it was changed or another owner signed it,
    `WrongPassphrase` where the passphrase is wrong or missing, `BadMessage` for another file.
    """
    try:
        document = json.loads(data)
        signature = bytes.fromhex(document.pop("signature"))
        box, manifest = document["seed"], document["manifest"]
        statement = _statement(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadMessage("not a key file of a sealing", field="key") from None
    try:
        verify(owner.public, statement, signature)
    except BadSignature:
        raise BadSignature(
            "the key file was changed, or another owner signed it", field="signature"
        ) from None
    sealed = bytes.fromhex(box["box"])
    if box["by"] == "owner":
        return SealingKey(unseal(owner, sealed)), manifest
    if passphrase is None:
        raise WrongPassphrase("passphrase: this key file needs one", field="passphrase")
    stretched = _stretched(
        passphrase, bytes.fromhex(box["salt"]), opslimit=box["opslimit"], memlimit=box["memlimit"]
    )
    try:
        return SealingKey(secret.SecretBox(stretched).decrypt(sealed)), manifest
    except exceptions.CryptoError:
        raise WrongPassphrase(
            "passphrase: it does not open this key file", field="passphrase"
        ) from None


def write_private(path: Path, data: bytes) -> None:
    """Write a new file at mode 0600; one that exists is never overwritten."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_private(path: Path) -> bytes:
    """Read a file that must be its owner's alone; `KeyFileError` where others can read it."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: mode {mode:04o} lets others read the key; run chmod 600",
            field="key",
            value=f"{mode:04o}",
            allowed="0600",
        )
    return path.read_bytes()


def _stretched(passphrase: str, salt: bytes, *, opslimit: int, memlimit: int) -> bytes:
    stretched: bytes = pwhash.argon2id.kdf(
        secret.SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=opslimit, memlimit=memlimit
    )
    return stretched


def _statement(document: dict[str, Any]) -> bytes:
    return b"tacit sealing key 1\0" + rfc8785.dumps(document)

"""The bytes between owner, node and data silo: one msgpack map each, strictly read.

| message | from, to | content |
|---|---|---|
| `sealed model` | owner, node | manifest, description, weights |
| `sealed keys` | owner, data silo (in a sealed box) | manifest, form of the inputs, two keys |
| `sealed input` | data silo, node | the sealing's id, tensors |
| `sealed answer` | node, data silo | the sealing's id, one tensor |

Tensors are safetensors. A message is accepted only if packing what was read gives the same bytes.
Between machines they travel in signed envelopes (`secure.exchange`), which these do not replace.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgpack
import rfc8785
import torch
from pydantic import AwareDatetime, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from secure.equivariant.errors import StaleKey
from secure.equivariant.operations import Part
from secure.errors import BadMessage, BadSignature
from secure.keys import SigningKey, verify

FIELDS: dict[str, dict[str, type]] = {
    "sealed model": {
        "manifest": bytes,
        "signature": bytes,
        "description": bytes,
        "weights": bytes,
    },
    "sealed keys": {"manifest": bytes, "signature": bytes, "takes": bytes, "keys": bytes},
    "sealed input": {"sealing": str, "tensors": bytes},
    "sealed answer": {"sealing": str, "tensors": bytes},
}


def pack(kind: str, **content: Any) -> bytes:
    """Return the one encoding of a message."""
    packed: bytes = msgpack.packb({"type": f"tacit {kind} 1"} | content)
    return packed


def unpack(kind: str, packed: bytes) -> dict[str, Any]:
    """Read a message of one kind; `BadMessage` says what is wrong, never a value."""
    wanted = {"type": str} | FIELDS[kind]
    try:
        data = msgpack.unpackb(packed)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException):
        raise BadMessage(f"{kind}: malformed or cut short", field=kind) from None
    if (
        type(data) is not dict
        or data.keys() != wanted.keys()
        or any(type(data[name]) is not kind_of for name, kind_of in wanted.items())
        or data["type"] != f"tacit {kind} 1"
    ):
        raise BadMessage(f"{kind}: another kind of message, or other fields", field=kind)
    content = {name: data[name] for name in FIELDS[kind]}
    if pack(kind, **content) != packed:
        raise BadMessage(f"{kind}: not the one encoding of its content", field=kind)
    return content


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as safetensors."""
    # Cloned, as safetensors refuses tensors that share memory, and two keys may be one.
    whole = torch.contiguous_format
    data: bytes = save({n: tensor.clone(memory_format=whole) for n, tensor in tensors.items()})
    return data


def unpack_tensors(kind: str, data: bytes) -> dict[str, Tensor]:
    """Read safetensors; anything else raises `BadMessage`."""
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise BadMessage(f"{kind}: its tensors are malformed", field=kind) from None
    return tensors


class Manifest(Part):
    """What node and data silo are told of a sealing; it names no base model and no silo.

    `content` is the digest of what the manifest stands before: the sealed model, or the keys.
    """

    scheme: str = "tacit equivariant 1"
    protection: str
    sealing: str
    content: str
    owner: str
    receiver: str
    created: AwareDatetime
    expires: AwareDatetime

    def packed(self) -> bytes:
        """The manifest as canonical JSON (RFC 8785)."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def signed(self, owner: SigningKey) -> dict[str, bytes]:
        """The manifest and the owner's signature, as fields of a message."""
        return {"manifest": self.packed(), "signature": owner.sign(_statement(self.packed()))}

    def check_date(self, now: datetime) -> None:
        """Raise `StaleKey` past the sealing's date."""
        if now >= self.expires:
            raise StaleKey(
                f"the sealing expired on {self.expires:%Y-%m-%d}; the owner seals anew",
                field="expires",
                value=self.expires.isoformat(),
            )

    def check_sealing(self, sealing: str) -> None:
        """Raise `StaleKey` for a message of another sealing."""
        if sealing != self.sealing:
            raise StaleKey("a message of another sealing: its key is not this one", field="sealing")


def checked_manifest(content: dict[str, Any], *, owner: str, receiver: str) -> Manifest:
    """Return the manifest that stands before the other fields of a message.

    Raises `BadSignature` where the owner did not sign it or its content was changed, and
    `BadMessage` where it is meant for another party.
    """
    verify(owner, _statement(content["manifest"]), content["signature"])
    try:
        manifest = Manifest.model_validate_json(content["manifest"])
    except ValidationError:
        raise BadMessage("manifest: malformed", field="manifest") from None
    rest = [content[name] for name in content if name not in ("manifest", "signature")]
    if manifest.content != digest(*rest):
        raise BadSignature("what the owner signed is not what came", field="content")
    if manifest.owner != owner or manifest.receiver != receiver:
        raise BadMessage("a sealing for another party", field="receiver")
    return manifest


def digest(*parts: bytes) -> str:
    """SHA-256 over parts and their lengths."""
    total = hashlib.sha256(b"tacit sealing 1\0")
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def _statement(manifest: bytes) -> bytes:
    return b"tacit sealing manifest 1\0" + manifest

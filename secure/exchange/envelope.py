"""Envelopes: one message between two parties of one job, signed by its sender.

The header is msgpack and binds federation, job, round, name, sender and receiver; the body is
opaque bytes (safetensors or msgpack, never pickle), bound by its digest. The signature is over
the header's bytes as sent, so nothing is re-encoded before it is checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import msgpack

from secure.errors import BadMessage
from secure.keys import verify

MAX_BODY = 1 << 30
"""Largest body accepted, in bytes."""


_BIN32 = b"\xc6"
"""What msgpack puts before the length of bytes, in four bytes, and the bytes."""


class Signer(Protocol):
    """Whoever signs envelopes: `secure.keys.SigningKey`."""

    public: str

    def sign(self, message: bytes) -> bytes:
        """Return a signature over `message`."""
        ...


@dataclass(frozen=True)
class Header:
    """What an envelope is bound to; `round` counts from 0, `name` says what the body is."""

    federation: str
    job: str
    round: int
    name: str
    sender: str
    receiver: str
    digest: str = ""


_TYPES = {part.name: int if part.name == "round" else str for part in fields(Header)}


@dataclass(frozen=True)
class Message:
    """A message that was opened and whose signature agreed.

    `ticket` is the back end's own, by which it knows what is acknowledged.
    """

    header: Header
    body: bytes
    ticket: Any = field(default=None, compare=False, repr=False)


def seal(header: Header, body: bytes, key: Signer) -> bytes:
    """Return the signed envelope of `body`."""
    bound = {name: getattr(header, name) for name in _TYPES} | {"digest": digest(body)}
    head: bytes = msgpack.packb(bound)
    front = msgpack.Packer(autoreset=False)
    front.pack_array_header(3)
    front.pack(head)
    front.pack(key.sign(head))
    # msgpack's own packing of a large body copies it as its buffer grows.
    return b"".join((front.bytes(), _BIN32, len(body).to_bytes(4, "big"), body))


def open_envelope(
    packed: bytes,
    keys: dict[str, str],
    *,
    federation: str,
    job: str,
    receiver: str,
    ticket: Any = None,
) -> Message:
    """Check an envelope against the parties' public keys; a doubt raises `BadMessage`."""
    try:
        head, signature, body = msgpack.unpackb(packed, max_bin_len=MAX_BODY)
        header = _header(msgpack.unpackb(head, max_str_len=256, max_map_len=16))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"an envelope is malformed: {type(error).__name__}") from None
    if not (isinstance(body, bytes) and isinstance(signature, bytes)):
        raise BadMessage("an envelope's body and signature are bytes")
    if header.sender not in keys:
        raise BadMessage("an envelope from no party", field="sender", value=header.sender)
    verify(keys[header.sender], head, signature)
    if header.federation != federation or header.receiver != receiver:
        raise BadMessage(
            "an envelope for somebody else",
            field="receiver",
            value=header.receiver,
            allowed=receiver,
        )
    if header.job != job:
        raise BadMessage("an envelope of another job", field="job", value=header.job, allowed=job)
    if header.digest != digest(body):
        raise BadMessage("an envelope's body is not the one that was signed", field="digest")
    return Message(header, body, ticket)


def digest(body: bytes) -> str:
    """BLAKE2b-256 of a body, in hexadecimal."""
    return hashlib.blake2b(body, digest_size=32).hexdigest()


def _header(data: Any) -> Header:
    if not isinstance(data, dict) or data.keys() != _TYPES.keys():
        raise ValueError("wrong fields")
    for name, kind in _TYPES.items():
        if type(data[name]) is not kind:
            raise ValueError("wrong type")
    return Header(**data)

"""Chunks: a sealed message of any size as pieces that a broker takes.

    chunk   transfer (16 bytes) | index (4) | count (4) | CRC-32 of the piece (4) | piece

Numbers are big-endian. The checksum finds an accident before a whole message is put together; that
nobody changed it, who sent it and what it says is known only once the message is opened.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from secure.errors import BadMessage
from secure.exchange.envelope import MAX_BODY

PIECE = 1 << 20
"""Bytes of a message in one chunk."""

CHUNK = PIECE + 28
"""The largest chunk, in bytes."""

_HEAD = struct.Struct(">16sIII")
_MOST = MAX_BODY // PIECE + 2
_PARTIAL = 4
"""Unfinished messages that are kept of one sender: more are not from one that works in order."""


def split(sealed: bytes) -> Iterator[bytes]:
    """The chunks of a message, under a transfer number of its own."""
    transfer, view = os.urandom(16), memoryview(sealed)
    count = max(1, -(-len(sealed) // PIECE))
    for index in range(count):
        piece = view[index * PIECE : (index + 1) * PIECE]
        yield b"".join((_HEAD.pack(transfer, index, count, zlib.crc32(piece)), piece))


def identity(chunk: bytes) -> bytes:
    """What tells a chunk from every other: its transfer and index."""
    return chunk[:20]


@dataclass
class Whole:
    """A message put together again, and the tickets of its chunks."""

    sealed: bytes
    tickets: list[Any]


@dataclass
class _Parts:
    count: int
    pieces: dict[int, memoryview] = field(default_factory=dict)
    tickets: list[Any] = field(default_factory=list)


class Assembler:
    """Puts the chunks of several senders together, in whatever order they come.

    A broker that was not told in time that a chunk arrived sends it again; each counts once.
    """

    def __init__(self) -> None:
        self._senders: dict[str, dict[bytes, _Parts]] = {}

    def add(self, sender: str, chunk: bytes, ticket: Any) -> Whole | None:
        """Take a chunk; the whole message once its last one is there.

        A chunk that makes no sense raises `BadMessage`.
        """
        if len(chunk) < _HEAD.size or len(chunk) > CHUNK:
            raise BadMessage("a chunk of a wrong size", field="chunk", value=len(chunk))
        transfer, index, count, checksum = _HEAD.unpack_from(chunk)
        piece = memoryview(chunk)[_HEAD.size :]
        last = index == count - 1
        if not 0 <= index < count <= _MOST or (len(piece) != PIECE and not last):
            raise BadMessage("a chunk that belongs to no message", field="chunk", value=index)
        if zlib.crc32(piece) != checksum:
            raise BadMessage("a damaged chunk", field="chunk", value=index)
        started = self._senders.setdefault(sender, {})
        parts = started.setdefault(transfer, _Parts(count))
        if parts.count != count:
            raise BadMessage("chunks of one message that differ in their number", field="chunk")
        parts.pieces[index] = piece
        parts.tickets.append(ticket)
        if len(parts.pieces) < count:
            return None
        del started[transfer]
        return Whole(b"".join(parts.pieces[i] for i in range(count)), parts.tickets)

    def missing(self, sender: str) -> int:
        """How many chunks the message that a sender began last still lacks."""
        started = self._senders.get(sender)
        if not started:
            return 0
        newest = next(reversed(started.values()))
        return newest.count - len(newest.pieces)

    def overdue(self, sender: str) -> list[Any]:
        """The tickets of what a sender began and left, oldest first, beyond what is kept of it."""
        started = self._senders.get(sender, {})
        dropped: list[Any] = []
        while len(started) > _PARTIAL:
            dropped += started.pop(next(iter(started))).tickets
        return dropped

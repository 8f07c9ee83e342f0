"""What a silo began to release for one job, and what it answered: one append-only file.

    frame  length of the head (4 bytes, big-endian) | SHA-256 of the head | head | body
    head   msgpack [round, name, request, protection, event], or [round, name, SHA-256, size]

The first kind says that a release was begun and has no body; the second stores an answer, its body
behind it. An answer, and all before it, is on disk before the call that stored it returns; what was
only begun is in the file, where the death of this process cannot undo it, and a power cut can: then
nothing of that release has left. Room ahead of the frames is filled with zeros, so that most writes
change neither the file's size nor its blocks and one sync of data is enough. A frame that a crash
cut short was never answered for: the log ends before it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack

from federation.errors import IntegrityError
from privacy.ledger.durable import sync_data, sync_directory

ROOM = 1 << 18
"""Bytes of zeros that are written ahead at a time."""

_START = 4 + 32  # length and digest of a head


@dataclass(frozen=True, slots=True)
class Begun:
    """A release that was begun: for which request, under what protection, at what cost.

    `request` is the SHA-256 of the request's bytes, `event` canonical JSON or None. `answer` says
    where the bytes lie that were stored for it: their offset, size and SHA-256.
    """

    round: int
    name: str
    request: str
    protection: str
    event: str | None
    answer: tuple[int, int, str] | None = None


class ReleaseLog:
    """The log in one file, which is made when it is first written to.

    Reading it changes nothing; only one at a time may write (`release.held`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: dict[tuple[int, str], Begun] = {}
        self._end = 0
        self._room = -1  # the size of the file, not known before a write here has ended well
        self._named = False  # whether its name is on disk, as far as is known here
        if path.exists():
            with path.open("rb") as file:
                self._scan(file.fileno())

    def __len__(self) -> int:
        return len(self._begun)

    def all(self) -> list[Begun]:
        """What was begun, answered or not, in order."""
        return list(self._begun.values())

    def find(self, round: int, name: str) -> Begun | None:
        """What was begun under a round and name."""
        return self._begun.get((round, name))

    def begin(self, begun: Begun) -> None:
        """Log that a release is begun, before anything is made for it."""
        head = [begun.round, begun.name, begun.request, begun.protection, begun.event]
        self._append(msgpack.packb(head), b"", durably=False)
        self._begun[begun.round, begun.name] = begun

    def store(self, begun: Begun, body: bytes) -> None:
        """Store the answer to a release that was begun."""
        digest = hashlib.sha256(body).hexdigest()
        head = [begun.round, begun.name, digest, len(body)]
        self._append(msgpack.packb(head), body, durably=True)
        place = (self._end - len(body), len(body), digest)
        self._begun[begun.round, begun.name] = replace(begun, answer=place)

    def stored(self, begun: Begun) -> bytes | None:
        """The answer that was stored, `None` where there is none yet."""
        if begun.answer is None:
            return None
        offset, size, digest = begun.answer
        with self._path.open("rb") as file:
            body = os.pread(file.fileno(), size, offset)
        if hashlib.sha256(body).hexdigest() != digest:
            raise IntegrityError(
                f"{self._path}: the stored {begun.name} of round {begun.round} is damaged",
                field="releases",
                value=begun.round,
            )
        return body

    def _append(self, head: bytes, body: bytes, *, durably: bool) -> None:
        start = len(head).to_bytes(4, "big") + hashlib.sha256(head).digest()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        room, self._room = self._room, -1
        try:
            if room < 0:  # what stands behind the end was cut short: it is gone for good
                os.ftruncate(descriptor, self._end)
                room = self._end
            behind = self._end + len(start) + len(head)
            end = behind + len(body)
            if end > room and len(body) < ROOM:
                _write(descriptor, bytes(end + ROOM - room), room)
                room = end + ROOM
            _write(descriptor, start + head, self._end)
            _write(descriptor, body, behind)
            if durably:
                sync_data(descriptor)
        finally:
            os.close(descriptor)
        if durably and not self._named:
            sync_directory(self._path.parent)
            self._named = True
        self._end, self._room = end, max(room, end)

    def _scan(self, descriptor: int) -> None:
        while frame := self._frame(descriptor):
            head, after = frame
            if len(head) == 5:
                begun = Begun(*head)
                self._begun[begun.round, begun.name] = begun
                self._end = after
                continue
            round, name, digest, size = head
            last = os.pread(descriptor, 4, after + size) in (b"", bytes(4))
            if last and hashlib.sha256(os.pread(descriptor, size, after)).hexdigest() != digest:
                return
            begun = self._begun[round, name]
            self._begun[round, name] = replace(begun, answer=(after, size, digest))
            self._end = after + size

    def _frame(self, descriptor: int) -> tuple[list[Any], int] | None:
        """The head of the frame at the end so far and where it stops; `None` where none is."""
        start = os.pread(descriptor, _START, self._end)
        length = int.from_bytes(start[:4], "big")
        head = os.pread(descriptor, length, self._end + _START) if length < ROOM else b""
        if not head or hashlib.sha256(head).digest() != start[4:]:
            return None
        return msgpack.unpackb(head), self._end + _START + length


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:  # the system takes what is very large in pieces
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done

"""The head file: how far the ledger got, kept outside its database.

Each append writes the head durably before it is acknowledged, under a lock that spans the whole
transaction. So a crash can leave the database one entry ahead of the file; behind it, entries were
lost or taken out. The file is made before the database: where it is missing, nobody knows how many
entries there were.

The file has two slots, each a line of canonical JSON with a checksum, filled up with blanks. A
write overwrites the older slot in place and syncs its data: one sync without a change of the file
system's own records, where replacing a file takes two with. A crash can spoil the slot that was
being written. Then the other one holds the head before, and the database, which was committed
first, is one entry ahead of it; a spoiled slot beside a database in any other place is damage.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from privacy.errors import LedgerTampered
from privacy.ledger import canonical
from privacy.ledger.chain import Head
from privacy.ledger.durable import sync_data, write_durably

SLOT = 4096
"""Bytes of a slot: the block that a disk writes as one, so that no write touches both slots."""


@dataclass(frozen=True, slots=True)
class Filed:
    """The head on file, in which slot and by which write; `spoiled`: the other is unreadable."""

    head: Head
    spoiled: bool
    slot: int
    turn: int

    def is_at(self, seq: int, hash_: str) -> bool:
        """Whether the file stands, whole, at the last entry of the database."""
        return not self.spoiled and (self.head.seq, self.head.hash) == (seq, hash_)

    def is_before(self, seq: int, prev: str) -> bool:
        """Whether the database is the one entry ahead that a crash can leave."""
        return seq == self.head.seq + 1 and prev == self.head.hash


class HeadFile:
    """The head file of one ledger, and the lock file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(path.name + ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; every writer of this ledger takes it, in any process or thread."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def content(self) -> bytes | None:
        """What is on file, `None` where there is nothing."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, 2 * SLOT + 1, 0)  # one byte more tells a longer file
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError:
            raise LedgerTampered(f"{self.path}: unreadable head file", field="head") from None

    def parse(self, content: bytes | None, ledger: str) -> Filed | None:
        """The head in what was on file; another ledger's is `LedgerTampered`."""
        if content is None:
            return None
        slots = _slots(content)
        newest = _newest(slots)
        if newest is None:
            raise LedgerTampered(f"{self.path}: not a head file", field="head")
        if any(slot and slot["ledger"] != ledger for slot in slots):
            raise LedgerTampered(f"{self.path}: the head of another ledger", field="head")
        head = Head(newest["seq"], newest["hash"], "head file")
        return Filed(head, None in slots, slots.index(newest), newest["turn"])

    def blank(self) -> bool:
        """Whether there is no head, or one of a ledger without entries."""
        content = self.content()
        newest = None if content is None else _newest(_slots(content))
        return content is None or (newest is not None and newest["seq"] == 0)

    def read(self, ledger: str) -> Filed | None:
        """The head on file, `None` where there is none."""
        return self.parse(self.content(), ledger)

    def write(self, ledger: str, head: Head, over: Filed | None = None) -> Filed:
        """Put a head in the place of the older one, durably; a new file has mode 0600.

        `over` is what is on file, where the caller has just read it under the lock.
        """
        over = over or self._own(ledger)
        if over is None:
            write_durably(self.path, _slot(ledger, head, 0) + _slot(ledger, head, 1))
            return Filed(head, False, 1, 1)
        turn, slot = over.turn + 1, 1 - over.slot
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, _slot(ledger, head, turn), slot * SLOT)
            sync_data(descriptor)
        finally:
            os.close(descriptor)
        return Filed(head, False, slot, turn)  # a spoiled slot was the one to be written

    def _own(self, ledger: str) -> Filed | None:
        """The head of this ledger on file, `None` where there is no ledger yet, or another's."""
        content = self.content()
        slots = [] if content is None else _slots(content)
        whole = {slot["ledger"] for slot in slots if slot} == {ledger}
        return self.parse(content, ledger) if whole else None


def _slot(ledger: str, head: Head, turn: int) -> bytes:
    """A slot's bytes; `turn` counts the writes, so that the larger one is the newer."""
    said = {"ledger": ledger, "seq": head.seq, "hash": head.hash, "turn": turn}
    return (
        canonical.encode({**said, "sum": canonical.sha256(said)}).ljust(SLOT - 1).encode() + b"\n"
    )


def _slots(content: bytes) -> list[dict[str, Any] | None]:
    """What both slots say, `None` for one that is not as it was written."""
    if len(content) != 2 * SLOT:
        return [None, None]
    return [_read(content[:SLOT]), _read(content[SLOT:])]


@lru_cache(maxsize=8)  # each append reads both slots, and changes one
def _read(slot: bytes) -> dict[str, Any] | None:
    try:
        said = canonical.decode(slot.decode())
        whole = slot == _slot(said["ledger"], Head(said["seq"], said["hash"]), said["turn"])
        typed = type(said["seq"]) is int and type(said["turn"]) is int
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return said if whole and typed else None


def _newest(slots: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    return max((slot for slot in slots if slot), key=lambda slot: slot["turn"], default=None)

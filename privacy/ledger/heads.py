"""The head file: how far the ledger got, kept outside its database.

Each append writes it durably before it is acknowledged (temporary file, fsync, rename, fsync of
the directory), under a lock that spans the whole transaction. So a crash can leave the database
one entry ahead of the file; behind it, entries were lost or taken out. The file is written before
the database is made: where it is missing, nobody knows how many entries there were.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import LedgerTampered
from privacy.ledger import canonical
from privacy.ledger.chain import Head


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

    def text(self) -> str | None:
        """What is on file, `None` where there is nothing."""
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError):
            raise LedgerTampered(f"{self.path}: unreadable head file", field="head") from None

    def parse(self, text: str | None, ledger: str) -> Head | None:
        """The head in a text; another ledger's is `LedgerTampered`."""
        if text is None:
            return None
        try:
            data = canonical.decode(text)
            known, seq, hash_ = data["ledger"], data["seq"], data["hash"]
        except (ValueError, KeyError, TypeError):
            raise LedgerTampered(f"{self.path}: not a head file", field="head") from None
        if known != ledger or not isinstance(seq, int) or not isinstance(hash_, str):
            raise LedgerTampered(f"{self.path}: the head of another ledger", field="head")
        return Head(seq, hash_, "head file")

    def blank(self) -> bool:
        """Whether there is no head, or one of a ledger without entries."""
        text = self.text()
        try:
            return text is None or canonical.decode(text)["seq"] == 0
        except (ValueError, KeyError, TypeError):
            return False

    def read(self, ledger: str) -> Head | None:
        """The head on file, `None` where there is none."""
        return self.parse(self.text(), ledger)

    def write(self, ledger: str, head: Head) -> None:
        """Replace the head, durably, at mode 0600."""
        text = canonical.encode({"ledger": ledger, "seq": head.seq, "hash": head.hash}) + "\n"
        write_durably(self.path, text.encode())


def write_durably(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 so that after a crash it is there whole, or as it was before."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

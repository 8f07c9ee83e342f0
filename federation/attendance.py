"""Which silos take part in the steps of a job, where not all of them do to the end.

Every silo is waited for, up to the job's deadline. One that is silent beyond it, or stops with a
fault, is gone; the job goes on with the others while they are as many as its quorum, which is all
of them unless the spec says otherwise. A gone silo is asked again when the job is resumed.

A step that closed without some silo is on disk before anything follows from it: a coordinator that
dies and asks again has to make the same of the same answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from federation.errors import FederationError, JobFailed


class Attendance:
    """The attendance of one job, kept at `path` as far as somebody was missing."""

    def __init__(self, path: Path, silos: Collection[str], quorum: int | None = None) -> None:
        self._path = path
        self._silos = frozenset(silos)
        self._quorum = len(self._silos) if quorum is None else quorum
        self._present = self._silos
        self._closed = dict(_read(path))

    def asked(self, step: str) -> list[str]:
        """Who is asked in a step: whoever was in it when it closed before, else who is present."""
        return sorted(self._closed.get(step, self._present))

    def lose(self, silos: Collection[str], why: FederationError) -> None:
        """Go on without these silos; raises `why` where too few would be left."""
        left = self._present - frozenset(silos)
        if len(left) < self._quorum:
            raise why
        self._present = left

    def close(self, step: str, answered: Collection[str]) -> None:
        """Note who was in a step (`JobFailed` where others were when it closed before)."""
        present = frozenset(answered)
        before = self._closed.get(step)
        if before is not None and before != present:
            raise JobFailed(
                f"{step} was made with {', '.join(sorted(before))}, of whom not all answer now",
                field="quorum",
                value=sorted(present),
                allowed=sorted(before),
            )
        if before is None and present != self._silos:
            with self._path.open("ab") as file:
                file.write(json.dumps([step, sorted(present)]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._closed[step] = present

    def present(self) -> list[str]:
        """The silos that are not gone."""
        return sorted(self._present)


def _read(path: Path) -> list[tuple[str, frozenset[str]]]:
    """The steps on disk; a last line that a crash cut off closed nothing, and goes."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")
    os.truncate(path, len(whole[0]) + len(whole[1]))
    return [(step, frozenset(silos)) for step, silos in map(json.loads, whole[0].splitlines())]

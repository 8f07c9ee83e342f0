"""The one gate to the outside: whatever leaves a silo passes here.

A release is made once. It is stored durably before it is sent, bound to the digest of the
request that it answers, and written to the egress log in the silo's ledger. The same request
gets the same bytes again, after a crash too; another request for the same name and round is
refused, because a second answer would be a second release.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from federation.errors import BadInput, IntegrityError, PolicyRefused
from federation.releaselog import Begun, ReleaseLog
from privacy.events import All, Event, Repeat, parse
from privacy.ledger import Ledger

LAST_ROUND = 999_999
"""The largest number of a round that a job can have."""


@lru_cache(maxsize=64)
def _text(event: Event) -> str:
    """An event as the log holds it; the same text for every round that costs the same."""
    return json.dumps(event.model_dump(mode="json"), sort_keys=True)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the releases of a job: a session that makes them, or the settlement that counts them.

    Two gates of one job would each count on its own, so whoever comes second, in this process or
    another, is refused (`BadInput`); what a killed process held is free at once.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadInput(
            f"job {directory.name} is at work here in another session; end that one first",
            field="job",
            value=directory.name,
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


class Gate:
    """The gate of one silo for one job; whoever opens one to release has the job `held`.

    `allowed` gives the protections that the silo's policy lets through for this job now: it is
    asked at every release. `planned` is how many releases of each name its quote pays for.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: str,
        directory: Path,
        allowed: Callable[[], Collection[str]],
        planned: Mapping[str, int],
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._allowed = allowed
        self._planned = planned
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = directory / "releases.log"
        self._log = ReleaseLog(self._path)
        self._made = Counter(begun.name for begun in self._log.all())

    def release(
        self,
        name: str,
        round: int,
        *,
        request: bytes,
        protection: str,
        event: Event | None,
        produce: Callable[[], bytes],
    ) -> bytes:
        """Return the bytes that may leave for this request, making them on the first call.

        `event` is what the release costs, part of what the job has reserved. Raises
        `PolicyRefused` for a protection that is not allowed, `IntegrityError` for another
        request under a name and round already answered, or for more than the job has reserved.
        """
        allowed = self._allowed()
        if protection not in allowed:
            raise PolicyRefused(
                f"a release under protection {protection!r} is not allowed by the silo's policy",
                field="protection",
                value=protection,
                allowed=sorted(allowed),
            )
        asked = hashlib.sha256(request).hexdigest()
        begun = self._log.find(round, name)
        if begun is None:
            self._check_planned(name, round)
            begun = Begun(round, name, asked, protection, None if event is None else _text(event))
            # In the file before the mechanism runs: what was begun can never come back.
            self._log.begin(begun)
            self._made[name] += 1
        elif begun.request != asked:
            raise IntegrityError(
                f"{name} of round {round} was already released for another request",
                field="request",
                value=asked,
            )
        body = self._log.stored(begun)
        if body is None:
            body = produce()
            self._log.store(begun, body)
        self._ledger.record_egress(
            job=self._job,
            round=round,
            name=name,
            protection=protection,
            digest=hashlib.sha256(body).hexdigest(),
            request=asked,
            size=len(body),
            event=event,
        )
        return body

    def _check_planned(self, name: str, round: int) -> None:
        """Refuse a release that nothing was reserved for."""
        if name not in self._planned:
            raise IntegrityError(
                "a release that the job's quote does not name",
                field="name",
                allowed=sorted(self._planned),
            )
        if not 0 <= round <= LAST_ROUND:
            raise IntegrityError(
                f"round {round} is none that a job can have",
                field="round",
                value=round,
                allowed=f"0 to {LAST_ROUND}",
            )
        planned = self._planned[name]
        if self._made[name] >= planned:
            raise IntegrityError(
                f"{name} of round {round} is beyond the {planned} releases that were reserved",
                field="round",
                value=round,
                allowed=planned,
            )

    def stored(self, name: str, round: int) -> bytes | None:
        """What was stored under a name and round; `None` where there is nothing yet."""
        begun = self._log.find(round, name)
        return None if begun is None else self._log.stored(begun)

    def begun(self) -> Event:
        """What the releases that were begun cost together, those that never left included."""
        logged = ReleaseLog(self._path).all()  # as it is now
        times = Counter(begun.event for begun in logged if begun.event is not None)
        return All(
            of=tuple(
                Repeat(times=n, of=parse(json.loads(cost))) for cost, n in sorted(times.items())
            )
        )

    def unprotected(self) -> bool:
        """Whether anything was begun whose stop nobody can call independent of the rows."""
        logged = ReleaseLog(self._path).all()  # as it is now
        return any(begun.protection == "unprotected" for begun in logged)

    def forget(self) -> None:
        """Drop the stored releases of a job that is settled; the egress log keeps their digests."""
        self._path.unlink(missing_ok=True)

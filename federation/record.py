"""The coordinator's record of a job: a directory of small JSON documents.

Statuses, in order: created, reserved, started, coordinated, settled, completed. A refusal ends a
job as `refused`, a stop as `stopped` and, once settled, `failed`; a person's word as `cancelled`.
A job is `waiting` while a silo wants an approval; nothing is reserved then. It and a job whose
process died show as `interrupted` until they are resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from federation import jobs
from federation.documents import parse
from federation.errors import BadInput, NotFound
from federation.home import Home
from federation.spec import JobSpec
from privacy.ledger.durable import write_durably

Engine = Literal["embedded", "exchange"]

ENDED = ("completed", "refused", "failed", "cancelled")


class Job:
    """One job of a home, by its id."""

    def __init__(self, home: Home, id: str) -> None:
        self.id = id
        self.directory = home.jobs / id
        record = self.document("job")
        if record is None:
            raise NotFound(
                f"no job {id} in {home.jobs}; see tacit job list",
                field="job",
                value=id,
                allowed=[path.name for path in sorted(home.jobs.glob("*"))][-5:],
            )
        self._record = record
        self.spec: JobSpec = parse(record["spec"], jobs.kind(record["kind"]).Spec, "job")

    @classmethod
    def create(
        cls, home: Home, spec: JobSpec, mark: str | None = None, engine: Engine = "embedded"
    ) -> Job:
        """Record a new job; its id is the spec's name, the day and six random digits.

        `mark` takes the place of the random digits: the same one again finds the job that it made,
        so that whoever retries goes on with it.
        """
        now = datetime.now(UTC)
        if mark is not None:
            for found in home.jobs.glob(f"{spec.name}-????????-{mark}/job.json"):
                return cls(home, found.parent.name)
        id = f"{spec.name}-{now:%Y%m%d}-{mark or secrets.token_hex(3)}"
        directory = home.jobs / id
        directory.mkdir(parents=True)
        record = {
            "id": id,
            "kind": spec.kind,
            "name": spec.name,
            "engine": engine,
            "created": now.isoformat(),
            "status": "created",
            "error": None,
            "spec": spec.model_dump(mode="json"),
        }
        write_durably(directory / "job.json", json.dumps(record, indent=1).encode(), 0o644)
        spec_yaml = yaml.safe_dump(record["spec"], sort_keys=False)
        (directory / "spec.yaml").write_text(spec_yaml)
        return cls(home, id)

    @property
    def status(self) -> str:
        """Where the job stands, as last written."""
        return str(self._record["status"])

    @property
    def engine(self) -> Engine:
        """What drives the job: all silos in one process, or each at the exchange."""
        engine: Engine = self._record["engine"]
        return engine

    @property
    def error(self) -> dict[str, Any] | None:
        """The public part of the error that ended the job."""
        error: dict[str, Any] | None = self._record["error"]
        return error

    @property
    def created(self) -> datetime:
        """When the job was recorded, UTC."""
        return datetime.fromisoformat(self._record["created"])

    def shown_status(self) -> str:
        """The status for people: one that nobody is working on is `interrupted`."""
        if self.status in ENDED:
            return self.status
        with self._lock() as mine:
            return "interrupted" if mine else "running"

    def update(self, status: str, error: BaseException | None = None) -> None:
        """Write the next status durably."""
        if self.status == "waiting":
            self._record["error"] = None  # what it waited for
        self._record["status"] = status
        if error is not None:
            self._record["error"] = {
                "code": getattr(error, "code", "INTERNAL"),
                "message": getattr(error, "message", type(error).__name__),
            }
        body = json.dumps(self._record, indent=1).encode()
        write_durably(self.directory / "job.json", body, 0o644)

    def document(self, name: str) -> dict[str, Any] | None:
        """A document of the record, or None."""
        try:
            document: dict[str, Any] = json.loads((self.directory / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        return document

    def save(self, name: str, document: Any) -> None:
        """Write a document durably."""
        body = json.dumps(document, indent=1).encode()
        write_durably(self.directory / f"{name}.json", body, 0o644)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Hold the job while its steps run; two processes never drive one job."""
        with self._lock(patience=1.0) as mine:
            if not mine:
                raise BadInput(f"job {self.id} is running in another process", field="job")
            yield

    @contextlib.contextmanager
    def _lock(self, *, patience: float = 0.0) -> Iterator[bool]:
        """Whether this process now holds the job; whoever looks holds it for a moment."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + patience
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() < until:
                        time.sleep(0.02)
                        continue
                    yield False
                else:
                    yield True
                return
        finally:
            os.close(descriptor)


def all_jobs(home: Home) -> list[Job]:
    """Every job of a home, oldest first; `NotFound` where there is no federation."""
    home.federation()
    paths: list[Path] = sorted(home.jobs.glob("*/job.json"))
    return sorted((Job(home, path.parent.name) for path in paths), key=lambda job: job.created)

"""What a silo keeps of one job: a directory of small files, each written whole or not at all.

    manifest.json  the signed manifest    facts.json     the public facts it was priced with
    refused.json   why it was refused     secret         of samples and noise, until settlement
    stop           why it ended here      executed.json  what it ran, once that was settled
    fault.log      the owner's to read    dropped.log    messages that were none
    request.json   what awaits approval   approval.json  what a person said to it, signed

Nothing here decides what is charged alone: the ledger holds the charge and the manifest's digest.
"""

from __future__ import annotations

import json
import os
import secrets
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from federation.errors import IntegrityError, NotFound, PolicyRefused
from federation.jobs.base import FACTS, PartyFacts
from privacy.errors import Refused
from privacy.events import Event
from privacy.events import parse as parse_event
from privacy.ledger import Stop
from privacy.ledger.durable import write_durably

_DROPPED_LIMIT = 65_536


@dataclass(frozen=True)
class Executed:
    """Why a job ended, what it ran, and how many logged releases that was found from."""

    stop: Stop
    event: Event
    released: int | None


class JobFiles:
    """The files of one job at one silo."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, manifest: dict[str, Any], facts: PartyFacts) -> None:
        """Keep the manifest and the facts that it was priced with."""
        self._write("facts.json", FACTS.dump_json(facts))
        self._write("manifest.json", json.dumps(manifest).encode())

    def manifest(self) -> dict[str, Any]:
        """The manifest as it came; `NotFound` where the job was never reserved here."""
        return self._document("manifest.json")

    def facts(self) -> PartyFacts:
        """The public facts as they were when the job was reserved."""
        try:
            return FACTS.validate_json(self._read("facts.json"))
        except ValidationError:
            raise self._damaged("facts.json") from None

    def refuse(self, digest: str, error: Exception) -> None:
        """Keep why the manifest of this digest was refused, so that it stays refused."""
        said = {name: getattr(error, name) for name in ("message", "field", "value", "allowed")}
        document = {"digest": digest, "type": type(error).__name__, "said": said}
        self._write("refused.json", json.dumps(document, default=str).encode())

    def check_not_refused(self, digest: str) -> None:
        """Raise the refusal again where the manifest of this digest was refused before."""
        document = self._there("refused.json")
        if document is None or document["digest"] != digest:
            return
        said = document["said"]
        message = said.pop("message")
        if document["type"] == Refused.__name__:
            raise Refused(message, **said)
        if document["type"] == PolicyRefused.__name__:
            raise PolicyRefused(message, **said)
        raise IntegrityError(f"this manifest was refused before: {message}", **said)

    def keep_request(self, request: dict[str, Any]) -> None:
        """Keep what a person is to approve; what was said to another request counts no more."""
        self._write("request.json", json.dumps(request, indent=1).encode())

    def request(self) -> dict[str, Any] | None:
        """What a person is to approve, or None."""
        return self._there("request.json")

    def keep_approval(self, statement: dict[str, Any]) -> None:
        """Keep a person's signed answer to the request."""
        self._write("approval.json", json.dumps(statement, indent=1).encode())

    def approval(self) -> dict[str, Any] | None:
        """The signed answer that was given last, or None."""
        return self._there("approval.json")

    def withdraw(self) -> None:
        """Drop a request that nobody waits for any more."""
        (self._directory / "request.json").unlink(missing_ok=True)

    @property
    def reserved(self) -> bool:
        """Whether the job came so far that its reservation was asked of the ledger."""
        return (self._directory / "manifest.json").exists()

    def draw_secret(self) -> None:
        """Draw the secret of the job's samples and noise, unless it was drawn."""
        if not (self._directory / "secret").exists():
            self._write("secret", secrets.token_bytes(32))

    def secret(self) -> bytes:
        """The job's secret; `NotFound` before the start and after the settlement."""
        return self._read("secret")

    def destroy_secret(self) -> None:
        """Overwrite the secret, then remove it."""
        secret = self._directory / "secret"
        if secret.exists():
            with secret.open("r+b") as file:
                file.write(os.urandom(32))
                os.fsync(file.fileno())
            secret.unlink()

    def keep_stop(self, stop: Stop | None) -> None:
        """Keep why the job ended here; None while it is at work."""
        if stop is None:
            (self._directory / "stop").unlink(missing_ok=True)
        else:
            self._write("stop", stop.value.encode())

    def stop(self) -> Stop:
        """Why the job ended here; who left no word died at the work, perhaps of what it read."""
        try:
            return Stop(self._read("stop").decode())
        except NotFound:
            return Stop.OWN_FAULT

    def keep_executed(self, executed: Executed) -> None:
        """Keep what is about to be settled; the releases it was found from will be gone."""
        record = {
            "stop": executed.stop.value,
            "event": executed.event.model_dump(mode="json"),
            "released": executed.released,
        }
        self._write("executed.json", json.dumps(record).encode())

    def executed(self) -> Executed | None:
        """What was kept for the settlement."""
        record = self._there("executed.json")
        if record is None:
            return None
        return Executed(Stop(record["stop"]), parse_event(record["event"]), record["released"])

    def keep_fault(self, error: Exception) -> None:
        """Write a fault where the owner can read it; it may hold row values and stays here."""
        self._write("fault.log", "".join(traceback.format_exception(error)).encode())

    def keep_dropped(self, why: str) -> None:
        """Note a message that was dropped, up to a size that no stranger can exceed."""
        with (self._directory / "dropped.log").open("a") as file:
            if file.tell() < _DROPPED_LIMIT:
                file.write(why + "\n")

    def _write(self, name: str, body: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._directory / name, body)

    def _read(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"job {self._directory.name} has no {name} here",
                field="job",
                value=self._directory.name,
            ) from None

    def _document(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads(self._read(name))
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._damaged(name)
        return document

    def _there(self, name: str) -> dict[str, Any] | None:
        try:
            return self._document(name)
        except NotFound:
            return None

    def _damaged(self, name: str) -> IntegrityError:
        return IntegrityError(f"{self._directory / name}: not what was written there", field=name)

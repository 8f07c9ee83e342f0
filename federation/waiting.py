"""A job that waits for approvals, as its coordinator sees it: who lacks one, who has answered.

Nothing is reserved while a job waits; each time it asks, it asks in a new manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from federation.approvals import Line
from federation.errors import ApprovalNeeded, BadInput, NotFound
from federation.home import Home
from federation.parties import Parties
from federation.record import Job


def lacking(manifest: dict[str, Any], parties: Parties) -> dict[str, ApprovalNeeded]:
    """The silos of a manifest that lack an approval. All are asked, so people look meanwhile.

    Raises what else a silo has against the job.
    """
    found = {}
    for silo in sorted(manifest["body"]["quotes"]):
        try:
            parties.consider(silo, manifest)
        except ApprovalNeeded as error:
            found[silo] = error
    return found


def wait(job: Job, found: Mapping[str, ApprovalNeeded]) -> None:
    """Let a job wait for what some silos lack."""
    job.save("waiting", {silo: {"about": e.value, "by": e.allowed} for silo, e in found.items()})
    said = "; ".join(error.message for error in found.values())
    job.update("waiting", ApprovalNeeded(f"{said}. After that: `tacit job resume {job.id}`"))


def decided(job: Job, parties: Parties) -> bool:
    """Whether every silo for which a job waits has its answer, and is within its hours."""
    for silo in job.document("waiting") or {}:
        try:
            standing = parties.standing(silo, job.id)
        except NotFound:  # it asks again, if it still wants to
            continue
        if standing["state"] not in ("given", "refused") or not standing["open"]:
            return False
    return True


def lines(home: Home, silos: Collection[str]) -> Iterator[Line]:
    """What jobs wait for at silos whose files are not here: what these told when last asked."""
    for path in sorted(home.jobs.glob("*/waiting.json")):
        try:
            job = Job(home, path.parent.name)
        except (BadInput, NotFound):  # of a kind that is not installed any more
            continue
        if job.status != "waiting":
            continue
        for silo, told in (job.document("waiting") or {}).items():
            if silo in silos:
                yield Line(
                    silo=silo,
                    job=job.id,
                    state="elsewhere",
                    kind=job.spec.kind,
                    dataset=job.spec.dataset,
                    epsilon=None,
                    delta=None,
                    about=str(told["about"]),
                    asked=job.created,
                    approvers=tuple(map(str, told["by"] or ())),
                )

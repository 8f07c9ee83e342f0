"""The life of a job: quote, reserve, start, coordinate, settle, publish.

Each step is a function of the job's record and the parties, does its work once however often it
is called, and leaves a durable trace before the next begins. Resuming a killed job is calling the
steps again; so is resuming one that waited for approvals. `flows.run` puts them on Prefect; nothing
here knows of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from federation import jobs, pricing, statements, waiting
from federation.attendance import Attendance
from federation.errors import (
    BadInput,
    BudgetRefused,
    IntegrityError,
    JobFailed,
    Missing,
    NotFound,
    PolicyRefused,
)
from federation.jobs.base import FACTS, CoordinatorContext, Outcome, PartyFacts, PartyQuote
from federation.listening import Listening
from federation.manifest import MANIFEST_LIFE, check_agreed, read_manifest
from federation.parties import Parties
from federation.pricing import subjects_total
from federation.record import ENDED, Job
from federation.spec import JobSpec, digest
from federation.version import code_version
from privacy.errors import Refused
from privacy.events import Unit
from privacy.ledger import Head
from privacy.ledger.mirror import Mirror
from secure.errors import SecureError


def quotes_of(spec: JobSpec, facts: Mapping[str, PartyFacts]) -> dict[str, PartyQuote]:
    """The checked quote of every silo that takes part in the job."""
    if not facts:
        raise BadInput(
            f"dataset: no silo has rows of {spec.dataset!r}", field="dataset", value=spec.dataset
        )
    if len(facts) < spec.least_silos:
        raise BadInput(
            f"aggregation: it needs {spec.least_silos} silos, and {len(facts)} have rows of "
            f"{spec.dataset!r}",
            field="aggregation",
            value=len(facts),
            allowed=f">= {spec.least_silos} silos",
        )
    least = spec.least_quorum(len(facts))
    if spec.quorum is not None and not least <= spec.quorum <= len(facts):
        raise BadInput(
            f"quorum: {spec.quorum} is not between {least}, with which this job can go on, and "
            f"the {len(facts)} silos with rows of {spec.dataset!r}",
            field="quorum",
            value=spec.quorum,
            allowed=f"{least} to {len(facts)}",
        )
    return pricing.quotes(spec, facts)


def facts_for(spec: JobSpec, parties: Parties) -> dict[str, PartyFacts]:
    """The public facts of the silos that take part in the job; `NotFound` for no such data set."""
    parties.federation.dataset(spec.dataset)
    return parties.facts(spec.dataset, spec.silos)


def quote(spec: JobSpec, parties: Parties) -> dict[str, Any]:
    """Price a job at every silo, with what would fit; reads no row and changes nothing.

    Where something leaves `unprotected` (`leaving`), no epsilon bounds the job, and `opens` names
    what the policy of every silo has to allow.
    """
    facts = facts_for(spec, parties)
    quotes = quotes_of(spec, facts)
    # What is shown of a plan is derived here, as what a silo will reserve is derived there.
    lines = {s: parties.price(s, spec) | {"plan": dict(q.plan)} for s, q in quotes.items()}
    document: dict[str, Any] = {
        "job": spec.name,
        "kind": spec.kind,
        "spec": spec.digest(),
        "silos": lines,
        "admissible": all(line["admissible"] for line in lines.values()),
        "fits": _fits(spec, parties, quotes),
        "leaving": sorted(spec.leaving),
        "opens": sorted(spec.opens),
    }
    if any(f.dataset.subject for f in facts.values()) and "unprotected" not in spec.leaving:
        silos = parties.federation.max_silos_per_subject or len(facts)
        document["subject"] = subjects_total(lines, silos)
    return document


def reserve(job: Job, parties: Parties, mirror: Mirror) -> None:
    """Reserve at every silo in the order of names, all or none, once every silo would let it run.

    Where a person at a silo has to approve the job first, nothing is reserved anywhere: the job is
    `waiting`, and this is called again. A refusal gives the others back and raises
    `BudgetRefused`, which tells what would fit, or `PolicyRefused`; the job is `refused`.
    """
    if job.status not in ("created", "waiting"):
        return
    kept = job.document("manifest") if job.status == "created" else None
    manifest = kept or _manifest(job, parties, mirror.heads())
    if kept is None or job.document("balances") is None:
        quoted = manifest["body"]["quotes"]
        job.save("balances", {s: {"before": _balance(job, parties, s)} for s in quoted})
    receipts: dict[str, Any] = {}
    silos = sorted(manifest["body"]["quotes"])
    try:
        lacking = waiting.lacking(manifest, parties)
        if lacking:
            waiting.wait(job, lacking)
            return
        if job.status == "waiting":
            job.update("created")  # what is reserved is reserved for this manifest
        for silo in silos:
            receipt = parties.reserve(silo, manifest)
            mirror.accept(receipt)
            receipts[silo] = receipt.document()
    except Exception as error:
        if job.status == "waiting" and getattr(error, "field", None) == "policy.hours":
            raise  # its approvals stand; it can be resumed within the hours
        _end(job, parties, mirror)
        told = _refusal(error, silo, job, parties) if isinstance(error, Refused) else error
        job.update("refused" if getattr(told, "exit_code", 1) == 3 else "failed", error=told)
        raise told from None
    job.save("receipts", receipts)
    job.update("reserved")


def start(job: Job, parties: Parties, mirror: Mirror) -> None:
    """Sign the go that carries all reservations, and start every silo on it.

    A silo that cannot start (its reservation expired while the job lay killed) ends the job
    everywhere; nothing was read, so everything comes back.
    """
    if job.status != "reserved":
        return
    go = job.document("go")
    if go is None:
        body = {
            "kind": "go",
            "job": job.id,
            "manifest": digest(_document(job, "manifest")["body"]),
            "receipts": _document(job, "receipts"),
        }
        go = statements.sign(body, parties.key)
        job.save("go", go)
    try:
        for silo in sorted(go["body"]["receipts"]):
            mirror.accept(parties.start(silo, job.id, go))
    except Exception as error:
        _end(job, parties, mirror)
        job.update("refused" if getattr(error, "exit_code", 1) == 3 else "failed", error=error)
        raise
    job.update("started")


def coordinate(
    job: Job,
    parties: Parties,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run the rounds; goes on from the last checkpoint where there is one.

    The plan is the one in the job's manifest. Where membership or code are others than when it
    was signed, no round runs any more (`IntegrityError`); the job can then only be cancelled.
    """
    if job.status != "started":
        return
    quotes = _agreed_quotes(job, parties)
    facts = _facts(job)
    attendance = Attendance(job.directory / "attendance.jsonl", quotes, job.spec.quorum)
    try:
        with parties.serve(job.id, attendance) as endpoint:
            outcome = jobs.kind(job.spec.kind).coordinate(
                CoordinatorContext(
                    federation=parties.federation.name,
                    job=job.id,
                    spec=job.spec,
                    quotes=quotes,
                    facts={silo: facts[silo] for silo in quotes},
                    members={silo: parties.membership.key(silo) for silo in quotes},
                    endpoint=Listening(endpoint, quotes),
                    attendance=attendance,
                    directory=job.directory,
                    progress=progress,
                    deadline=job.spec.deadline,
                )
            )
    except (JobFailed, BadInput, NotFound, PolicyRefused, SecureError) as error:
        job.save("failure", {"message": error.message, "code": error.code})
        job.update("stopped", error=error)
        return
    job.save("outcome", _outcome(outcome))
    job.update("coordinated")


def settle(job: Job, parties: Parties, mirror: Mirror) -> None:
    """Settle at every silo; what was never run comes back where the ledger allows it.

    At a silo that is gone from a job with a quorum the whole charge stands, until the job is
    resumed when it is back.
    """
    settled: dict[str, Any] = job.document("settlement") or {}
    unsettled = [silo for silo, line in settled.items() if not line["settled"]]
    if job.status not in ("coordinated", "stopped") and not unsettled:
        return
    receipts, balances = _document(job, "receipts"), _document(job, "balances")
    for silo in unsettled or sorted(receipts):
        try:
            settled[silo] = _settled(job, parties, mirror, silo)
            balances[silo]["after"] = _balance(job, parties, silo)
        except Missing:
            if job.spec.quorum is None:
                raise
            settled[silo] = _standing(job, silo, receipts[silo])
            unknown = {"remaining_epsilon": None, "used": None}
            balances[silo]["after"] = balances[silo]["before"] | unknown
    job.save("settlement", settled)
    job.save("balances", balances)
    job.update("failed" if job.status in ("stopped", "failed") else "settled")


def cancel(job: Job, parties: Parties, mirror: Mirror) -> None:
    """End a job that nobody is working on, by a person's word.

    What was reserved and never started comes back; what was started is settled, and only rounds
    never begun come back.
    """
    if job.status in ENDED:
        raise BadInput(f"job {job.id} is already {job.status}", field="job", value=job.status)
    _end(job, parties, mirror)
    job.update("cancelled")


def _end(job: Job, parties: Parties, mirror: Mirror) -> None:
    """End the job at every silo that was asked, wherever it stands there.

    Raises `Missing`, once all others have been asked, where one does not answer.
    """
    manifest = job.document("manifest")
    silent: Missing | None = None
    for silo in sorted(manifest["body"]["quotes"]) if manifest else []:
        try:
            receipt = parties.end(silo, job.id)
        except Missing as error:
            silent = silent or error
            continue
        if receipt is not None:
            mirror.accept(receipt)
    if silent is not None:
        raise silent


def _settled(job: Job, parties: Parties, mirror: Mirror, silo: str) -> dict[str, Any]:
    """Settle at one silo; its line of the settlement."""
    receipt = parties.settle(silo, job.id)
    mirror.accept(receipt)
    executed, planned = parties.epsilons(silo, job.id)
    quoted = _document(job, "manifest")["body"]["quotes"][silo]
    return {
        "epsilon": executed,
        "planned_epsilon": planned,
        "delta": quoted["delta"],
        "unit": quoted["unit"],
        "receipt": receipt.document(),
        "settled": True,
    }


def _standing(job: Job, silo: str, reservation: dict[str, Any]) -> dict[str, Any]:
    """The line of a silo that could not be asked: all that was planned, and its reservation."""
    quoted = PartyQuote.read(_document(job, "manifest")["body"]["quotes"][silo])
    planned = pricing.epsilon(quoted.event, quoted, _facts(job)[silo])
    return {
        "epsilon": planned,
        "planned_epsilon": planned,
        "delta": quoted.delta,
        "unit": quoted.unit.value,
        "receipt": reservation,
        "settled": False,
    }


def _balance(job: Job, parties: Parties, silo: str) -> dict[str, Any]:
    """What the account that the job names allows and has left at a silo."""
    unit = _document(job, "manifest")["body"]["quotes"][silo]["unit"]
    return parties.balance(silo, job.spec.dataset, Unit(unit))


def _facts(job: Job) -> dict[str, PartyFacts]:
    """The public facts of the silos, as the job was priced by them."""
    return {s: FACTS.validate_python(line) for s, line in _document(job, "facts").items()}


def _manifest(job: Job, parties: Parties, heads: Mapping[str, Head]) -> dict[str, Any]:
    facts = facts_for(job.spec, parties)
    quotes = quotes_of(job.spec, facts)
    issued = datetime.now(UTC)
    body = {
        "kind": "manifest",
        "federation": parties.federation.name,
        "membership": parties.membership.version,
        "membership_digest": parties.membership.digest,
        "job": job.id,
        "spec": job.spec.model_dump(mode="json"),
        "quotes": {silo: q.document() for silo, q in quotes.items()},
        "heads": {s: {"entry": h.seq, "hash": h.hash} for s, h in heads.items() if s in quotes},
        "code": code_version(),
        "issued": issued.isoformat(),
        "expires": (issued + MANIFEST_LIFE).isoformat(),
        "nonce": secrets.token_hex(16),
    }
    manifest = statements.sign(body, parties.key)
    job.save("facts", {s: FACTS.dump_python(f, mode="json") for s, f in facts.items()})
    job.save("manifest", manifest)
    return manifest


def _agreed_quotes(job: Job, parties: Parties) -> dict[str, PartyQuote]:
    """The quotes as all silos reserved them, while what all agreed on is still the same."""
    manifest, _ = read_manifest(_document(job, "manifest"), parties.key.public)
    try:
        check_agreed(manifest, parties.membership)
    except IntegrityError as error:
        raise IntegrityError(
            f"job {job.id} cannot go on: {error.message}; cancel it and run a new one",
            field=error.field,
            value=error.value,
            allowed=error.allowed,
        ) from None
    documents = _document(job, "manifest")["body"]["quotes"]
    return {silo: PartyQuote.read(documents[silo]) for silo in sorted(documents)}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "metrics": outcome.metrics,
        "curve": outcome.curve,
        "rounds": outcome.rounds,
        "stopped_early": outcome.stopped_early,
        "model": str(outcome.model) if outcome.model else None,
        "seconds": outcome.seconds,
        "details": dict(outcome.details),
        "text": list(outcome.text),
    }


def _document(job: Job, name: str) -> dict[str, Any]:
    document = job.document(name)
    if document is None:
        raise IntegrityError(
            f"job {job.id} is {job.status} but its {name}.json is not there",
            field=name,
            value=str(job.directory),
        )
    return document


def _refusal(error: Refused, silo: str, job: Job, parties: Parties) -> BudgetRefused:
    """A ledger's refusal, with the job's own epsilon and what would fit at every silo."""
    fits = _fits(job.spec, parties, parties.holders(job.spec.dataset, job.spec.silos))
    line = parties.price(silo, job.spec)
    left = error.allowed if isinstance(error.allowed, dict) else {}
    return BudgetRefused(
        f"{error.message}. Priced alone, the job costs epsilon {line['epsilon']:.2f} per "
        f"{line['unit']}; {fits_text(fits)}",
        field=f"{silo}/{error.field}",
        value=line["epsilon"],
        allowed=left | fits,
    )


def fits_text(fits: Mapping[str, float | int]) -> str:
    """What would fit, in words."""
    if not any(fits.values()):
        return "nothing of this kind fits"
    rounds = f"{fits['rounds']:,} rounds" if fits["rounds"] > 1 else "one round"
    if "epsilon" not in fits:
        return f"what would fit at every silo: {rounds} with this noise"
    return f"what would fit at every silo: epsilon {fits['epsilon']:.3g} with these rounds, " + (
        f"or {rounds} with this noise" if fits["rounds"] else "but not one round with this noise"
    )


def _fits(spec: JobSpec, parties: Parties, silos: Collection[str]) -> dict[str, float | int]:
    """What would fit at every silo."""
    fits = [parties.what_fits(silo, spec) for silo in silos]
    keys = set.intersection(*(set(fit) for fit in fits)) if fits else set()
    return {key: min(fit[key] for fit in fits) for key in sorted(keys)}

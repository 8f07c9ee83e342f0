"""Approvals: a person at a silo lets one job run there, exactly as it was quoted.

Where a silo's policy asks for an approval, the silo keeps a **request**: the job's spec, the code,
this silo's own quote, and what it would cost. A person answers with a statement signed by a key
that the policy enrols: **run**, or **refuse** with a reason. What is signed is the digest of spec,
code and quote, so a change of any of them makes a new request, to which no earlier answer fits; so
do another membership and another nonce. The answer binds the ledger's head that the person saw,
ends at a time, and serves one job only: its job's key in the ledger is reserved once, ever.

The statement is put into the entry of the reservation, so the silo's receipt names it. The silo
knows a person's public key only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from federation import statements
from federation.documents import parse
from federation.errors import ApprovalNeeded, BadInput, IntegrityError, NotFound, PolicyRefused
from federation.home import Home
from federation.jobfiles import JobFiles
from federation.jobs.base import PartyQuote
from federation.manifest import SKEW, Digest, Instant, JobId, Known, Manifest, job_id
from federation.membership import Terms
from federation.persons import Persons
from federation.policy import Policy
from federation.spec import Name, digest
from privacy.ledger import Head, Ledger, clock
from secure.keys import SigningKey

KIND = "approval"
REASON = r"[A-Z][A-Z0-9-]{0,39}"
"""What the reason of a refusal looks like: a code, which crosses to the coordinator."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Request(_Body):
    """What a person is asked to approve; `epsilon` is None where no epsilon bounds the job.

    `above` is the epsilon above which the silo's policy asked, when it did.
    """

    federation: Name
    membership: Annotated[int, Field(ge=1)]
    silo: Name
    job: JobId
    spec: dict[str, Any]
    code: Digest
    quote: dict[str, Any]
    epsilon: float | None
    above: float
    asked: Instant
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def about(self) -> str:
        """The digest of spec, code version and quote: what is signed."""
        return digest({"spec": self.spec, "code": self.code, "quote": self.quote})


class Answer(_Body):
    """What a person signs."""

    kind: Literal["approval"]
    action: Literal["run", "refuse"]
    federation: Name
    membership: Annotated[int, Field(ge=1)]
    silo: Name
    job: JobId
    about: Digest
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    head: Known
    by: Name
    at: Instant
    until: Instant
    reason: Annotated[str, Field(pattern=f"^{REASON}$")] | None

    def fits(self, request: Request) -> bool:
        """Whether this answers the very request."""
        same = ("federation", "membership", "silo", "job", "about", "nonce")
        return all(getattr(self, field) == getattr(request, field) for field in same)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands: `pending`, `given`, `refused` or `expired`, and by whose answer."""

    state: Literal["pending", "given", "refused", "expired"]
    answer: Answer | None = None


def needed(above: float, epsilon: float | None) -> bool:
    """Whether a job of this epsilon needs an approval; one that no epsilon bounds exceeds all."""
    return above == 0 or epsilon is None or epsilon > above


def read(statement: Any, policy: Policy) -> Answer | None:
    """The answer in a statement, if one of the policy's approvers signed it; else None."""
    names = {key: name for name, key in policy.approvers.items()}
    key = statement.get("key") if isinstance(statement, dict) else None
    if not isinstance(key, str) or key not in names:
        return None
    try:
        answer = parse(statements.read(statement, key, kind=KIND), Answer, KIND)
    except (BadInput, IntegrityError):
        return None
    return answer if answer.by == names[key] else None


def standing(
    request: Request, statement: Any, policy: Policy, now: datetime, *, used: bool = False
) -> Standing:
    """Where a request stands at `now`, by this silo's own clock.

    An approval that was `used` for a reservation stays given; whoever wants to end what it began
    cancels the job.
    """
    answer = read(statement, policy)
    if answer is None or not answer.fits(request) or answer.at - now > SKEW:
        return Standing("pending")
    if answer.action == "refuse":
        return Standing("refused", answer)
    lasts = min(answer.until, answer.at + timedelta(days=policy.approval_days))
    return Standing("given" if used or now <= lasts else "expired", answer)


class Approvals:
    """What awaits approval at one silo, and what persons said to it.

    `jobs` is the silo's directory of jobs. A policy that enrols the key of a party of the
    federation is `BadInput`: who submits a job does not approve it.
    """

    def __init__(
        self, silo: str, jobs: Path, policy: Callable[[], Policy], ledger: Ledger, terms: Terms
    ) -> None:
        self._silo = silo
        self._jobs = jobs
        self._read_policy = policy
        self._ledger = ledger
        self._terms = terms

    def require(
        self, manifest: Manifest, quote: PartyQuote, bound: Callable[[], float | None]
    ) -> dict[str, Any] | None:
        """The signed approval of a job, or None where the policy asks for none.

        `bound` gives the epsilon that bounds what the job releases here, None where none does.
        Raises `ApprovalNeeded` where there is no approval yet, and keeps the request;
        `PolicyRefused` where a person refused.
        """
        policy = self._policy()
        if policy.approval_above is None:
            return None
        epsilon = bound()
        if not needed(policy.approval_above, epsilon):
            return None
        files = self._files(manifest.job)
        request = self._filed(files, manifest, quote, epsilon, policy.approval_above)
        statement = files.approval()
        found = standing(request, statement, policy, clock.now())
        if found.answer is not None and found.state == "refused":
            raise PolicyRefused(
                f"silo {self._silo}: {found.answer.by} refused job {manifest.job}: "
                f"{found.answer.reason}",
                field="approval",
                value=found.answer.reason,
                allowed=None,
            )
        if found.answer is not None and found.state == "given":
            head = found.answer.head
            if self._ledger.knows(Head(head.entry, head.hash)):
                return statement
        costs = (
            "no epsilon bounds what it releases" if epsilon is None else f"epsilon {epsilon:.3g}"
        )
        raise ApprovalNeeded(
            f"silo {self._silo} asks for approval ({costs}; up to {policy.approval_above:g} its "
            f"policy lets jobs run without) by {' or '.join(sorted(policy.approvers))}: "
            f"`tacit job approve {manifest.job} --silo {self._silo} --key FILE` there",
            field="approval",
            value=request.about,
            allowed=sorted(policy.approvers),
        )

    @property
    def days(self) -> int:
        """How many days an approval that is given now holds."""
        return self._policy().approval_days

    def request(self, job: str) -> Request:
        """What awaits approval of a job here, or `NotFound`."""
        document = self._files(job).request()
        if document is None:
            raise NotFound(
                f"silo {self._silo}: job {job} asked for no approval here; see tacit job list",
                field="job",
                value=job,
            )
        return parse(document, Request, "request.json")

    def standing(self, job: str) -> Standing:
        """Where the request of a job stands now."""
        files = self._files(job)
        return standing(
            self.request(job), files.approval(), self._policy(), clock.now(), used=files.reserved
        )

    def answer(self, job: str, key: SigningKey, *, refuse: str | None = None) -> Answer:
        """Sign and keep a person's answer: the job may run, or, with a reason, it may not.

        Raises `BadInput` where the policy does not enrol the key.
        """
        request, policy, now = self.request(job), self._policy(), clock.now()
        by = Persons(self._silo, policy, self._terms).name(key.public)
        head = self._ledger.head()
        answer = Answer(
            kind="approval",
            action="run" if refuse is None else "refuse",
            federation=request.federation,
            membership=request.membership,
            silo=self._silo,
            job=job,
            about=request.about,
            nonce=request.nonce,
            head=Known(entry=head.seq, hash=head.hash),
            by=by,
            at=now,
            until=now + timedelta(days=policy.approval_days),
            reason=refuse,
        )
        self._files(job).keep_approval(statements.sign(answer.model_dump(mode="json"), key))
        return answer

    def withdraw(self, job: str) -> None:
        """Drop the request of a job that was ended."""
        self._files(job).withdraw()

    def _policy(self) -> Policy:
        policy = self._read_policy()
        Persons(self._silo, policy, self._terms)
        return policy

    def _filed(
        self,
        files: JobFiles,
        manifest: Manifest,
        quote: PartyQuote,
        epsilon: float | None,
        above: float,
    ) -> Request:
        """The request for this very job, kept since before or from now on."""
        request = Request(
            federation=self._terms.federation,
            membership=manifest.membership,
            silo=self._silo,
            job=manifest.job,
            spec=manifest.spec,
            code=manifest.code,
            quote=quote.document(),
            epsilon=epsilon,
            above=above,
            asked=clock.now(),
            nonce=secrets.token_hex(16),
        )
        document = files.request()
        if document is not None:
            kept = parse(document, Request, "request.json")
            if (kept.about, kept.membership) == (request.about, request.membership):
                return kept
        files.keep_request(request.model_dump(mode="json"))
        return request

    def _files(self, job: str) -> JobFiles:
        return JobFiles(self._jobs / job_id(job))


@dataclass(frozen=True, slots=True)
class Line:
    """One request at a silo as people see it; `about` is what is signed.

    `by`, `at` and `until` are those of the answer, `reason` of a refusal. Of a silo whose files are
    elsewhere, `state` is "elsewhere" and the price is not told (`waiting.lines`).
    """

    silo: str
    job: str
    state: str
    kind: str
    dataset: str
    epsilon: float | None
    delta: float | None
    about: str
    asked: datetime
    approvers: tuple[str, ...]
    by: str = ""
    at: datetime | None = None
    until: datetime | None = None
    reason: str = ""


def lines(home: Home, silo: str, now: datetime) -> tuple[Line, ...]:
    """The requests at a silo, oldest first, from its files alone: no key and no ledger is opened.

    A file that says something else than was written there is passed over.
    """
    policy = home.silo_config(silo).policy
    found = []
    for path in home.silo(silo).jobs.glob("*/request.json"):
        files = JobFiles(path.parent)
        try:
            request = parse(files.request(), Request, path.name)
            statement = files.approval()
        except (BadInput, IntegrityError):
            continue
        stands = standing(request, statement, policy, now, used=files.reserved)
        answer = stands.answer
        found.append(
            Line(
                silo=silo,
                job=request.job,
                state=stands.state,
                kind=str(request.spec.get("kind")),
                dataset=str(request.spec.get("dataset")),
                epsilon=request.epsilon,
                delta=float(request.quote["delta"]),
                about=request.about,
                asked=request.asked,
                approvers=tuple(sorted(policy.approvers)),
                by=answer.by if answer else "",
                at=answer.at if answer else None,
                until=answer.until if answer else None,
                reason=(answer.reason or "") if answer else "",
            )
        )
    return tuple(sorted(found, key=lambda line: (line.asked, line.job)))

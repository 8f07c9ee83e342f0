"""The two statements by which a coordinator moves a silo: the manifest and the go.

A **manifest** asks for a reservation: a job, its spec, its quote at every silo, and the
federation, membership and code that all of it is meant for. A **go** carries every silo's
reservation of that manifest, and only then does anybody start.

Both are read strictly: a field too many, too few or of another type is `BadInput`, a signature or
a digest that does not agree `IntegrityError`. Nothing is written before they have passed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from federation import jobs, statements
from federation.documents import parse
from federation.errors import BadInput, IntegrityError
from federation.membership import Membership
from federation.spec import JobSpec, Name, digest
from federation.version import code_version
from privacy.errors import LedgerTampered
from privacy.ledger import Receipt
from secure.keys import verify

MANIFEST_LIFE = timedelta(minutes=10)
SKEW = timedelta(minutes=2)
JOB = r"[a-z0-9][a-z0-9._-]{0,63}"


def _instant(value: object) -> object:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


JobId = Annotated[str, Field(pattern=f"^{JOB}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]


class _Body(BaseModel):
    """The body of a statement: every field of its own type, and no other field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Quoted(_Body):
    """One silo's quote as it stands in a manifest: `PartyQuote.document`."""

    silo: Name
    unit: str
    delta: Annotated[float, Field(gt=0, lt=1)]
    event: dict[str, Any]
    plan: dict[str, Any]
    releases: dict[Name, Annotated[int, Field(ge=0)]]
    refundable: bool


class Known(_Body):
    """The newest entry of a silo's ledger that the coordinator has a receipt of."""

    entry: Annotated[int, Field(ge=0)]
    hash: Digest


class Manifest(_Body):
    """What a manifest says. `membership_digest` tells apart what a version number cannot.

    A silo whose ledger lacks the head that the coordinator knows of it reserves nothing.
    """

    kind: Literal["manifest"]
    federation: Name
    membership: Annotated[int, Field(ge=1)]
    membership_digest: Digest
    job: JobId
    spec: dict[str, Any]
    quotes: Annotated[dict[Name, Quoted], Field(min_length=1)]
    heads: dict[Name, Known]
    code: Digest
    issued: Instant
    expires: Instant
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Go(_Body):
    """What a go says: the digest of the manifest, and each silo's reservation of it."""

    kind: Literal["go"]
    job: JobId
    manifest: Digest
    receipts: dict[Name, dict[str, Any]]


def job_id(job: object) -> str:
    """The id of a job, once it is sure that it can be a part of a path (`BadInput`)."""
    if not isinstance(job, str) or re.fullmatch(JOB, job) is None:
        raise BadInput(
            "job: not the id of a job",
            field="job",
            value=job if isinstance(job, str) else None,
            allowed=JOB,
        )
    return job


def read_manifest(statement: Any, coordinator: str) -> tuple[Manifest, str]:
    """The manifest in a statement of the coordinator, and its digest."""
    body = statements.read(statement, coordinator, kind="manifest")
    return parse(body, Manifest, "manifest"), digest(body)


def spec_of(manifest: Manifest) -> JobSpec:
    """The spec that a manifest carries, which must be whole: no default is left to fill in."""
    spec = parse(manifest.spec, jobs.kind(manifest.spec.get("kind"), "manifest").Spec, "spec")
    if spec.digest() != digest(manifest.spec):
        raise IntegrityError("the manifest's spec is not in its canonical form", field="spec")
    return spec


def check_time(manifest: Manifest, now: datetime) -> None:
    """Refuse a manifest that is not valid at `now`, by this silo's own clock."""
    issued, expires = manifest.issued, manifest.expires
    fresh = issued - now <= SKEW and now - expires <= SKEW
    if not (fresh and timedelta(0) < expires - issued <= MANIFEST_LIFE):
        raise IntegrityError(
            "the manifest is not valid now; compare the clocks of silo and coordinator",
            field="manifest",
            value=f"issued {issued.isoformat()}, expires {expires.isoformat()}",
            allowed=f"{MANIFEST_LIFE} from issue, {SKEW} of skew",
        )


def check_agreed(manifest: Manifest, membership: Membership) -> None:
    """Refuse a manifest for another federation, membership or code than is here now."""
    named = (manifest.membership, manifest.membership_digest)
    current = (membership.version, membership.digest)
    if manifest.federation != membership.terms.federation:
        raise IntegrityError(
            "the manifest is for another federation",
            field="federation",
            value=manifest.federation,
            allowed=membership.terms.federation,
        )
    if named != current:
        raise IntegrityError(
            f"the manifest names membership {manifest.membership} ({named[1][:8]}), the silos "
            f"signed {membership.version} ({current[1][:8]})",
            field="membership",
            value=manifest.membership,
            allowed=membership.version,
        )
    if manifest.code != code_version():
        raise IntegrityError(
            "the coordinator runs other code than this silo", field="code", value=manifest.code
        )
    strangers = sorted(set(manifest.quotes) - set(membership.terms.silos))
    if strangers:
        raise IntegrityError(
            f"the manifest names silos that are no members: {', '.join(strangers)}",
            field="quotes",
            value=strangers,
            allowed=sorted(membership.terms.silos),
        )


def check_go(
    statement: Any,
    *,
    coordinator: str,
    manifest: Manifest,
    manifest_digest: str,
    keys: Mapping[str, str],
    own: Receipt,
) -> str:
    """Check that a go carries every silo's reservation of this very manifest; return its digest.

    `own` is the reservation in this silo's ledger: what the go says of it must be the same.
    """
    body = statements.read(statement, coordinator, kind="go")
    go = parse(body, Go, "go")
    if go.job != manifest.job or go.manifest != manifest_digest:
        raise IntegrityError("the go is for another job or manifest", field="go")
    if set(go.receipts) != set(manifest.quotes):
        raise IntegrityError(
            "the go does not carry the reservations of exactly the silos of its manifest",
            field="receipts",
            value=sorted(go.receipts),
            allowed=sorted(manifest.quotes),
        )
    for silo, document in go.receipts.items():
        wanted = {
            "kind": "reserve",
            "job": manifest.job,
            "key": manifest.job,
            "digest": manifest_digest,
        }
        try:
            receipt = Receipt.read(document)
            receipt.check(keys[silo], verify)
            said = {name: receipt.data.get(name) for name in wanted}
        except (LedgerTampered, RecursionError):
            said = {}
        if said != wanted or receipt.silo != silo:
            raise IntegrityError(f"the go lacks the reservation of {silo}", field="go", value=silo)
    if go.receipts[own.silo] != own.document():
        raise IntegrityError("the go carries another reservation of this silo", field="go")
    return digest(body)

"""The coordinator's part in enrolment: it admits, gathers signatures, renews and revokes.

Whatever changes the federation begins a new version of the membership, which every silo signs
again; the bundles for all silos elsewhere are written anew each time. One such command runs at a
time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.access import ExchangeConfig
from federation.books import open_mirror
from federation.documents import load_yaml, parse, read_yaml
from federation.engines import check_coordinator
from federation.errors import BadInput, IntegrityError, NotFound
from federation.home import Home
from federation.manifest import SKEW
from federation.membership import Membership
from federation.settings import Federation
from federation.templates import federation_text
from infra import certificates, exchange, nats
from infra.enrolment import documents
from infra.enrolment.documents import Bundle, Request
from infra.exchange import User
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey, fingerprint, same_fingerprint


@dataclass(frozen=True)
class Outcome:
    """What a command did: the membership now, each silo's bundle, and the exchange.

    `reloaded`: whether a running exchange here has taken up a change of its users.
    """

    membership: Membership
    bundles: dict[str, Path]
    reloaded: bool


def admit(home: Home, document: dict[str, Any], compared: str | None) -> tuple[str, Outcome]:
    """Admit a silo, or answer a member who asks again; returns the silo's name too.

    A new silo needs `compared`, its key's fingerprint as its people said it. A member is known by
    its key. Raises `IntegrityError` for another fingerprint, an altered, replayed or foreign
    request, or one from the future; `BadInput` where the name is another's.
    """
    request, public = documents.read_request(document)
    with _alone(home):
        federation = home.federation()
        if not exchange.is_here(home):
            raise NotFound(
                f"{home.root} has no exchange: `tacit up` makes one for silos on this machine, "
                "`tacit init --exchange HOST:PORT` for silos elsewhere",
                field="exchange",
                value=str(home.root),
            )
        _check_meant(request, federation)
        known = federation.silos.get(request.silo)
        if compared is None and known is None:
            raise BadInput(
                f"{request.silo} is new here: ask its people, by telephone or face to face, for "
                "the fingerprint that `tacit silo enrol` printed, and give it with --fingerprint",
                field="fingerprint",
            )
        if compared is not None and not same_fingerprint(compared, fingerprint(public)):
            raise IntegrityError(
                f"the request of {request.silo} was not made by the key of this fingerprint; "
                "somebody else made it, or changed it on its way",
                field="fingerprint",
                value=fingerprint(public),
                allowed=compared,
            )
        if not _admitted(home, document, request, known=known is not None):
            _check_name(home, request, public, known.public_key if known else None)
            certificate = certificates.issue_client(
                home.exchange, request.silo, request.certificate_request
            )
            said = {
                "public_key": public,
                "sizes": {n: s.model_dump(exclude_none=True) for n, s in request.sizes.items()},
            }
            _rewrite(home, lambda facts: facts["silos"].update({request.silo: said}))
            if request.silo in home.silo_names():
                exchange.issue_here(home, request.silo)
            else:
                exchange.put_user(home, request.silo, User(request.nkey, certificate))
            documents.write_plain(_last(home, request.silo), document)
        return request.silo, _publish(home)


def gather(home: Home, signatures: Iterable[dict[str, Any]]) -> Outcome:
    """Add signatures to the membership that `federation.yaml` amounts to now; write the bundles.

    Raises `BadInput` for a signature of another version, `IntegrityError` for one that does not
    agree; those before it are kept.
    """
    with _alone(home):
        membership = _propose(home)
        for document in signatures:
            said = documents.read_signature(document)
            if (said.federation, said.version) != (membership.terms.federation, membership.version):
                raise BadInput(
                    f"a signature of {said.federation}, membership {said.version}; the one to sign "
                    f"is {membership.terms.federation}, membership {membership.version}: "
                    f"{said.silo} takes in its newest bundle and signs again",
                    field="version",
                    value=said.version,
                    allowed=membership.version,
                )
            membership = membership.with_signature(said.silo, said.signature)
            membership.save(home)
        return _publish(home)


def revoke(home: Home, silo: str) -> Outcome:
    """Cut a silo off, now, and begin a membership without it.

    The exchange closes its connections and knows it no more; the others sign the new version. What
    the silo's ledger has spent and the coordinator's mirror of it stay.
    """
    with _alone(home):
        _check_member(home, silo)
        exchange.drop_user(home, silo)
        if exchange.is_here(home):  # first of all, and whatever comes of the rest
            exchange.configure(home)
        _rewrite(home, lambda facts: facts["silos"].pop(silo))
        _bundle(home, silo).unlink(missing_ok=True)
        return _publish(home)


def renew(home: Home, *, new_key: bool) -> Outcome:
    """Issue the certificates of the exchange's server and of the coordinator anew.

    With `new_key` the coordinator gets a new identity key too: a new membership, whose bundles the
    silos take only with the new key's fingerprint. The old key is deleted.
    """
    with _alone(home):
        if exchange.is_here(home):
            exchange.issue_server(home)
            exchange.issue_here(home, "coordinator")
        if new_key:
            _rotate(home)
        return _publish(home)


def renew_here(home: Home, silo: str) -> Outcome:
    """Issue the certificate of a silo that lives under the coordinator's own home anew."""
    with _alone(home):
        _check_member(home, silo)
        exchange.issue_here(home, silo)
        return _publish(home)


def _publish(home: Home) -> Outcome:
    """Write the membership of now, the exchange's configuration, and every bundle."""
    membership = _propose(home)
    if not exchange.is_here(home):
        return Outcome(membership, {}, False)
    reloaded = exchange.configure(home)
    key = SigningKey.load(home.coordinator_key)
    bundles = {}
    for silo, user in exchange.users(home).items():
        if silo in membership.terms.silos and silo not in home.silo_names():
            bundle = Bundle(
                silo=silo,
                federation=home.federation_file.read_text(),
                membership=membership,
                exchange=load_yaml(home.exchange_file, ExchangeConfig),
                authority=(home.exchange / "ca.pem").read_text(),
                certificate=user.certificate,
            )
            bundles[silo] = documents.write(_bundle(home, silo), bundle, key)
    return Outcome(membership, bundles, reloaded)


def _propose(home: Home) -> Membership:
    """The membership of `federation.yaml` as it is now, which must name this coordinator's key."""
    key, named = SigningKey.load(home.coordinator_key), home.federation().coordinator
    if key.public != named:
        raise IntegrityError(
            f"{home.federation_file} names another coordinator's key than the one here",
            field="coordinator",
            value=named,
            allowed=key.public,
        )
    membership = Membership.proposed(home)
    membership.save(home)
    return membership


def _check_member(home: Home, silo: str) -> None:
    known = sorted(home.federation().silos)
    if silo not in known:
        raise NotFound(
            f"no silo {silo!r} in this federation", field="silo", value=silo, allowed=known
        )


def _check_meant(request: Request, federation: Federation) -> None:
    """Refuse a request that is for another federation or other schemas, or not yet issued."""
    if (request.federation, request.coordinator) != (federation.name, federation.coordinator):
        raise IntegrityError(
            f"the request is for federation {request.federation} of the coordinator "
            f"{fingerprint(request.coordinator)}; this one is {federation.name} of "
            f"{fingerprint(federation.coordinator)}",
            field="federation",
            value=request.federation,
            allowed=federation.name,
        )
    if set(request.schemas) != set(request.sizes):
        raise IntegrityError("the request declares sizes of other data sets", field="sizes")
    for name, said in request.schemas.items():
        if federation.dataset(name).digest() != said:
            raise IntegrityError(
                f"{request.silo} asked with another schema of {name} than this federation's; give "
                "it federation.yaml again, and let it ask again",
                field=f"schemas.{name}",
                value=said,
                allowed=federation.dataset(name).digest(),
            )
    if not nats.is_public(request.nkey):
        raise BadInput("nkey: not the public NKEY of a user", field="nkey", value=request.nkey)
    now = datetime.now(UTC)
    if request.issued - now > SKEW:
        raise IntegrityError(
            f"the request was issued at {request.issued:%Y-%m-%d %H:%M:%S} UTC, and here it is "
            f"{now:%Y-%m-%d %H:%M:%S}: compare the clocks, set the wrong one, and let "
            f"{request.silo} ask again",
            field="issued",
            value=request.issued.isoformat(),
            allowed=f"at most {SKEW} ahead",
        )


def _admitted(home: Home, document: dict[str, Any], request: Request, *, known: bool) -> bool:
    """Whether this very request was admitted and stands; an older one is refused as replayed."""
    path = _last(home, request.silo)
    if not path.exists():
        return False
    last = documents.read(path)
    if last == document and known:
        return True
    if request.issued <= documents.read_request(last)[0].issued:
        raise IntegrityError(
            f"a newer request of {request.silo} was admitted already, or this one before the silo "
            f"was revoked: it is a replay, or the silo's clock went back; `tacit silo renew "
            f"{request.silo}` there makes a new one",
            field="issued",
            value=request.issued.isoformat(),
            allowed=f"> {documents.read_request(last)[0].issued.isoformat()}",
        )
    return False


def _check_name(home: Home, request: Request, public: str, known: str | None) -> None:
    """Refuse a name, or an NKEY, that is or was another's."""
    with open_mirror(home) as mirror:
        before = {receipt.public for receipt in mirror.receipts(silo=request.silo)}
    if known is not None:
        before.add(known)
    if before - {public}:
        raise BadInput(
            f"silo {request.silo} is known here by another key, "
            f"{fingerprint(min(before - {public}))}. A silo's key is its ledger's for life; a silo "
            "with another key takes another name",
            field="silo",
            value=request.silo,
        )
    taken = {user.nkey: party for party, user in exchange.users(home).items()}
    if taken.get(request.nkey, request.silo) != request.silo:
        raise BadInput(
            f"the request of {request.silo} names the NKEY of {taken[request.nkey]}; each party "
            "makes its own",
            field="nkey",
            value=request.nkey,
        )


def _rewrite(home: Home, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the public facts, once it is sure that they are still whole.

    A limit on a subject's silos that is above their number goes: it means all of them, as none
    does, and would mean less than was meant once another silo came.
    """
    facts = read_yaml(home.federation_file)
    facts["silos"] = facts.get("silos") or {}
    change(facts)
    most = facts.get("max_silos_per_subject")
    if most is not None and most > len(facts["silos"]):
        del facts["max_silos_per_subject"]
    parse(facts, Federation, str(home.federation_file))
    write_durably(home.federation_file, federation_text(facts).encode(), 0o644)


def _rotate(home: Home) -> None:
    """Put a new identity key in the place of the coordinator's; a crash half-way goes on here."""
    path = home.coordinator_key.with_name("key.new")
    if not path.exists():
        SigningKey.generate().save(path)
    public = SigningKey.load(path).public
    _rewrite(home, lambda facts: facts.update({"coordinator": public}))
    path.replace(home.coordinator_key)


def _last(home: Home, silo: str) -> Path:
    """The request of a silo that was admitted last; it outlives a revocation."""
    return home.coordinator / "requests" / f"{silo}.{documents.REQUEST}.json"


def _bundle(home: Home, silo: str) -> Path:
    return home.coordinator / "bundles" / f"{silo}.{documents.BUNDLE}.json"


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Keep any other command from changing the federation meanwhile."""
    check_coordinator(home)
    lock = home.coordinator / "enrolment.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

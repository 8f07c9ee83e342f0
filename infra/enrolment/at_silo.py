"""A silo's part in enrolment: it makes its keys, asks, compares, signs, and installs what it gets.

Nothing here listens and nothing connects: documents are read from files and written to files, and
people carry them. What a silo believes is its own federation.yaml, its own key, and what its people
compared with the others' people.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from federation.documents import load_yaml, parse
from federation.errors import BadInput, IntegrityError, NotFound
from federation.home import Home
from federation.init import declared_sizes, plan_silo, settle
from federation.membership import Membership, Terms
from federation.plain_yaml import NotPlain, load
from federation.settings import Federation, Sizes
from infra import certificates, nats
from infra.enrolment import documents
from infra.enrolment.documents import Bundle, Request, Signature
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey, fingerprint, same_fingerprint


def enrol(
    home: Home,
    name: str,
    invitation: Path | None,
    sources: Mapping[str, str],
    sizes: Mapping[str, str],
    *,
    epsilon: float = 10.0,
    delta: float = 1e-5,
) -> Path:
    """Make a silo at its own host: keys, settings, ledger with its accounts; ask to be admitted.

    `invitation` is the federation.yaml that the coordinator gave out, where this home has none
    yet. Everything is checked before the first file is written. Returns the request.
    """
    federation = _invited(home, invitation)
    if home.silo(name).directory.exists():
        raise BadInput(
            f"{home.silo(name).directory}: a silo lives here already; `tacit silo renew {name}` "
            "asks again",
            field="name",
            value=name,
            allowed="a name that is not taken in this home",
        )
    if name in (*federation.silos, "coordinator"):
        raise BadInput(
            f"{name!r} is taken in federation {federation.name}",
            field="name",
            value=name,
            allowed=f"none of {', '.join(sorted((*federation.silos, 'coordinator')))}",
        )
    config, declared = plan_silo(federation, name, sources, sizes, epsilon=epsilon, delta=delta)
    home.root.mkdir(parents=True, exist_ok=True)
    if invitation is not None and not home.federation_file.exists():
        write_durably(home.federation_file, invitation.read_bytes(), 0o644)
    settle(home, config, SigningKey.generate())
    return _ask(home, name, declared)


def renew(home: Home, name: str, sizes: Mapping[str, str]) -> Path:
    """Ask for a new certificate for a new key, before or after the old one has ended.

    `sizes` declares others than before, by data set; they have to fit the source that the silo has
    of it (`BadInput`). A missing seed is made anew, and the exchange will know the silo by that
    one. Returns the request.
    """
    config, federation = home.silo_config(name), home.federation()
    declared = dict(_declared(home, name, federation))
    for called, text in sizes.items():
        dataset, source = federation.dataset(called), config.sources[config.source_of(called)]
        declared[called] = declared_sizes(called, text, dataset, source)
    return _ask(home, name, declared)


def install(home: Home, document: dict[str, Any], compared: str | None = None) -> Membership:
    """Check a bundle against what this silo knows, and install what it brings.

    `compared` is the fingerprint of the coordinator's key where that is another than before. What
    the bundle says of this silo must be what the silo itself asked for. Raises `IntegrityError` and
    leaves everything as it was where anything does not agree.
    """
    bundle = documents.read_bundle(document, _coordinator_of(home, document, compared))
    name = bundle.silo
    if name not in home.silo_names():
        raise BadInput(
            f"the bundle is for silo {name!r}, which is not here",
            field="silo",
            value=name,
            allowed=list(home.silo_names()),
        )
    try:
        federation = parse(load(bundle.federation), Federation, "federation in bundle")
    except NotPlain as error:
        raise BadInput(f"federation in bundle: {error.reason}", field="federation") from None
    _check_facts(home, name, federation, document["key"])
    membership = _newer(home, name, federation, bundle)
    certificates.install(
        home.asked_key(name), bundle.certificate, bundle.authority, name, home.transport(name)
    )
    exchange = yaml.safe_dump(bundle.exchange.model_dump(mode="json"))
    write_durably(home.authority, bundle.authority.encode(), 0o644)
    write_durably(home.exchange_file, exchange.encode(), 0o644)
    write_durably(home.federation_file, bundle.federation.encode(), 0o644)
    membership.save(home)
    return membership


def countersign(home: Home, name: str, compared: str | None) -> tuple[Membership, Path | None]:
    """Sign the membership whose fingerprint was compared, and write the signature to be carried.

    Without a fingerprint nothing is signed, and the membership is only shown: unless every party
    lives under this home, where there is nobody to compare with and nowhere to carry it.
    """
    if all_here(home):
        return Membership.countersign(home, name, fingerprint=compared), None
    if compared is None:
        return Membership.proposed(home), None
    signed = Membership.countersign(home, name, fingerprint=compared)
    body = Signature(
        federation=signed.terms.federation,
        version=signed.version,
        silo=name,
        signature=signed.signatures[name],
    )
    return signed, documents.write(_path(home, name, documents.SIGNATURE), body)


def all_here(home: Home) -> bool:
    """Whether every party of the federation lives under this home."""
    return home.coordinator_key.exists() and set(home.federation().silos) <= set(home.silo_names())


def _invited(home: Home, invitation: Path | None) -> Federation:
    """The federation that a silo is to join; one home is of one federation."""
    if invitation is None:
        if not home.federation_file.exists():
            raise NotFound(
                f"{home.root}: no federation.yaml here; name the one that the coordinator gave "
                "you with --federation FILE",
                field="federation",
                value=str(home.federation_file),
            )
        return home.federation()
    said = load_yaml(invitation, Federation)
    if home.federation_file.exists() and home.federation().digest() != said.digest():
        raise BadInput(
            f"{home.root} is the home of another federation, or of another state of this one",
            field="federation",
            value=str(invitation),
            allowed="a new directory by --home, or no --federation",
        )
    return said


def _ask(home: Home, name: str, declared: Mapping[str, Sizes]) -> Path:
    federation, key = home.federation(), SigningKey.load(home.silo_config(name).key)
    if not home.seed(name).exists():
        nats.make_seed(home.seed(name))
    request = Request(
        federation=federation.name,
        coordinator=federation.coordinator,
        silo=name,
        schemas={called: federation.dataset(called).digest() for called in declared},
        sizes=dict(declared),
        nkey=nats.public_key(home.seed(name)),
        certificate_request=certificates.make_request(home.asked_key(name), name),
        issued=datetime.now(UTC),
    )
    return documents.write(_path(home, name, documents.REQUEST), request, key)


def _path(home: Home, name: str, what: str) -> Path:
    return home.silo(name).directory / f"{name}.{what}.json"


def asked_sizes(home: Home, name: str) -> dict[str, Sizes] | None:
    """The sizes that a silo declared in its last request; None where it never made one."""
    path = _path(home, name, documents.REQUEST)
    return documents.read_request(documents.read(path))[0].sizes if path.exists() else None


def _declared(home: Home, name: str, federation: Federation) -> dict[str, Sizes]:
    """The sizes that a silo declared last: in its own request, else in federation.yaml."""
    asked = asked_sizes(home, name)
    if asked is not None:
        return asked
    if name not in federation.silos:
        raise NotFound(
            f"silo {name} never declared its sizes; say them with --size DATASET=TRAIN/TEST",
            field="size",
            value=name,
        )
    return federation.silos[name].sizes


def _coordinator_of(home: Home, document: dict[str, Any], compared: str | None) -> str:
    """The key that a bundle must be signed by: the known one, or one that people compared."""
    known, said = home.federation().coordinator, document.get("key")
    if said == known or not isinstance(said, str):
        return known
    try:
        mark = fingerprint(said)
    except ValueError:
        mark = ""
    if compared is not None and mark and same_fingerprint(compared, mark):
        return said
    raise IntegrityError(
        f"the bundle is signed by {mark or 'no key'}, and the coordinator of this home's "
        f"federation is {fingerprint(known)}. It is of another federation, or the coordinator has "
        "a new key: compare its fingerprint with its people, then give it with --fingerprint",
        field="coordinator",
        value=mark,
        allowed=fingerprint(known),
    )


def _check_facts(home: Home, name: str, federation: Federation, signer: str) -> None:
    """Refuse facts of another federation, or others about this silo than its own."""
    key = SigningKey.load(home.silo_config(name).key)
    facts = federation.silos.get(name)
    wanted: list[tuple[str, object, object]] = [
        ("name", federation.name, home.federation().name),
        ("coordinator", federation.coordinator, signer),
        ("public_key", facts and facts.public_key, key.public),
        ("sizes", facts and facts.sizes, _declared(home, name, home.federation())),
    ]
    for field, said, own in wanted:
        if said != own:
            raise IntegrityError(
                f"the bundle's federation.yaml says another {field} than silo {name} knows; "
                "install nothing, and ask the coordinator",
                field=field,
                value=said if isinstance(said, str) else None,
                allowed=own if isinstance(own, str) else None,
            )


def _newer(home: Home, name: str, federation: Federation, bundle: Bundle) -> Membership:
    """The bundle's membership with this silo's signature, where it has signed the very same."""
    said = Membership.read(bundle.membership.model_dump(mode="json"), "membership in bundle")
    if said.terms != Terms.of(federation, said.version):
        raise IntegrityError(
            "the bundle's membership is not that of its federation.yaml", field="membership"
        )
    try:
        known = Membership.load(home)
    except NotFound:
        return said
    if (known.version, known.digest) == (said.version, said.digest):
        return Membership(terms=said.terms, signatures=known.signatures | said.signatures)
    if said.version <= known.version:
        raise IntegrityError(
            f"the bundle brings membership {said.version}, and {name} has {known.version} already: "
            "an old bundle, or two memberships of one version",
            field="membership",
            value=said.version,
            allowed=f"> {known.version}",
        )
    return said

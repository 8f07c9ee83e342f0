"""The documents of enrolment: JSON files that people carry between silos and coordinator.

    federation.yaml       coordinator -> silo   the invitation: name, coordinator's key, schemas
    NAME.request.json     silo -> coordinator   signed by the silo's identity key
    NAME.bundle.json      coordinator -> silo   signed by the coordinator's
    NAME.signature.json   silo -> coordinator   the silo's signature of the membership

None holds a secret. What is signed can be carried by anybody; that the keys are whose they should
be is what fingerprints are compared for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from federation import statements
from federation.access import ExchangeConfig
from federation.documents import parse
from federation.errors import BadInput, IntegrityError, NotFound
from federation.manifest import Instant
from federation.membership import Membership
from federation.settings import PublicKey, Sizes
from federation.spec import Block, Name
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey

LARGEST = 2**22
"""Bytes that a document may have: a bundle carries `federation.yaml`, at most 1 MiB."""

REQUEST, BUNDLE, SIGNATURE = "request", "bundle", "signature"


class Request(Block):
    """What a silo says of itself when it asks to be admitted, or for a new certificate.

    `schemas` are the digests of those data sets that it declares sizes of. `issued` orders the
    requests of one silo: an older one than the last that was admitted is refused.
    """

    kind: Literal["enrolment request"] = "enrolment request"
    federation: Name
    coordinator: PublicKey
    silo: Name
    schemas: dict[Name, str]
    sizes: Annotated[dict[Name, Sizes], Field(min_length=1)]
    nkey: Annotated[str, Field(max_length=64)]
    certificate_request: Annotated[str, Field(max_length=4096)]
    issued: Instant


class Bundle(Block):
    """What a silo gets: the federation's public facts, the membership so far, its certificate."""

    kind: Literal["enrolment bundle"] = "enrolment bundle"
    silo: Name
    federation: str
    membership: Membership
    exchange: ExchangeConfig
    authority: Annotated[str, Field(max_length=8192)]
    certificate: Annotated[str, Field(max_length=8192)]


class Signature(Block):
    """A silo's signature of a membership; the membership's terms are what is signed."""

    kind: Literal["membership signature"] = "membership signature"
    federation: Name
    version: int
    silo: Name
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def read(path: Path) -> dict[str, Any]:
    """Read a document; one that is none is `BadInput`."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        document = json.loads(data) if len(data) <= LARGEST else None
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", field="file", value=str(path)) from None
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BadInput(
            f"{path}: not a document of enrolment",
            field="file",
            value=str(path),
            allowed=f"JSON of at most {LARGEST} bytes",
        )
    return document


def kind(document: dict[str, Any]) -> str:
    """Which kind of document it says it is; the reader of that kind checks the rest."""
    body = document.get("body", document)
    said = body.get("kind") if isinstance(body, dict) else None
    kinds = {
        "enrolment request": REQUEST,
        "enrolment bundle": BUNDLE,
        "membership signature": SIGNATURE,
    }
    return kinds.get(said, "") if isinstance(said, str) else ""


def read_request(document: dict[str, Any]) -> tuple[Request, str]:
    """The request in a document and the key that signed it, whosever that is."""
    public = document.get("key")
    if not isinstance(public, str):
        raise IntegrityError("a request without a key", field="key")
    body = statements.read(document, public, kind="enrolment request")
    return parse(body, Request, "request"), public


def read_bundle(document: dict[str, Any], coordinator: str) -> Bundle:
    """The bundle in a document that the coordinator signed."""
    body = statements.read(document, coordinator, kind="enrolment bundle")
    return parse(body, Bundle, "bundle")


def read_signature(document: dict[str, Any]) -> Signature:
    """The signature in a document; whether it agrees is the membership's to say."""
    return parse(document, Signature, "signature")


def write(path: Path, body: Block, key: SigningKey | None = None) -> Path:
    """Write a document, signed where a key is given; return its path."""
    plain = body.model_dump(mode="json")
    return write_plain(path, plain if key is None else statements.sign(plain, key))


def write_plain(path: Path, document: dict[str, Any]) -> Path:
    """Write a document as it is; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, json.dumps(document, indent=1, sort_keys=True).encode(), 0o644)
    return path

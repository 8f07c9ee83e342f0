"""The membership: which keys and schemas a federation agreed on, countersigned by every silo.

One versioned document names each silo's key, each schema's digest and the digest of
`federation.yaml`. A silo signs it after comparing fingerprints out of band, and takes part in no
job under another version. A changed federation needs a new version, signed by all again.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from federation import statements
from federation.documents import parse
from federation.errors import BadInput, IntegrityError, NotFound
from federation.home import Home
from federation.settings import Federation, PublicKey
from federation.spec import Block, Name, digest
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey, fingerprint, same_fingerprint

_KIND = "membership"


class Terms(Block):
    """What is signed."""

    kind: Literal["membership"] = "membership"
    version: Annotated[int, Field(ge=1)]
    federation: Name
    digest: str
    coordinator: PublicKey
    silos: dict[Name, PublicKey]
    schemas: dict[Name, str]

    @classmethod
    def of(cls, federation: Federation, version: int) -> Terms:
        """The terms that a federation's public facts amount to."""
        return cls(
            version=version,
            federation=federation.name,
            digest=federation.digest(),
            coordinator=federation.coordinator,
            silos={name: facts.public_key for name, facts in federation.silos.items()},
            schemas={name: dataset.digest() for name, dataset in federation.datasets.items()},
        )


class Membership(Block):
    """The terms with the signatures gathered so far, by silo, in hexadecimal."""

    terms: Terms
    signatures: dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]]

    @classmethod
    def load(cls, home: Home) -> Self:
        """Read a home's membership and verify every signature on it.

        Raises `NotFound` where there is none, `IntegrityError` where a signature does not agree.
        """
        path = home.membership_file
        try:
            return cls.read(json.loads(path.read_text()), str(path))
        except FileNotFoundError:
            raise NotFound(
                f"{path}: nobody has signed yet; run `tacit silo countersign NAME` at each silo",
                field="membership",
                value=str(path),
            ) from None
        except ValueError:
            raise IntegrityError(f"{path}: not JSON", field="membership") from None

    @classmethod
    def read(cls, data: Any, where: str) -> Self:
        """Read a membership from plain data and verify every signature (`IntegrityError`)."""
        try:
            membership = parse(data, cls, where)
        except BadInput as error:
            raise IntegrityError(error.message, field="membership") from None
        for silo in membership.signatures:
            membership._verify(silo)
        return membership

    @classmethod
    def proposed(cls, home: Home) -> Membership:
        """The membership that `federation.yaml` amounts to now; nothing is written.

        It is the one at hand, with its signatures, where that says the same; else a new version,
        which every silo has to sign.
        """
        federation = home.federation()
        try:
            current: Membership | None = cls.load(home)
        except NotFound:
            current = None
        if current is not None and current.terms == Terms.of(federation, current.version):
            return current
        version = 1 if current is None else current.version + 1
        return cls(terms=Terms.of(federation, version), signatures={})

    @classmethod
    def countersign(cls, home: Home, silo: str, *, fingerprint: str | None = None) -> Membership:
        """Sign the federation as `federation.yaml` states it now, as one of its silos.

        What is signed are the terms made from that file here, whatever the membership at hand
        says: where it says anything else, a new version begins, which every silo has to sign.
        With `fingerprint`, what the others read out, nothing else is signed (`IntegrityError`).
        """
        current = cls.proposed(home)
        key = SigningKey.load(home.silo_config(silo).key)
        if current.key(silo) != key.public:
            raise IntegrityError(
                f"silo {silo}: federation.yaml names another key than this silo's own",
                field="public_key",
                value=current.key(silo),
                allowed=key.public,
            )
        if fingerprint is not None and not same_fingerprint(fingerprint, current.fingerprint):
            raise IntegrityError(
                f"silo {silo}: the membership here has another fingerprint than the one given. "
                "Somebody looks at other keys, sizes or schemas: sign nothing, and compare the "
                "parties' fingerprints one by one",
                field="fingerprint",
                value=fingerprint,
                allowed=current.fingerprint,
            )
        signed = current.with_signature(silo, statements.sign(current._body(), key)["signature"])
        signed.save(home)
        return signed

    def with_signature(self, silo: str, signature: str) -> Membership:
        """The same with one more signature, which must agree (`IntegrityError`)."""
        signed = Membership(terms=self.terms, signatures={**self.signatures, silo: signature})
        signed._verify(silo)
        return signed

    def save(self, home: Home) -> None:
        """Put it in the place of the membership at hand."""
        document = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_durably(home.membership_file, document.encode(), 0o644)

    @property
    def version(self) -> int:
        """The version that manifests name."""
        return self.terms.version

    @property
    def digest(self) -> str:
        """The digest of the terms, which manifests name beside the version."""
        return digest(self._body())

    @property
    def fingerprint(self) -> str:
        """What people compare before they sign: it covers every key, size and schema.

        Where every party finds its own key in the membership and all read out one fingerprint, all
        have the same keys of all. It has 48 digits, because whoever proposes the terms could look
        for two that agree.
        """
        return fingerprint(self.digest, size=24)

    @property
    def unsigned(self) -> tuple[str, ...]:
        """The silos that have not signed yet."""
        return tuple(sorted(set(self.terms.silos) - set(self.signatures)))

    def key(self, silo: str) -> str:
        """The public key of a silo, or `NotFound`."""
        if silo not in self.terms.silos:
            raise NotFound(
                f"no silo {silo!r} in the membership; members: {', '.join(self.terms.silos)}",
                field="silo",
                value=silo,
                allowed=sorted(self.terms.silos),
            )
        return self.terms.silos[silo]

    def check(self, home: Home) -> None:
        """Compare with `federation.yaml` as it stands, and ask for every silo's signature.

        Raises `BadInput` where the federation or a schema has changed since it was signed, or a
        silo has not signed yet; `IntegrityError` where the terms are not that file's.
        """
        self.check_terms(home)
        self.check_signed()

    def check_terms(self, home: Home) -> None:
        """Compare every term with those that `federation.yaml` amounts to."""
        federation = home.federation()
        remedy = "compare the change, then run `tacit silo countersign NAME` at each silo"
        for name, dataset in federation.datasets.items():
            signed = self.terms.schemas.get(name)
            if signed != dataset.digest():
                raise BadInput(
                    f"{home.federation_file}: datasets.{name}: the schema is not the one that the "
                    f"silos signed as membership {self.version}; {remedy}",
                    field=f"datasets.{name}",
                    value=dataset.digest(),
                    allowed=signed,
                )
        if federation.digest() != self.terms.digest:
            raise BadInput(
                f"{home.federation_file}: it has changed since the silos signed membership "
                f"{self.version}; {remedy}",
                field="federation",
                value=federation.digest(),
                allowed=self.terms.digest,
            )
        said, made = self._body(), Terms.of(federation, self.version).model_dump(mode="json")
        other = sorted(name for name in made if said[name] != made[name])
        if other:
            raise IntegrityError(
                f"{home.membership_file}: {', '.join(other)}: not what {home.federation_file} "
                f"says, though it bears its digest; {remedy}",
                field=other[0],
                value=said[other[0]],
                allowed=made[other[0]],
            )

    def check_signed(self) -> None:
        """Ask for the signature of every silo (`BadInput`)."""
        self._ask_for(set(self.terms.silos))

    def check_own(self, silo: str, public: str) -> None:
        """Ask for a silo's own signature, by the very key that it holds."""
        if self.key(silo) != public:
            raise IntegrityError(
                f"silo {silo}: the membership names another key than this silo's own",
                field="public_key",
                value=self.key(silo),
                allowed=public,
            )
        self._ask_for({silo})

    def _ask_for(self, silos: set[str]) -> None:
        absent = sorted(silos - set(self.signatures))
        if absent:
            raise BadInput(
                f"membership {self.version} lacks the signature of {', '.join(absent)}; "
                "run `tacit silo countersign NAME` there",
                field="signatures",
                value=sorted(self.signatures),
                allowed=sorted(self.terms.silos),
            )

    def _verify(self, silo: str) -> None:
        statement = {
            "body": self._body(),
            "key": self.terms.silos.get(silo),
            "signature": self.signatures[silo],
        }
        try:
            statements.read(statement, self.key(silo), kind=_KIND)
        except (IntegrityError, NotFound):
            raise IntegrityError(
                f"membership {self.version}: the signature of {silo} does not agree",
                field="signatures",
                value=silo,
            ) from None

    def _body(self) -> dict[str, Any]:
        return self.terms.model_dump(mode="json")

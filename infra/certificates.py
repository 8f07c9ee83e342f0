"""Certificates for transport: an authority of the federation's own, and what it issues.

They let a party know that it talks to its federation's server, let the server turn away whoever
was given none, and nothing else: who is a member, and what a member signed, is a matter of the
membership's keys. A party makes its key itself and asks by a signing request; the name in the
certificate is the authority's to say. Keys are ECDSA P-256, files of keys have mode 0600.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import BadInput, IntegrityError
from privacy.ledger.durable import write_durably
from secure.exchange import transport

AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
CLIENT_LIFE = timedelta(days=365)
_BACK = timedelta(minutes=5)
"""How far a clock may be behind the authority's."""


def make_authority(directory: Path, federation: str) -> None:
    """Make a federation's authority: `ca.pem`, and `ca.key`, which stays where it was made."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name("tacit authority", federation)
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory / "ca", certificate, key)


def issue_server(directory: Path, hosts: Sequence[str], *, life: timedelta = SERVER_LIFE) -> None:
    """Issue the server's certificate for these host names or addresses: `server.pem`, `.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issue(
        directory,
        _common_name("tacit exchange"),
        key.public_key(),
        life,
        ExtendedKeyUsageOID.SERVER_AUTH,
        hosts,
    )
    _write(directory / "server", certificate, key)


def make_request(path: Path, party: str) -> str:
    """Make a party's transport key at `path`, where there is none yet, and ask for a certificate.

    The same key asks again, so that an answer that is under way stays good. Returns PEM.
    """
    if not path.exists():
        write_durably(path, _secret(ec.generate_private_key(ec.SECP256R1())))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_common_name(party))
        .sign(_read_key(path), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def issue_client(
    directory: Path, party: str, request: str, *, life: timedelta = CLIENT_LIFE
) -> str:
    """Issue a party's certificate, named `party` whatever its request says; returns PEM.

    Raises `BadInput` for a request that is none, or whose key is of another kind or did not sign
    it.
    """
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        public = asked.public_key()
        whole = asked.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        whole, public = False, None
    if not (
        whole
        and isinstance(public, ec.EllipticCurvePublicKey)
        and isinstance(public.curve, ec.SECP256R1)
    ):
        raise BadInput(
            f"the certificate request of {party} is none that its own key signed",
            field="certificate_request",
            allowed="a PKCS #10 request of an ECDSA P-256 key",
        )
    certificate = _issue(
        directory, _common_name(party), public, life, ExtendedKeyUsageOID.CLIENT_AUTH
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def install(asked_key: Path, certificate: str, authority: str, party: str, target: Path) -> None:
    """Put an issued certificate and its key into `target`; `asked_key` has done its work then.

    The same one again changes nothing. Raises `IntegrityError` where it is not this party's, not of
    this authority, or for a key that is not here; `KeyFileError` where it is not valid now.
    """
    try:
        issued = x509.load_pem_x509_certificate(certificate.encode())
        root = x509.load_pem_x509_certificate(authority.encode())
        issued.verify_directly_issued_by(root)
        public = issued.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise IntegrityError(
            f"the certificate for {party} is not one of the authority beside it",
            field="certificate",
        ) from None
    if issued.subject != _common_name(party):
        raise IntegrityError(f"the certificate is not that of {party}", field="certificate")
    transport.check_dates(root, "the authority's certificate", "its coordinator has to say more")
    transport.check_dates(issued, f"the certificate for {party}", transport.renewal(party))
    for holder in (asked_key, target):
        if holder.exists() and _read_key(holder).public_key() == public:
            whole = issued.public_bytes(serialization.Encoding.PEM) + _secret(_read_key(holder))
            write_durably(target, whole)
            if holder == asked_key:
                asked_key.unlink()
            return
    raise IntegrityError(
        f"the certificate for {party} is for another key than the one that asked here; carry the "
        f"newest request to the coordinator, or {transport.renewal(party)}",
        field="certificate",
    )


def due(path: Path) -> bool:
    """Whether a certificate is not there, or ends so soon that it should be renewed."""
    if not path.exists():
        return True
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - datetime.now(UTC) < transport.SOON


def _issue(
    directory: Path,
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    life: timedelta,
    usage: x509.ObjectIdentifier,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """Issue a certificate that may be used for one purpose only, by the authority in `directory`.

    Raises `KeyFileError` where the authority's own certificate is over.
    """
    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    transport.check_dates(
        authority, "the authority's certificate", "this federation needs a new authority"
    )
    builder = (
        _builder(subject, authority.subject, public, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(_read_key(directory / "ca.key"), hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + life)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str, organization: str | None = None) -> x509.Name:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, text)]
    if organization is not None:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(names)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a file, which may hold its certificate before it."""
    text = path.read_bytes()
    key = serialization.load_pem_private_key(text[text.index(b"-----BEGIN PRIVATE KEY") :], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path}: not a key that this module made")
    return key


def _secret(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the key first, at mode 0600, so that no certificate stands without one."""
    stem.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(stem.with_suffix(".key"), _secret(key))
    public = certificate.public_bytes(serialization.Encoding.PEM)
    write_durably(stem.with_suffix(".pem"), public, 0o644)

"""A party's side of TLS: its own certificate, and the one authority that it believes.

Certificates say who may talk to the exchange's host at all, and to whom a party talks; who is a
member is a matter of the membership's keys. One file holds a party's certificate and its key.
"""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from secure.errors import KeyFileError

SOON = timedelta(days=30)
"""Before its end by this, a certificate is spoken of at every connection."""

log = logging.getLogger("tacit.exchange")

_HINTS = {
    9: "is not valid yet: compare the clocks of this machine and of the exchange's",
    10: "has expired, or this machine's clock is fast; at the coordinator run "
    "`tacit silo renew coordinator`",
    **dict.fromkeys(
        (18, 19, 20, 21),
        "is not of this federation's authority: another federation's server, or an old ca.pem",
    ),
    **dict.fromkeys((62, 64), "is for another host than the one in exchange.yaml"),
}
"""What OpenSSL's verification codes (x509_vfy.h) mean for a server's certificate."""


def context(authority: Path, certificate: Path, party: str) -> ssl.SSLContext:
    """The TLS context of a party: TLS 1.3, its certificate, no authority but the federation's.

    Raises `KeyFileError` where the certificate is not there, not valid now, open to others, or does
    not belong to its key; the message says what to run.
    """
    own = load(certificate, party)
    check_dates(own, f"{certificate}: the certificate of {party}", renewal(party))
    if own.not_valid_after_utc - datetime.now(UTC) < SOON:
        log.warning(
            "%s: the certificate of %s ends on %s; %s",
            certificate,
            party,
            f"{own.not_valid_after_utc:%Y-%m-%d}",
            renewal(party),
        )
    try:
        made = ssl.create_default_context(cafile=authority)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_cert_chain(certificate)
    except ssl.SSLError as error:
        raise KeyFileError(
            f"{certificate} or {authority}: no certificate and key that belong together "
            f"({error.reason})",
            field="certificate",
            value=str(certificate),
        ) from None
    return made


def load(path: Path, party: str) -> x509.Certificate:
    """Read a party's certificate from a file that only its owner can read (`KeyFileError`)."""
    try:
        mode = path.stat().st_mode & 0o777
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise KeyFileError(
            f"{path}: {party} has no certificate yet; `tacit up` makes those of the parties under "
            "one home, `tacit silo gather` takes in the one that the coordinator sent",
            field="certificate",
            value=str(path),
        ) from None
    except ValueError:
        raise KeyFileError(
            f"{path}: not a certificate; {renewal(party)}", field="certificate", value=str(path)
        ) from None
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: mode {mode:04o} lets others read the key; run chmod 600",
            field="certificate",
            value=f"{mode:04o}",
            allowed="0600",
        )
    return found


def renewal(party: str) -> str:
    """What a party does about its certificate."""
    then = "" if party == "coordinator" else " and carry its request to the coordinator"
    return f"run `tacit silo renew {party}` here{then}"


def check_dates(certificate: x509.Certificate, what: str, remedy: str) -> None:
    """Refuse a certificate that is not valid now, by this machine's clock (`KeyFileError`)."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(UTC)
    if begins <= now <= ends:
        return
    said = f"expired on {ends:%Y-%m-%d %H:%M} UTC; {remedy}"
    if now < begins:
        said = (
            f"is valid from {begins:%Y-%m-%d %H:%M} UTC only, and it is {now:%Y-%m-%d %H:%M} UTC "
            f"by this machine's clock; set the clock, or else {remedy}"
        )
    raise KeyFileError(
        f"{what} {said}",
        field="certificate",
        value=f"{now:%Y-%m-%d %H:%M}",
        allowed=f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC",
    )


def told(error: BaseException) -> str:
    """Why a server was not reached, with what to do where it is known."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _HINTS.get(error.verify_code)
        return f"its certificate {hint} ({said})" if hint else said
    if is_refusal(error):
        return f"it knows no such user: not admitted yet, revoked, or another exchange.nk ({said})"
    lost = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    if lost or (isinstance(error, ssl.SSLError) and "ALERT" in str(error)):
        return f"it closed the connection, as where a certificate is not its authority's ({said})"
    return said


def is_refusal(error: BaseException) -> bool:
    """Whether a server says that it has no such user."""
    return "authorization violation" in str(error).lower()

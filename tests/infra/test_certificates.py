"""What is certified, or certifies, on a curve that nobody computes on is refused like the rest."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federation.errors import BadInput, IntegrityError
from infra import certificates

P256 = bytes.fromhex("06082a8648ce3d030107")
NO_CURVE = bytes.fromhex("06082a8648ce3d030106")
"""The object identifier of the curve in a key, and one beside it that nobody computes on."""


def on_no_curve(der: bytes, what: str) -> str:
    assert P256 in der
    body = base64.encodebytes(der.replace(P256, NO_CURVE)).decode()
    return f"-----BEGIN {what}-----\n{body}-----END {what}-----\n"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    certificates.make_authority(tmp_path / "authority", "heart")
    return tmp_path / "authority"


def test_a_request_of_a_key_on_an_unknown_curve_is_bad_input(
    authority: Path, tmp_path: Path
) -> None:
    request = certificates.make_request(tmp_path / "key", "north")
    certificates.issue_client(authority, "north", request)  # as it is, it is a good one
    der = x509.load_pem_x509_csr(request.encode()).public_bytes(Encoding.DER)
    with pytest.raises(BadInput, match="none that its own key signed") as caught:
        certificates.issue_client(authority, "north", on_no_curve(der, "CERTIFICATE REQUEST"))
    assert caught.value.field == "certificate_request" and "P-256" in str(caught.value.allowed)


def test_a_certificate_of_an_authority_on_an_unknown_curve_is_not_installed(
    authority: Path, tmp_path: Path
) -> None:
    asked, target = tmp_path / "key", tmp_path / "own.pem"
    issued = certificates.issue_client(authority, "north", certificates.make_request(asked, "n"))
    der = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    other = on_no_curve(der.public_bytes(Encoding.DER), "CERTIFICATE")
    with pytest.raises(IntegrityError, match="not one of the authority beside it"):
        certificates.install(asked, issued, other, "north", target)
    assert asked.exists() and not target.exists()

"""Quotes of real SGX and TDX processors: what holds, and every way in which one must not."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secure.errors import BadMessage, BadParameters, MissingExtra, NotVerified
from secure.verification.attestation import Measurement, Policy, check_quote, report_data

QUOTES = Path(__file__).with_name("quotes")
NOW = int(datetime(2025, 7, 1, tzinfo=UTC).timestamp())
SGX_QUOTE, TDX_QUOTE = ((QUOTES / f"{kind}.quote").read_bytes() for kind in ("sgx", "tdx"))
SGX_KNOWN, TDX_KNOWN = ((QUOTES / f"{kind}.collateral.json").read_text() for kind in ("sgx", "tdx"))
# Offsets of Intel's quote formats: a header of 48 bytes, then the report's body.
SGX_DATA = SGX_QUOTE[48 + 320 : 48 + 384]
SGX_CODE = SGX_QUOTE[48 + 64 : 48 + 96]
TDX_DATA = TDX_QUOTE[48 + 520 : 48 + 584]
TDX_CODE = TDX_QUOTE[48 + 136 : 48 + 184]
TDX_RUNTIME = tuple(TDX_QUOTE[48 + at : 48 + at + 48] for at in (328, 376, 424, 472))
SGX = Policy(
    measurements=(Measurement("sgx", SGX_CODE),), statuses=("ConfigurationAndSWHardeningNeeded",)
)
TDX = Policy(measurements=(Measurement("tdx", TDX_CODE, TDX_RUNTIME),))


def refused(quote: bytes, known: str, policy: Policy, wanted: bytes, now: int = NOW) -> str:
    with pytest.raises(NotVerified) as caught:
        check_quote(quote, known, policy, wanted, now=now)
    assert caught.value.exit_code == 4
    return str(caught.value.field)


def test_a_quote_of_a_tdx_machine_holds() -> None:
    found = check_quote(TDX_QUOTE, TDX_KNOWN, TDX, TDX_DATA, now=NOW)
    assert found.measurement in TDX.measurements
    assert (found.status, found.advisories) == ("UpToDate", ())


def test_a_quote_of_an_sgx_enclave_holds_where_the_policy_takes_its_platform() -> None:
    found = check_quote(SGX_QUOTE, SGX_KNOWN, SGX, SGX_DATA, now=NOW)
    assert found.measurement.code == SGX_CODE
    assert set(found.advisories) == {"INTEL-SA-00289", "INTEL-SA-00615"}


def test_a_platform_that_is_not_up_to_date_is_refused_unless_the_policy_says_otherwise() -> None:
    strict = replace(SGX, statuses=("UpToDate",))
    assert refused(SGX_QUOTE, SGX_KNOWN, strict, SGX_DATA) == "status"
    assert Policy(measurements=()).statuses == ("UpToDate",)
    picky = replace(SGX, refused=("INTEL-SA-00615",))
    assert refused(SGX_QUOTE, SGX_KNOWN, picky, SGX_DATA) == "advisories"


def test_another_nonce_or_key_is_refused() -> None:
    for wanted in (bytes(64), TDX_DATA[:-1] + b"\0", TDX_DATA[:32]):
        assert refused(TDX_QUOTE, TDX_KNOWN, TDX, wanted) == "report_data"


@pytest.mark.parametrize("part", range(5), ids=["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_other_code_is_refused_also_where_only_what_it_booted_differs(part: int) -> None:
    parts = [TDX_CODE, *TDX_RUNTIME]
    parts[part] = bytes(47) + b"\1"
    other = Policy(measurements=(Measurement("tdx", parts[0], tuple(parts[1:])),))
    assert refused(TDX_QUOTE, TDX_KNOWN, other, TDX_DATA) == "measurements"
    assert refused(TDX_QUOTE, TDX_KNOWN, Policy(measurements=()), TDX_DATA) == "measurements"


def test_an_enclave_s_code_is_not_a_machine_s() -> None:
    assert refused(SGX_QUOTE, SGX_KNOWN, replace(TDX, statuses=SGX.statuses), SGX_DATA) == (
        "measurements"
    )


@pytest.mark.parametrize("when", [(2025, 6, 1), (2025, 7, 20), (2026, 11, 26)])
def test_collateral_not_yet_or_no_longer_in_force_is_refused(when: tuple[int, int, int]) -> None:
    now = int(datetime(*when, tzinfo=UTC).timestamp())
    assert refused(TDX_QUOTE, TDX_KNOWN, TDX, TDX_DATA, now) == "quote"


@pytest.mark.parametrize("at", [48, 48 + 136, 48 + 328, 48 + 520, 48 + 584 + 4, 1400])
def test_a_changed_byte_is_refused(at: int) -> None:
    quote = TDX_QUOTE[:at] + bytes([TDX_QUOTE[at] ^ 1]) + TDX_QUOTE[at + 1 :]
    data = quote[48 + 520 : 48 + 584]
    assert refused(quote, TDX_KNOWN, TDX, data) == "quote"


@pytest.mark.parametrize(
    ("quote", "known", "policy", "at", "bit"),
    [(TDX_QUOTE, TDX_KNOWN, TDX, 48 + 120, 1), (SGX_QUOTE, SGX_KNOWN, SGX, 48 + 48, 2)],
    ids=["tdx", "sgx"],
)
def test_a_debug_machine_is_refused(
    quote: bytes, known: str, policy: Policy, at: int, bit: int
) -> None:
    debug = quote[:at] + bytes([quote[at] | bit]) + quote[at + 1 :]
    assert refused(debug, known, policy, TDX_DATA) == "debug"


def test_collateral_of_another_platform_or_changed_is_refused() -> None:
    assert refused(TDX_QUOTE, SGX_KNOWN, TDX, TDX_DATA) == "quote"
    for old, new in (('\\"UpToDate\\"', '\\"OutOfDate\\"'), ("2025-07-19", "2035-07-19")):
        assert old in TDX_KNOWN
        assert refused(TDX_QUOTE, TDX_KNOWN.replace(old, new), TDX, TDX_DATA) == "quote"


def test_another_root_than_intel_s_is_refused() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    dated = builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2040, 1, 1))
    root = dated.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(NotVerified):
        check_quote(TDX_QUOTE, TDX_KNOWN, TDX, TDX_DATA, now=NOW, root=root)


@pytest.mark.parametrize(
    ("quote", "known"),
    [
        (b"", TDX_KNOWN),
        (TDX_QUOTE[:600], TDX_KNOWN),
        (bytes(5000), TDX_KNOWN),
        (TDX_QUOTE, "{}"),
        (TDX_QUOTE, "not json"),
    ],
    ids=["empty", "cut", "zeros", "fields", "text"],
)
def test_what_is_no_quote_or_no_collateral_is_refused(quote: bytes, known: str) -> None:
    with pytest.raises(BadMessage):
        check_quote(quote, known, TDX, TDX_DATA, now=NOW)


def test_report_data_binds_nonce_key_and_model_and_nothing_can_slide_between_them() -> None:
    parts = (b"n" * 32, b"k" * 32, b"m" * 32)
    assert report_data(*parts) == hashlib.sha512(b"".join(parts)).digest()
    for bad in ((b"n" * 31, b"k" * 33, b"m" * 32), (b"n" * 32, b"", b"m" * 64)):
        with pytest.raises(BadParameters):
            report_data(*bad)


@pytest.mark.parametrize(
    ("kind", "code", "runtime"),
    [
        ("sgx", bytes(48), ()),
        ("tdx", bytes(48), ()),
        ("tdx", bytes(48), (bytes(48),) * 3),
        ("tdx", bytes(32), (bytes(48),) * 4),
        ("sev", bytes(32), ()),
    ],
)
def test_measurements_that_would_leave_code_open_are_refused(
    kind: str, code: bytes, runtime: tuple[bytes, ...]
) -> None:
    with pytest.raises(BadParameters):
        Measurement(kind, code, runtime)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(MissingExtra, match=r"constraints\.txt '\.\[attestation\]'") as caught:
        check_quote(TDX_QUOTE, TDX_KNOWN, TDX, TDX_DATA, now=NOW)
    assert caught.value.exit_code == 5 and caught.value.value == "attestation"

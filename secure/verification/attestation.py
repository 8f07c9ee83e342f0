"""Attestation: that a key belongs to known code inside an SGX enclave or a TDX machine.

    wanted = report_data(nonce, channel_key, commitment.root)
    policy = Policy(measurements=(Measurement("tdx", mrtd, (rtmr0, rtmr1, rtmr2, rtmr3)),))
    attested = check_quote(quote, collateral, policy, wanted, now=int(time.time()))

The package dcap-qvl (extra `attestation`) checks Intel's signatures, certificates, revocation lists
and the collateral's dates; this module adds what only the verifier can know: the fresh nonce, the
code that may run, which states of the platform are good enough, and that it is not a debug one.
The collateral is given as a file; nothing is fetched here.

A valid quote proves a key, not a place. **It does not hold against whoever can touch the machine**:
WireTap (DDR4), Battering RAM and TEE.fail (DDR5) took attestation keys out of real processors with
an interposer on the memory bus, and forged quotes verify. Side channels are open too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from secure.errors import BadMessage, BadParameters, NotVerified
from secure.verification.extras import optional

SGX_DEBUG, TDX_DEBUG = 0x02, 0x01
"""The debug bits: byte 0 of an enclave's attributes, byte 0 of a TDX machine's."""

STATUSES = ("UpToDate",)
"""Which states of the platform's firmware are accepted unless a policy says otherwise."""


@dataclass(frozen=True)
class Measurement:
    """Code that may run: MRENCLAVE (`sgx`, 32 bytes) or MRTD and all four RTMR (`tdx`, 48 each).

    MRTD alone covers the firmware of a TDX machine, not the system it boots: the RTMR belong to it.
    """

    kind: str
    code: bytes
    runtime: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        sizes = [len(part) for part in (self.code, *self.runtime)]
        if sizes != {"sgx": [32], "tdx": [48] * 5}.get(self.kind):
            raise BadParameters(
                "a measurement is sgx with 32 bytes, or tdx with MRTD and four RTMR of 48 each",
                field="measurements",
                value=self.kind,
                allowed=["sgx", "tdx"],
            )


@dataclass(frozen=True)
class Policy:
    """What the verifier accepts: measurements, states of the platform, no advisory of `refused`."""

    measurements: Collection[Measurement]
    statuses: Collection[str] = STATUSES
    refused: Collection[str] = ()


@dataclass(frozen=True)
class Attested:
    """What a quote that passed says."""

    measurement: Measurement
    status: str
    advisories: tuple[str, ...]


def report_data(nonce: bytes, channel_key: bytes, model: bytes) -> bytes:
    """Return the 64 bytes that the quote must carry: SHA-512 of nonce, channel key, model root.

    Each has 32 bytes. The nonce is the verifier's, fresh; the key is that of the channel to the
    machine; the model is its commitment's root.
    """
    for name, part in (("nonce", nonce), ("channel_key", channel_key), ("model", model)):
        if len(part) != 32:
            raise BadParameters(f"{name} has 32 bytes", field=name, value=len(part), allowed=32)
    return hashlib.sha512(nonce + channel_key + model).digest()


def check_quote(
    quote: bytes,
    collateral: str,
    policy: Policy,
    wanted: bytes,
    *,
    now: int,
    root: bytes | None = None,
) -> Attested:
    """Check a quote against its collateral (the JSON that a PCCS gives) and the policy.

    `wanted` is the report data it must carry, `now` the time in seconds since 1970 at which
    certificates and collateral must be in force, `root` a root certificate (DER) in Intel's place.
    Errors: `BadMessage` for what is no quote or collateral; `NotVerified`, naming the field, for
    one that does not hold or that the policy does not accept; `MissingExtra` without dcap-qvl.
    """
    qvl = optional("dcap_qvl")
    try:
        parsed = qvl.parse_quote(quote)
        known = qvl.QuoteCollateralV3.from_json(collateral)
    except ValueError:
        raise BadMessage("not a quote with its collateral", field="quote") from None
    report = parsed.report
    measurement, debug = _measured(parsed.is_tdx(), report)
    _demand(not debug, "debug", "comes from a debug machine, whose memory its host can read")
    try:
        if root is None:
            verified = qvl.verify(quote, known, now)
        else:
            verified = qvl.verify_with_root_ca(quote, known, root, now)
    except ValueError as error:
        raise NotVerified(f"the quote does not hold: {error}", field="quote") from None
    _demand(bytes(report.report_data) == wanted, "report_data", "is for another nonce or key")
    _demand(measurement in policy.measurements, "measurements", "comes from unknown code")
    advisories = tuple(verified.advisory_ids)
    _demand(
        verified.status in policy.statuses, "status", f"comes from a platform {verified.status}"
    )
    found = sorted(set(advisories) & set(policy.refused))
    _demand(not found, "advisories", f"comes from a platform open to {', '.join(found)}")
    return Attested(measurement, verified.status, advisories)


def _measured(tdx: bool, report: Any) -> tuple[Measurement, bool]:
    if tdx:
        runtime = (report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3)
        measurement = Measurement("tdx", bytes(report.mr_td), tuple(bytes(r) for r in runtime))
        return measurement, bool(bytes(report.td_attributes)[0] & TDX_DEBUG)
    measurement = Measurement("sgx", bytes(report.mr_enclave))
    return measurement, bool(bytes(report.attributes)[0] & SGX_DEBUG)


def _demand(holds: bool, field: str, said: str) -> None:
    if not holds:
        raise NotVerified(f"the quote {said}", field=field)

"""Errors of equivariant sealing.

    SecureError
    ├── UnsupportedOperation SECURE-040  an operation that this sealing cannot keep exact  exit 2
    ├── BadModel             SECURE-041  a description and its weights do not agree        exit 2
    ├── BadInput             SECURE-042  rows, tokens or options that a model cannot take  exit 2
    ├── StaleKey             SECURE-043  a key is past its date, or of another sealing     exit 4
    ├── SameParty            SECURE-044  one party in two places that must stay apart      exit 3
    └── WrongPassphrase      SECURE-045  a passphrase does not open the key                exit 2

Damaged or forged bytes are `BadMessage` and `BadSignature` of `secure.errors`.
"""

from __future__ import annotations

from secure.errors import SecureError


class UnsupportedOperation(SecureError, ValueError):
    """No key of this scheme keeps the operation exact; the message names it."""

    code = "SECURE-040"
    exit_code = 2


class BadModel(SecureError, ValueError):
    """A description and its weights do not make a model."""

    code = "SECURE-041"
    exit_code = 2


class BadInput(SecureError, ValueError):
    """Rows, tokens or options that the model cannot take."""

    code = "SECURE-042"
    exit_code = 2


class StaleKey(SecureError):
    """A key is past its date, or belongs to another sealing of the model."""

    code = "SECURE-043"


class SameParty(SecureError):
    """Owner, node and data silo must be apart, and two of them are one."""

    code = "SECURE-044"
    exit_code = 3


class WrongPassphrase(SecureError):
    """A passphrase does not open the key file."""

    code = "SECURE-045"
    exit_code = 2

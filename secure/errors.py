"""Errors of the secure layer.

    SecureError
    ├── BadSignature    SECURE-001  a signature, key or fingerprint does not agree        exit 4
    ├── BadMessage      SECURE-002  a message is malformed, oversize or of a wrong type   exit 4
    ├── KeyFileError    SECURE-003  a key or certificate is missing, open, or out of date exit 5
    ├── ExchangeTimeout SECURE-004  a message did not come before its deadline            exit 1
    ├── ExchangeClosed  SECURE-005  the other side has gone                               exit 1
    ├── BadParameters   SECURE-006  parameters or inputs that cannot be computed with     exit 2
    ├── TooFewSilos     SECURE-007  fewer silos than the threshold: nothing is opened     exit 1
    ├── RoundRefused    SECURE-008  a step that a round of aggregation must not take      exit 4
    ├── KeyRetired      SECURE-009  a key has answered as often as it may                 exit 3
    ├── ExchangeMissing SECURE-010  there is no exchange where it is said to be           exit 5
    ├── NotVerified     SECURE-020  a proof, receipt, product or quote that does not hold exit 4
    └── MissingExtra    SECURE-021  an optional package is not installed                  exit 5

The shape (`code`, `field`, `value`, `allowed`, `exit_code`) is that of `privacy.errors`; the two
layers do not import each other.
"""

from __future__ import annotations


class SecureError(Exception):
    """Root of the secure layer's errors."""

    code = "SECURE-000"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.allowed = allowed


class BadSignature(SecureError):
    """A signature, a key or a fingerprint does not agree."""

    code = "SECURE-001"


class BadMessage(SecureError, ValueError):
    """A message is malformed, oversize, replayed or of a wrong type."""

    code = "SECURE-002"


class KeyFileError(SecureError):
    """A key or certificate is missing, not valid now, or others than its owner can read it."""

    code = "SECURE-003"
    exit_code = 5


class ExchangeTimeout(SecureError):
    """A message did not come before its deadline."""

    code = "SECURE-004"
    exit_code = 1


class ExchangeClosed(SecureError):
    """The other side of the exchange has gone."""

    code = "SECURE-005"
    exit_code = 1


class BadParameters(SecureError, ValueError):
    """Parameters or inputs that cannot be computed with correctly and safely."""

    code = "SECURE-006"
    exit_code = 2


class TooFewSilos(SecureError):
    """Fewer silos take part than the threshold of the round: nothing is opened."""

    code = "SECURE-007"
    exit_code = 1


class RoundRefused(SecureError):
    """A round of aggregation was asked for a step that it must not take."""

    code = "SECURE-008"


class KeyRetired(SecureError):
    """A key has released as many answers as its noise was made for."""

    code = "SECURE-009"
    exit_code = 3


class ExchangeMissing(ExchangeClosed):
    """There is no exchange, or none that lets this party in, where it is said to be."""

    code = "SECURE-010"
    exit_code = 5


class NotVerified(SecureError):
    """A proof, a receipt, a product or an attestation quote does not hold."""

    code = "SECURE-020"


class MissingExtra(SecureError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    code = "SECURE-021"
    exit_code = 5

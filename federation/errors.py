"""Errors of the federation layer.

    FederationError
    ├── BadInput        FED-001  a file, option or field that says something not allowed   exit 2
    ├── NotFound        FED-002  a job, silo, dataset or home that is not there            exit 2
    ├── PolicyRefused   FED-003  a silo's policy does not allow what the job asks          exit 3
    │   └── ApprovalNeeded  FED-008  it allows it once a person there has approved         exit 3
    ├── BudgetRefused   FED-007  a silo's ledger does not admit what the job costs         exit 3
    ├── IntegrityError  FED-004  a signature, digest or membership does not agree          exit 4
    ├── Missing         FED-005  something needed is not there: an extra, a server, a file exit 5
    └── JobFailed       FED-006  the job stopped for a reason that is told                 exit 1

Each has a stable `code`, the `field`, the `value` seen, what is `allowed`, and the `exit_code`
of the command. Messages name files, fields and public facts, never a data value. `TacitError`
is the tuple of all roots, for the one place (the command line) that turns errors into exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from privacy.errors import LedgerError, PrivacyError, Refused
from secure.errors import SecureError


class FederationError(Exception):
    """Root of the federation layer's errors."""

    code = "FED-000"
    exit_code = 1

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


class BadInput(FederationError, ValueError):
    """A file, option or field says something that is not allowed."""

    code = "FED-001"
    exit_code = 2


class NotFound(FederationError, LookupError):
    """A job, silo, dataset or home that was named is not there."""

    code = "FED-002"
    exit_code = 2


class PolicyRefused(FederationError):
    """A silo's policy does not allow what the job asks."""

    code = "FED-003"
    exit_code = 3


class ApprovalNeeded(PolicyRefused):
    """A silo's policy allows the job once a person there has approved it; until then it waits."""

    code = "FED-008"


class BudgetRefused(FederationError):
    """A silo's ledger does not admit what the job costs; the message tells what would fit."""

    code = "FED-007"
    exit_code = 3


class IntegrityError(FederationError):
    """A signature, a digest or the membership does not agree."""

    code = "FED-004"
    exit_code = 4


class Missing(FederationError):
    """Something needed is not there: an extra, a server, a file."""

    code = "FED-005"
    exit_code = 5


class JobFailed(FederationError):
    """A job stopped; the message tells why in public terms."""

    code = "FED-006"
    exit_code = 1


TacitError = (PrivacyError, SecureError, FederationError)

_WHOLE = (BudgetRefused, PolicyRefused, ApprovalNeeded, Refused)
"""Refusals are made of public facts; of any other error of a silo only code and field cross."""


def told(error: Exception) -> dict[str, Any]:
    """What of an error may leave a silo, as plain data."""
    document: dict[str, Any] = {
        "code": getattr(error, "code", "SILO-FAULT"),
        "field": getattr(error, "field", None),
    }
    if isinstance(error, _WHOLE):
        document |= {name: getattr(error, name) for name in ("message", "value", "allowed")}
    return document


def retold(document: Mapping[str, Any], silo: str) -> Exception:
    """The error that a silo told of, with its class and exit code; an unknown one is a `JobFailed`.

    The code is looked up and never shown as it came.
    """
    kinds = {kind.code: kind for root in TacitError for kind in _kinds(root)}
    kind = kinds.get(str(document.get("code")), JobFailed)
    field, message = document.get("field"), document.get("message")
    code = kind.code if kind.code == document.get("code") else "a fault that has no code"
    said: dict[str, Any] = {"field": field if isinstance(field, str) else "silo", "value": silo}
    text = f"silo {silo} answered with {code}; its own log says why"
    if kind in _WHOLE and isinstance(message, str):
        said = {"field": field} | {name: document.get(name) for name in ("value", "allowed")}
        text = message
    error: Exception = kind(text, **said)
    return error


def _kinds(root: type[Exception]) -> Iterator[Any]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


@contextmanager
def at_silo(name: str) -> Iterator[None]:
    """Say in a ledger's error at which silo it was; a ledger names accounts, keys and entries."""
    try:
        yield
    except LedgerError as error:
        error.message = f"silo {name}: {error.message}"
        error.args = (error.message,)
        raise

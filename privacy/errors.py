"""Errors of the privacy layer.

    PrivacyError
    ├── InvalidEvent          PRIVACY-001  an event, unit or relation that makes no sense (2)
    ├── UnsupportedEvent      PRIVACY-002  no accountant or filter here can price this event (2)
    ├── CalibrationFailed     PRIVACY-003  no noise level reaches the target (2)
    ├── UnsafeModel           PRIVACY-004  a module mixes rows, so no clip can bound one row (2)
    ├── AccountantsDisagree   PRIVACY-005  a price is below an independent lower bound (4)
    └── LedgerError           LEDGER-000
        ├── InvalidRequest    LEDGER-001   a request that the ledger cannot read (2)
        ├── Refused           LEDGER-002   the filter does not admit the charge (3)
        ├── KeyConflict       LEDGER-003   an idempotency key came back with another payload (2)
        ├── WrongState        LEDGER-004   a charge is not in the state that the call needs (2)
        ├── LedgerTampered    LEDGER-005   the chain, a column or a head does not agree (4)
        ├── LedgerMissing     LEDGER-006   the database is not there (5)
        └── LedgerContention  LEDGER-007   the database stayed busy for too long (5)

In brackets the exit code of a command. Every error carries a stable `code`, the `field` it is
about, the `value` seen and what is `allowed`; the message never holds a data value.
The other layers' trees are in `secure.errors` and `federation.errors`; the layers do not
import one another, so they share this shape and not a base class.
"""

from __future__ import annotations


class PrivacyError(Exception):
    """Root of the privacy layer's errors."""

    code = "PRIVACY-000"
    exit_code = 2

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


class InvalidEvent(PrivacyError, ValueError):
    """An event, unit or relation that makes no sense."""

    code = "PRIVACY-001"


class UnsupportedEvent(PrivacyError):
    """No accountant or filter here can price this event under this relation."""

    code = "PRIVACY-002"


class CalibrationFailed(PrivacyError):
    """No noise level reaches the target."""

    code = "PRIVACY-003"


class UnsafeModel(PrivacyError):
    """A module of the model mixes rows, so no clip bounds what one row can do."""

    code = "PRIVACY-004"


class AccountantsDisagree(PrivacyError):
    """A price is below what the event costs at least, by another accountant."""

    code = "PRIVACY-005"
    exit_code = 4


class LedgerError(PrivacyError):
    """Root of the ledger's errors."""

    code = "LEDGER-000"


class InvalidRequest(LedgerError, ValueError):
    """A request that the ledger cannot read: not finite, negative, of an unknown kind."""

    code = "LEDGER-001"


class Refused(LedgerError):
    """The account's filter does not admit the charge, or the account admits nothing more."""

    code = "LEDGER-002"
    exit_code = 3


class KeyConflict(LedgerError):
    """An idempotency key came back with another payload."""

    code = "LEDGER-003"


class WrongState(LedgerError):
    """A charge is not in the state that the call needs."""

    code = "LEDGER-004"


class LedgerTampered(LedgerError):
    """The chain, a column, a signature or a head outside the database does not agree."""

    code = "LEDGER-005"
    exit_code = 4


class LedgerMissing(LedgerError):
    """The ledger's database is not there or cannot be opened."""

    code = "LEDGER-006"
    exit_code = 5


class LedgerContention(LedgerError):
    """The database stayed busy for longer than a transaction may be retried."""

    code = "LEDGER-007"
    exit_code = 5

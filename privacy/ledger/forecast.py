"""Where an account is heading: at what rate it is used, when it is spent, what still fits.

Rates and dates come from `used`, the share of the account that is gone; how many more jobs fit is
asked of the filter, which is not a division of epsilons.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from privacy.events import Event
from privacy.ledger.clock import now as utc_now
from privacy.ledger.ledger import Ledger

WINDOW = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Forecast:
    """An account's future if the last `window` goes on.

    `rate_per_30_days`: the share of the account that 30 days take. `spent_by`: when it is all
    gone, `None` where nothing was used lately. `jobs_that_fit`: how many more jobs like the one
    asked about the filter admits, `None` where none was asked about or it costs nothing.
    """

    used: float
    rate_per_30_days: float
    spent_by: datetime | None
    jobs_that_fit: int | None


def forecast(
    ledger: Ledger,
    account_id: str,
    event: Event | None = None,
    *,
    now: datetime | None = None,
    window: timedelta = WINDOW,
) -> Forecast:
    """Forecast an account from the charges of the last `window`, which count from its first."""
    moment = now or utc_now()
    account = ledger.account(*account_id.rsplit("/", 1))
    spends = ledger.history(account_id)
    recent = [spend for spend in spends if spend.when > moment - window]
    begun = min((spend.when for spend in spends), default=moment)
    span = min(window, max(moment - begun, timedelta(days=1)))
    rate = sum(spend.share for spend in recent) / (span / timedelta(days=30))
    spent_by = None
    if rate > 0:
        days = max(1 - account.used, 0.0) / rate * 30
        spent_by = moment + timedelta(days=days) if days < 36500 else None
    return Forecast(
        used=account.used,
        rate_per_30_days=rate,
        spent_by=spent_by,
        jobs_that_fit=None if event is None else ledger.repeats(account_id, event),
    )

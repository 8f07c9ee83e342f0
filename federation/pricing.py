"""What a job costs at a silo, against every account of the source it reads.

The epsilon of a quote is the tight (PLD) price of this job alone, at the account's delta. What
decides is the account's filter: `charge` is the share of the account that the job takes and
`remaining_epsilon` what is left after it. Both come from the event and public facts; no row is
read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from federation import jobs
from federation.errors import BadInput
from federation.jobs.base import PartyFacts, PartyQuote
from federation.spec import JobSpec
from privacy.errors import PrivacyError
from privacy.events import Event, Unit
from privacy.ledger import Ledger

ROUNDS_LIMIT = 100_000
"""Where the search for the number of rounds that fit ends."""


def account_events(event: Event, unit: Unit, facts: PartyFacts) -> dict[str, Event]:
    """What the event costs each account of the source, in that account's unit.

    Raises `UnsupportedEvent` where an account of the source cannot price it: every account is
    charged, or the job does not run.
    """
    return {account.id: faced(event, unit, account.unit, facts) for account in facts.accounts}


def faced(event: Event, unit: Unit, by: Unit, facts: PartyFacts) -> Event:
    """The event of a job per `unit` as one unit of an account per `by` faces it."""
    from privacy.accounting.units import to_unit

    subject = facts.dataset.subject
    return to_unit(
        event,
        event_unit=unit,
        account_unit=by,
        rows_per_subject=subject.max_rows if subject else None,
    )


def quotes(spec: JobSpec, facts: Mapping[str, PartyFacts]) -> dict[str, PartyQuote]:
    """The job priced by its kind at every silo, from public facts that it can run on (`BadInput`).

    A silo whose rows it reads declares some, and every account's delta suits what is declared.
    """
    with_rows = sorted(silo for silo, party in facts.items() if party.sizes.rows)
    for silo in facts:
        if spec.reads_rows(silo) and silo not in with_rows:
            known = f"; these have some: {', '.join(with_rows)}" if with_rows else ""
            raise BadInput(
                f"silo {silo} declares no rows of {spec.dataset!r}, and the job reads rows of it "
                f"(role {spec.role(silo)}){known}",
                field="silo",
                value=silo,
                allowed=with_rows or "a silo with rows",
            )
    priced = jobs.kind(spec.kind).quote(spec, facts)
    for silo in priced:
        check_terms(facts[silo])
    return priced


def check_terms(facts: PartyFacts) -> None:
    """Refuse an account whose delta does not suit the declared number of its units (`BadInput`)."""
    for account in facts.accounts:
        units = facts.sizes.units(account.unit)
        if account.delta * units >= 1:
            raise BadInput(
                f"silo {facts.silo}: delta {account.delta:g} of account {account.id} is not below "
                f"1 / {units} units; such a delta allows a mechanism that publishes a whole row",
                field="privacy.delta",
                value=account.delta,
                allowed=f"< {1 / units:g}",
            )


def epsilon(event: Event, quote: PartyQuote, facts: PartyFacts) -> float:
    """The PLD price of `event` at the delta and relation of the account in the job's unit."""
    from privacy.accounting import pld

    seen = faced(event, quote.unit, quote.unit, facts)
    return pld.job_epsilon(seen, quote.delta, facts.account(quote.unit).relation)


def subject_loss(quote: PartyQuote, facts: PartyFacts) -> dict[str, float] | None:
    """Epsilon and delta of the job for one subject with all its rows here; None without subjects.

    At the delta and relation of the silo's account per subject, of the job's where it keeps none.
    """
    if facts.dataset.subject is None:
        return None
    from privacy.accounting import pld

    kept = [account for account in facts.accounts if account.unit is Unit.SUBJECT]
    account = kept[0] if kept else facts.account(quote.unit)
    seen = faced(quote.event, quote.unit, Unit.SUBJECT, facts)
    price = pld.job_epsilon(seen, account.delta, account.relation)
    return {"epsilon": price, "delta": account.delta}


def price(quote: PartyQuote, facts: PartyFacts, ledger: Ledger) -> dict[str, Any]:
    """One silo's line of a quote, from the quote's event and the ledger's balances."""
    accounts = {}
    for account, event in account_events(quote.event, quote.unit, facts).items():
        admission = ledger.would_admit(account, event)
        accounts[account] = {
            "admissible": admission.admissible,
            "charge": admission.charge_share,
            "used_after": admission.used_after,
            "remaining_epsilon": admission.remaining_epsilon_after,
        }
    worst = min(accounts.values(), key=lambda line: line["remaining_epsilon"])
    return {
        "epsilon": epsilon(quote.event, quote, facts),
        "delta": quote.delta,
        "unit": quote.unit.value,
        "charge": max(line["charge"] for line in accounts.values()),
        "subject": subject_loss(quote, facts),
        "events": [faced(quote.event, quote.unit, quote.unit, facts).model_dump(mode="json")],
        "remaining_epsilon": worst["remaining_epsilon"],
        "admissible": all(line["admissible"] for line in accounts.values()),
        "accounts": accounts,
        "plan": dict(quote.plan),
    }


def what_fits(
    quote: PartyQuote, facts: PartyFacts, ledger: Ledger, rounds: int
) -> dict[str, float | int]:
    """The largest epsilon at these rounds, and the most rounds at this noise, still admitted.

    Searched with the filter itself. Scaling all noise alike finds the epsilon to one per cent;
    then the very job that asks for it is tried, and what is told is admitted. 0: nothing fits.
    Where the noise does not scale, the rounds alone.
    """
    if quote.asking is None:
        return {}
    sigma = float(quote.plan["noise_multiplier"])
    family, asking = quote.family, quote.asking

    def longer(rounds: int) -> Event:
        return asking(None, rounds) if family is None else family(sigma, rounds)

    def admitted(event: Event) -> bool:
        try:
            events = account_events(event, quote.unit, facts)
        except PrivacyError:
            return False
        return all(ledger.would_admit(name, event).admissible for name, event in events.items())

    low, high = 0, 1
    while high < ROUNDS_LIMIT and admitted(longer(high)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if admitted(longer(middle)) else (low, middle)
    while low > 0 and not admitted(asking(None, low)):
        low = low * 97 // 100
    if family is None:
        return {"rounds": low}

    floor, ceiling = 0.3, sigma
    while ceiling < 1e6 and not admitted(family(ceiling, rounds)):
        floor, ceiling = ceiling, ceiling * 2
    if not admitted(family(ceiling, rounds)):
        return {"epsilon": 0.0, "rounds": low}
    while ceiling / floor > 1.01:
        middle = (floor * ceiling) ** 0.5
        inside = admitted(family(middle, rounds))
        floor, ceiling = (floor, middle) if inside else (middle, ceiling)
    told = _rounded(epsilon(family(ceiling, rounds), quote, facts))
    while told > 0 and not admitted(asking(told, rounds)):
        told = _rounded(told * 0.97)
    return {"epsilon": told, "rounds": low}


def _rounded(value: float) -> float:
    """Round an epsilon down to two digits after the first."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 1e-6 else 0.0
    return round(math.floor(value / step) * step, 9) if step else 0.0


def subjects_total(
    lines: Mapping[str, Mapping[str, Any]], silos_per_subject: int
) -> dict[str, float | int]:
    """What one subject can lose who is at several silos, from the silos' lines of a quote.

    Losses at different silos add, deltas too; a subject is in at most `silos_per_subject` of them,
    whichever these are, so the largest epsilons and the largest deltas are added up, each alone.
    """
    losses = [line["subject"] for line in lines.values() if line["subject"] is not None]

    def largest(name: str) -> float:
        return float(sum(sorted((loss[name] for loss in losses), reverse=True)[:silos_per_subject]))

    return {
        "epsilon": largest("epsilon"),
        "delta": largest("delta"),
        "silos": min(silos_per_subject, len(losses)),
    }

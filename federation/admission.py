"""What a silo asks of a manifest before its ledger is asked: all but the budget.

The coordinator's signature, time and terms; the silo's own policy; the quote, derived again from
the spec; and a person's approval, where the policy wants one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from federation import policy, pricing
from federation.approvals import Approvals
from federation.errors import BadInput, IntegrityError, TacitError
from federation.jobs.base import PartyFacts, PartyQuote
from federation.manifest import (
    SKEW,
    Manifest,
    check_agreed,
    check_time,
    read_manifest,
    spec_of,
)
from federation.membership import Membership
from federation.settings import Federation
from federation.spec import JobSpec, digest
from privacy.ledger import Head, Ledger


class Admission:
    """The checks of one silo; `quote` and `check_source` are its own."""

    def __init__(
        self,
        silo: str,
        *,
        federation: Federation,
        membership: Membership,
        rules: Callable[[], policy.Policy],
        ledger: Ledger,
        approvals: Approvals,
        quote: Callable[[JobSpec], tuple[PartyFacts, PartyQuote]],
        check_source: Callable[[str], None],
    ) -> None:
        self._silo = silo
        self._federation = federation
        self._membership = membership
        self._rules = rules
        self._ledger = ledger
        self._approvals = approvals
        self._quote = quote
        self._check_source = check_source

    def opened(self, manifest: dict[str, Any]) -> tuple[Manifest, str]:
        """A manifest of the coordinator that is for here and now, and its digest."""
        asked, seal = read_manifest(manifest, self._federation.coordinator)
        check_time(asked, datetime.now(UTC))
        self.check_agreed(asked)
        self._check_head(asked)
        self._ledger.see_nonce(asked.nonce, seal, asked.expires + SKEW)
        return asked, seal

    def checked(self, asked: Manifest) -> tuple[PartyFacts, PartyQuote, dict[str, Any] | None]:
        """Facts, quote and approval of a job that may run here now, budget aside."""
        spec = spec_of(asked)
        self.check_policy(spec)
        self.check_hours()
        self._check_source(spec.dataset)
        facts, quote, derived = self._derived(spec)
        stated = asked.quotes.get(self._silo)
        if stated is None or derived != digest(stated.model_dump(mode="json")):
            raise IntegrityError(
                f"silo {self._silo}: the coordinator's quote is not the one derived here",
                field="quote",
            )
        units = self._units(asked, spec, quote)
        policy.check_units(self._rules(), silo=self._silo, units=units)
        bound = partial(_bound, spec, facts, quote)
        return facts, quote, self._approvals.require(asked, quote, bound)

    def check_agreed(self, manifest: Manifest) -> None:
        """Ask for every silo's signature, and for the terms and the code that are here."""
        self._membership.check_signed()
        check_agreed(manifest, self._membership)

    def check_policy(self, spec: JobSpec) -> None:
        """Ask the policy as it stands now."""
        policy.check(
            self._rules(),
            silo=self._silo,
            kind=spec.kind,
            dataset=spec.dataset,
            leaving=spec.leaving,
            opens=spec.opens,
            packages=spec.packages,
        )

    def check_hours(self) -> None:
        """Refuse what would begin outside the policy's hours."""
        policy.check_hours(self._rules(), silo=self._silo, now=datetime.now(UTC))

    def _check_head(self, manifest: Manifest) -> None:
        """Refuse while this ledger lacks what the coordinator has a receipt of."""
        known = manifest.heads.get(self._silo)
        if known is not None and not self._ledger.knows(Head(known.entry, known.hash)):
            raise IntegrityError(
                f"silo {self._silo}: the coordinator has a receipt of entry {known.entry} of this "
                f"ledger, which is not in it; was a backup restored? tacit ledger recover "
                f"{self._silo} brings it up to date",
                field="heads",
                value=known.entry,
            )

    def _derived(self, spec: JobSpec) -> tuple[PartyFacts, PartyQuote, str]:
        """The quote and its digest, where a spec can be priced at all."""
        try:
            facts, quote = self._quote(spec)
            return facts, quote, digest(quote.document())
        except TacitError:
            raise
        except Exception as error:  # numbers so large or so small that arithmetic gives up
            raise BadInput(
                f"silo {self._silo}: the job cannot be priced ({type(error).__name__})",
                field="spec",
            ) from error

    def _units(self, asked: Manifest, spec: JobSpec, quote: PartyQuote) -> int:
        """How many units all silos of a job declare for its data set."""
        declared = (self._federation.silos[silo].sizes.get(spec.dataset) for silo in asked.quotes)
        return sum(sizes.units(quote.unit) for sizes in declared if sizes is not None)


def _bound(spec: JobSpec, facts: PartyFacts, quote: PartyQuote) -> float | None:
    """The epsilon that bounds what the job releases here; None where none does."""
    if "unprotected" in spec.leaving:
        return None
    bound = pricing.epsilon(quote.event, quote, facts)
    return bound if math.isfinite(bound) else None

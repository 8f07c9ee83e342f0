"""What a job ran at a silo, and settling it: from what was kept, whatever has changed since.

Nothing is derived again here. The quote is the one in the manifest that the ledger reserved, by
its digest; the facts that price it are those of the reservation. So a job can be settled after
the federation, its sizes, its schema, the policy or the code have changed.
"""

from __future__ import annotations

from federation import pricing
from federation.errors import IntegrityError, TacitError
from federation.jobfiles import Executed, JobFiles
from federation.jobs.base import PartyQuote
from federation.release import Gate
from federation.spec import digest
from privacy.errors import WrongState
from privacy.events import NOTHING, Event
from privacy.ledger import ChargeState, Ledger, Receipt, State, Stop

RUNNING = (State.STARTED, State.READ)


class Settling:
    """The end of one job at one silo; who settles has the job's releases `held`."""

    def __init__(self, silo: str, ledger: Ledger, files: JobFiles, gate: Gate) -> None:
        self._silo = silo
        self._ledger = ledger
        self._files = files
        self._gate = gate

    def quote(self, charge: ChargeState) -> PartyQuote:
        """The quote as it was reserved; `IntegrityError` where the manifest kept is another."""
        body = self._files.manifest().get("body")
        if digest(body) != charge.digest or not isinstance(body, dict):
            raise other_manifest(self._silo, charge.job)
        return PartyQuote.read(body["quotes"][self._silo])

    def executed(self, charge: ChargeState) -> Executed:
        """Why the job ended here, and what it ran: all of it, or the releases it began.

        Nothing, where no row was ever read. All of it, where the silo died at its work, and where
        something unprotected was begun: whoever stopped the job may have looked at it first. Once
        the charge is settled what was kept then holds: the releases are gone.
        """
        if charge.state is State.FORFEITED:
            return Executed(Stop.OWN_FAULT, self.quote(charge).event, None)
        kept = self._files.executed()
        if kept is not None and charge.state not in RUNNING:
            return kept
        released = self._ledger.released(charge.job)  # before the releases are looked at
        stop = self._files.stop()
        if stop is not Stop.COMPLETED and self._gate.unprotected():
            stop = Stop.OWN_FAULT
        if charge.state is State.STARTED:
            event: Event = NOTHING
        elif stop in (Stop.COMPLETED, Stop.OWN_FAULT):
            event = self.quote(charge).event
        else:
            event = self._gate.begun()
        ran = Executed(stop, event, released)
        self._files.keep_executed(ran)
        return ran

    def settle(self, charge: ChargeState) -> Receipt:
        """Settle on what was run; where the files do not tell it any more, on all of it.

        Once settled or forfeited, it answers the same receipt.
        """
        job = charge.job
        if charge.state is State.FORFEITED:  # by its owner, or after a restored backup
            return self._ledger.forfeit(job)
        if charge.state is State.SETTLED and charge.ended_at is not None:
            return next(self._ledger.entries(after=charge.ended_at - 1))
        while True:
            try:
                ran = self.executed(charge)
                priced = self._priced(charge, ran.event)
            except (*TacitError, KeyError, TypeError, ValueError) as error:
                self._files.keep_fault(error)
                return self._ledger.settle(job, executed=None, stop=Stop.OWN_FAULT, released=None)
            try:
                return self._ledger.settle(
                    job, executed=priced, stop=ran.stop, released=ran.released
                )
            except WrongState as error:
                # Something was logged while it was computed. A job logs no more than it has
                # reserved, so this ends.
                if error.field != "released":
                    raise

    def epsilons(self, charge: ChargeState) -> tuple[float, float]:
        """The PLD price of what the job ran here and of all that it had planned, at its delta.

        For a job that stopped early on its own results only the second is a proven bound: a PLD
        prices a plan that was fixed before it began.
        """
        quote, facts = self.quote(charge), self._files.facts()
        ran = self.executed(charge).event
        return pricing.epsilon(ran, quote, facts), pricing.epsilon(quote.event, quote, facts)

    def _priced(self, charge: ChargeState, event: Event) -> dict[str, Event]:
        """What an event costs each account that was charged, by the facts of its reservation."""
        costs = pricing.account_events(event, self.quote(charge).unit, self._files.facts())
        return {account: costs[account] for account in charge.lines}


def other_manifest(silo: str, job: str) -> IntegrityError:
    """The error for a stored manifest that is not the one that the ledger reserved."""
    return IntegrityError(
        f"silo {silo}: the stored manifest of job {job} is not the one that was reserved",
        field="manifest",
    )

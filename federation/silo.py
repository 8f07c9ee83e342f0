"""A silo, as it is on its own host: its policy, its ledger, its keys and its rows.

It obeys signed manifests of installed kinds and nothing else. Before a row is read it has checked
the manifest, derived the quote again from the spec, asked its own policy and its own ledger, and
seen the coordinator's go, which carries the reservations of all silos. Where its policy wants a
person's approval, it has that too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from federation import jobs, policy, pricing
from federation.admission import Admission
from federation.approvals import Approvals
from federation.capacities import Capacities
from federation.errors import ApprovalNeeded, BadInput, IntegrityError, NotFound, TacitError
from federation.home import Home
from federation.jobfiles import JobFiles
from federation.jobs.base import AccountFacts, PartyFacts, PartyQuote, SiloContext
from federation.listening import Listening
from federation.manifest import (
    Manifest,
    check_go,
    job_id,
    read_manifest,
    spec_of,
)
from federation.membership import Membership
from federation.release import Gate, held
from federation.schema import FileSplit
from federation.settling import RUNNING, Settling, other_manifest
from federation.spec import JobSpec
from privacy.ledger import ChargeState, Ledger, Receipt, State, Stop
from secure.errors import ExchangeClosed
from secure.exchange.base import Endpoint
from secure.keys import SigningKey, verify

if TYPE_CHECKING:
    from federation.sources.rows import Part

_GIVEN_BACK = (State.RELEASED, State.EXPIRED)


class Silo:
    """One silo of a federation, opened on the host that holds its home."""

    def __init__(self, home: Home, name: str) -> None:
        self.name = name
        self._home = home
        self._paths = home.silo(name)
        self._federation = home.federation()
        self._membership = Membership.load(home)
        self._membership.check_terms(home)
        self._config = home.silo_config(name)
        self._policy = policy.Current(self._paths.config, lambda: home.silo_config(name).policy)
        self.key = SigningKey.load(self._config.key)
        self._membership.check_own(name, self.key.public)
        self.ledger = Ledger.open(
            self._config.ledger_url,
            silo=name,
            head=self._paths.head,
            signer=self.key,
            verify=verify,
        )
        self.approvals = Approvals(
            name, self._paths.jobs, self._policy.now, self.ledger, self._membership.terms
        )
        self.capacities = Capacities(
            name, self._paths.capacities, self._policy, self.ledger, self._membership.terms
        )
        self._admission = Admission(
            name,
            federation=self._federation,
            membership=self._membership,
            rules=self._policy.now,
            ledger=self.ledger,
            approvals=self.approvals,
            quote=self.quote,
            check_source=self.check_source,
        )

    def close(self) -> None:
        """Close the ledger's connections."""
        self.ledger.close()

    def facts(self, dataset: str) -> PartyFacts:
        """The public facts with which a job on this dataset is priced here."""
        schema = self._federation.dataset(dataset)
        source = self._config.source_of(dataset)
        sizes = self._federation.silos[self.name].sizes
        if dataset not in sizes:
            raise NotFound(
                f"silo {self.name} declares no sizes of data set {dataset!r}",
                field="dataset",
                value=dataset,
                allowed=sorted(sizes),
            )
        return PartyFacts(
            silo=self.name,
            source=source,
            dataset=schema,
            sizes=sizes[dataset],
            accounts=tuple(
                AccountFacts(a.id, a.unit, a.relation, a.delta, a.filter, a.delta0)
                for a in self.ledger.accounts()
                if a.source == source
            ),
        )

    def check_source(self, dataset: str) -> None:
        """Refuse a source that is not there or lacks a column; no row is read.

        Where this silo declares no rows of the data set, nothing is looked at: nothing reads it.
        """
        from federation.sources.table import check_columns

        if not self.facts(dataset).sizes.rows:
            return
        schema = self._federation.dataset(dataset)
        source = self._config.sources[self._config.source_of(dataset)]
        check_columns(source, schema.columns)
        if isinstance(schema.split, FileSplit):
            check_columns(source, schema.columns, separate_test=True)

    def quote(self, spec: JobSpec) -> tuple[PartyFacts, PartyQuote]:
        """Derive the quote of a job here, from the spec and this silo's public facts."""
        facts = self.facts(spec.dataset)
        return facts, pricing.quotes(spec, {self.name: facts})[self.name]

    def consider(self, manifest: dict[str, Any]) -> None:
        """Check a manifest against policy, and charge nothing: what comes before `reserve`.

        Raises what `reserve` raises but for the budget; `ApprovalNeeded` where a person has to
        approve the job first, who finds it in this silo's requests from now on.
        """
        asked, seal = self._admission.opened(manifest)
        self._files(asked.job).check_not_refused(seal)
        if self.ledger.charge(asked.job) is None:
            self._admission.checked(asked)

    def standing(self, job: str) -> dict[str, Any]:
        """Where the request for approval of a job stands, and whether it could begin now."""
        now, rules = datetime.now(UTC), self._policy.now()
        return {
            "state": self.approvals.standing(job).state,
            "open": rules.hours is None or rules.hours.contains(now),
        }

    def reserve(self, manifest: dict[str, Any]) -> Receipt:
        """Check a manifest against policy and ledger, and reserve what the job costs.

        Raises `PolicyRefused`, `Refused` (budget), `BadInput` or `IntegrityError`; then nothing
        is reserved, and the same manifest is refused for good; but not for want of an approval
        (`ApprovalNeeded`). Once it was reserved, it gets the same receipt again.
        """
        asked, seal = self._admission.opened(manifest)
        files = self._files(asked.job)
        files.check_not_refused(seal)  # even where the nonce was lost: the table is only a memory
        charge = self.ledger.charge(asked.job)
        if charge is not None and charge.digest == seal and charge.state not in _GIVEN_BACK:
            return self._reservation(charge)
        try:
            return self._reserve(manifest, asked, seal)
        except TacitError as error:
            # What was not there, or not approved, may be the next time.
            if error.exit_code != 5 and not isinstance(error, ApprovalNeeded):
                files.refuse(seal, error)
            raise

    def end(self, job: str) -> Receipt | None:
        """End a job from outside: a reservation comes back, what was started is settled.

        None where the job was never reserved here; ended before, it is its receipt again. Nobody
        need approve it any more.
        """
        charge = self.ledger.charge(job_id(job))
        if charge is None:
            self.approvals.withdraw(job)
            return None
        if charge.state in (State.RESERVED, *_GIVEN_BACK):
            return self.ledger.release(job)
        return self.settle(job)

    def start(self, job: str, go: dict[str, Any]) -> Receipt:
        """Start on the coordinator's go, durably, before any row is read.

        The go must be signed and carry every silo's reservation of this manifest, signed by that
        silo; the secret of the job's samples and noise is drawn here.
        """
        charge, manifest = self._reserved(job)
        self._check_may_run(charge, manifest)
        if charge.state is State.RESERVED:  # what has begun goes on at any hour
            self._admission.check_hours()
        seal = check_go(
            go,
            coordinator=self._federation.coordinator,
            manifest=manifest,
            manifest_digest=charge.digest,
            keys=self._membership.terms.silos,
            own=self._reservation(charge),
        )
        receipt = self.ledger.start(job, go=seal)
        if self._charge(job).state is State.STARTED:  # once rows were read it is never drawn anew
            self._files(job).draw_secret()
        return receipt

    def participate(self, job: str, endpoint: Endpoint, *, deadline: float) -> None:
        """Take part until the coordinator ends the job; what was run is kept for settlement.

        A fault of this silo's own crosses as its code only and forfeits the charge. A second
        session of a job, or one of a job that is not running, is refused and changes nothing.
        """
        try:
            self._charge(job)
            with held(self._releases(job)):
                state = self._charge(job).state
                if state not in RUNNING:
                    raise BadInput(
                        f"job {job} is {state.value} at silo {self.name}: nothing is to be run",
                        field="job",
                        value=state.value,
                        allowed=[state.value for state in RUNNING],
                    )
                self._take_part(job, endpoint, deadline)
        except Exception as error:
            body: bytes = msgpack.packb(getattr(error, "code", "SILO-FAULT"))
            with contextlib.suppress(ExchangeClosed):
                endpoint.send("coordinator", round=0, name="fault", body=body)

    def settle(self, job: str) -> Receipt:
        """Settle what was run, destroy the job's secret, and drop its stored releases.

        Raises `BadInput` while a session of the job is at work.
        """
        self._charge(job)
        with held(self._releases(job)):
            receipt = self._settling(job).settle(self._charge(job))
            self._files(job).destroy_secret()
            self._gate(job).forget()
        return receipt

    def epsilons(self, job: str) -> tuple[float, float]:
        """The PLD price of what the job ran here, and of all that it had planned."""
        return self._settling(job).epsilons(self._charge(job))

    def _reserve(self, manifest: dict[str, Any], asked: Manifest, seal: str) -> Receipt:
        facts, quote, approval = self._admission.checked(asked)
        if self.ledger.charge(asked.job) is None:
            self._files(asked.job).keep(manifest, facts)
        return self.ledger.reserve(
            key=asked.job,
            job=asked.job,
            events=pricing.account_events(quote.event, quote.unit, facts),
            releases=quote.releases,
            refundable=quote.refundable,
            digest=seal,
            expires=asked.expires,
            approval=approval,
        )

    def _take_part(self, job: str, endpoint: Endpoint, deadline: float) -> None:
        files = self._files(job)
        files.keep_stop(None)
        try:
            context = self._context(job, endpoint, deadline)
            stop = jobs.kind(context.spec.kind).participate(context)
        except ExchangeClosed:
            # The coordinator went away: the charge stands, and a resume goes on with it.
            stop = Stop.OTHER_PARTY
        except Exception as error:
            files.keep_fault(error)
            files.keep_stop(Stop.OWN_FAULT)
            raise
        files.keep_stop(stop)

    def _context(self, job: str, endpoint: Endpoint, deadline: float) -> SiloContext:
        charge, manifest = self._reserved(job)
        spec = self._check_may_run(charge, manifest)
        files = self._files(job)
        facts, quote = files.facts(), self._settling(job).quote(charge)

        def allowed() -> frozenset[str]:
            return policy.protections(self._policy.now(), spec.opens)

        def rows(part: str) -> Part:
            from federation.sources.rows import load_part

            self.ledger.mark_read(job)
            return load_part(self._config, facts.dataset, part)

        parties = {"coordinator", *manifest.quotes} - {self.name}
        silos = sorted(manifest.quotes)
        return SiloContext(
            federation=self._federation.name,
            job=job,
            role=spec.role(self.name),
            spec=spec,
            quote=quote,
            facts=facts,
            endpoint=Listening(endpoint, parties, files.keep_dropped),
            gate=self._gate(job, allowed, quote.releases),
            secret=files.secret(),
            signer=self.key,
            members={silo: self._membership.key(silo) for silo in silos},
            sizes={silo: self._federation.silos[silo].sizes[spec.dataset] for silo in silos},
            directory=self._paths.jobs / job,
            rows=rows,
            deadline=deadline + spec.deadline,  # while others are waited for, nobody speaks
            models=self._paths.models,
            queries=self._policy.now().queries,
            begin=lambda: self.ledger.mark_read(job),
        )

    def _reserved(self, job: str) -> tuple[ChargeState, Manifest]:
        """The charge of a job, and the manifest that it was reserved for."""
        charge = self._charge(job)
        stored = self._files(job).manifest()
        manifest, seal = read_manifest(stored, self._federation.coordinator)
        if seal != charge.digest:
            raise other_manifest(self.name, job)
        return charge, manifest

    def _reservation(self, charge: ChargeState) -> Receipt:
        """The receipt of a charge's reservation, from the ledger."""
        return next(self.ledger.entries(after=charge.reserved_at - 1))

    def _check_may_run(self, charge: ChargeState, manifest: Manifest) -> JobSpec:
        """Refuse a job once what all agreed on, this silo's policy or its accounts have changed."""
        self._admission.check_agreed(manifest)
        spec = spec_of(manifest)
        self._admission.check_policy(spec)
        accounts = {account.id for account in self.facts(spec.dataset).accounts}
        if accounts != set(charge.lines):
            raise IntegrityError(
                f"silo {self.name}: the source's accounts are not those that job {charge.job} is "
                "charged to; it can only be cancelled",
                field="accounts",
                value=sorted(charge.lines),
                allowed=sorted(accounts),
            )
        return spec

    def _files(self, job: str) -> JobFiles:
        return JobFiles(self._paths.jobs / job_id(job))

    def _releases(self, job: str) -> Path:
        return self._paths.releases / job_id(job)

    def _gate(
        self,
        job: str,
        allowed: Callable[[], frozenset[str]] = lambda: frozenset(),
        planned: Mapping[str, int] | None = None,
    ) -> Gate:
        return Gate(self.ledger, job, self._releases(job), allowed, planned or {})

    def _settling(self, job: str) -> Settling:
        return Settling(self.name, self.ledger, self._files(job), self._gate(job))

    def _charge(self, job: str) -> ChargeState:
        charge = self.ledger.charge(job_id(job))
        if charge is None:
            raise NotFound(
                f"silo {self.name} has no reservation of job {job}", field="job", value=job
            )
        return charge

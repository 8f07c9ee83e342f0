"""A silo, as it is on its own host: its policy, its ledger, its keys and its rows.

It obeys signed manifests of installed kinds and nothing else. Before a row is read it has checked
the manifest, derived the quote again from the spec, asked its own policy and its own ledger, and
seen the coordinator's go, which carries the reservations of all silos.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from federation import jobs, policy, pricing
from federation.errors import BadInput, IntegrityError, NotFound, TacitError
from federation.home import Home
from federation.jobfiles import JobFiles
from federation.jobs.base import AccountFacts, PartyFacts, PartyQuote, SiloContext
from federation.listening import Listening
from federation.manifest import (
    SKEW,
    Manifest,
    check_agreed,
    check_go,
    check_time,
    job_id,
    read_manifest,
    spec_of,
)
from federation.membership import Membership
from federation.release import Gate, held
from federation.schema import FileSplit
from federation.settling import RUNNING, Settling, other_manifest
from federation.spec import JobSpec, digest
from privacy.ledger import ChargeState, Head, Ledger, Receipt, State, Stop
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
        """Refuse a source that is not there or lacks a column; no row is read."""
        from federation.sources.table import check_columns

        schema = self._federation.dataset(dataset)
        source = self._config.sources[self._config.source_of(dataset)]
        check_columns(source, schema.columns)
        if isinstance(schema.split, FileSplit):
            check_columns(source, schema.columns, separate_test=True)

    def quote(self, spec: JobSpec) -> tuple[PartyFacts, PartyQuote]:
        """Derive the quote of a job here, from the spec and this silo's public facts."""
        facts = self.facts(spec.dataset)
        quote = jobs.kind(spec.kind).quote(spec, {self.name: facts})[self.name]
        pricing.check_terms(facts)
        return facts, quote

    def reserve(self, manifest: dict[str, Any]) -> Receipt:
        """Check a manifest against policy and ledger, and reserve what the job costs.

        Raises `PolicyRefused`, `Refused` (budget), `BadInput` or `IntegrityError`; then nothing
        is reserved, and the same manifest is refused for good. Once it was reserved, it gets the
        same receipt again.
        """
        asked, seal = read_manifest(manifest, self._federation.coordinator)
        check_time(asked, datetime.now(UTC))
        self._check_agreed(asked)
        self._check_head(asked)
        files = self._files(asked.job)
        self.ledger.see_nonce(asked.nonce, seal, asked.expires + SKEW)
        files.check_not_refused(seal)  # even where the nonce was lost: the table is only a memory
        charge = self.ledger.charge(asked.job)
        if charge is not None and charge.digest == seal and charge.state not in _GIVEN_BACK:
            return self._reservation(charge)
        try:
            return self._reserve(manifest, asked, seal)
        except TacitError as error:
            if error.exit_code != 5:  # what was not there may be there the next time
                files.refuse(seal, error)
            raise

    def end(self, job: str) -> Receipt | None:
        """End a job from outside: a reservation comes back, what was started is settled.

        None where the job was never reserved here; ended before, it is its receipt again.
        """
        charge = self.ledger.charge(job_id(job))
        if charge is None:
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
        spec = spec_of(asked)
        self._check_policy(spec)
        self.check_source(spec.dataset)
        facts, quote, derived = self._derived(spec)
        stated = asked.quotes.get(self.name)
        if stated is None or derived != digest(stated.model_dump(mode="json")):
            raise IntegrityError(
                f"silo {self.name}: the coordinator's quote is not the one derived here",
                field="quote",
            )
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
        )

    def _derived(self, spec: JobSpec) -> tuple[PartyFacts, PartyQuote, str]:
        """The quote and its digest, where a spec can be priced at all."""
        try:
            facts, quote = self.quote(spec)
            return facts, quote, digest(quote.document())
        except TacitError:
            raise
        except Exception as error:  # numbers so large or so small that arithmetic gives up
            raise BadInput(
                f"silo {self.name}: the job cannot be priced ({type(error).__name__})",
                field="spec",
            ) from error

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
            return policy.protections(
                self._policy.now(),
                no_privacy=spec.no_privacy,
                exact_evaluation=spec.exact_evaluation,
            )

        def rows(part: str) -> Part:
            from federation.sources.rows import load_part

            self.ledger.mark_read(job)
            return load_part(self._config, facts.dataset, part)

        parties = {"coordinator", *manifest.quotes} - {self.name}
        silos = sorted(manifest.quotes)
        return SiloContext(
            federation=self._federation.name,
            job=job,
            role="trainer",
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

    def _check_agreed(self, manifest: Manifest) -> None:
        self._membership.check_signed()
        check_agreed(manifest, self._membership)

    def _check_head(self, manifest: Manifest) -> None:
        """Refuse while this ledger lacks what the coordinator has a receipt of."""
        known = manifest.heads.get(self.name)
        if known is not None and not self.ledger.knows(Head(known.entry, known.hash)):
            raise IntegrityError(
                f"silo {self.name}: the coordinator has a receipt of entry {known.entry} of this "
                f"ledger, which is not in it; was a backup restored? tacit ledger recover "
                f"{self.name} brings it up to date",
                field="heads",
                value=known.entry,
            )

    def _check_may_run(self, charge: ChargeState, manifest: Manifest) -> JobSpec:
        """Refuse a job once what all agreed on, this silo's policy or its accounts have changed."""
        self._check_agreed(manifest)
        spec = spec_of(manifest)
        self._check_policy(spec)
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

    def _check_policy(self, spec: JobSpec) -> None:
        policy.check(
            self._policy.now(),
            silo=self.name,
            kind=spec.kind,
            no_privacy=spec.no_privacy,
            exact_evaluation=spec.exact_evaluation,
            packages=spec.packages,
        )

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

"""A silo, as it is on its own host: its policy, its ledger, its keys and its rows.

It obeys signed manifests of installed kinds and nothing else. Before a row is read it has checked
the manifest, derived the quote again from the spec, asked its own policy and its own ledger, and
seen the coordinator's go, which carries the reservations of all silos.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from federation import jobs, policy, pricing, statements
from federation.documents import parse
from federation.errors import IntegrityError, NotFound
from federation.home import Home
from federation.jobs.base import AccountFacts, PartyFacts, PartyQuote, SiloContext
from federation.membership import Membership
from federation.release import Gate, write_durably
from federation.spec import JobSpec, digest
from federation.version import code_version
from privacy.events import NOTHING, Event
from privacy.events import parse as parse_event
from privacy.ledger import ChargeState, Ledger, Receipt, State, Stop
from secure.errors import ExchangeClosed
from secure.exchange.base import Endpoint
from secure.keys import SigningKey, verify

if TYPE_CHECKING:
    from federation.sources.rows import Part

MANIFEST_LIFE = timedelta(minutes=10)
SKEW = timedelta(minutes=2)


class Silo:
    """One silo of a federation, opened on the host that holds its home."""

    def __init__(self, home: Home, name: str) -> None:
        self.name = name
        self._home = home
        self._paths = home.silo(name)
        self._federation = home.federation()
        self._membership = Membership.load(home)
        self._config = home.silo_config(name)
        self.key = SigningKey.load(self._config.key)
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
        return PartyFacts(
            silo=self.name,
            source=source,
            dataset=schema,
            sizes=self._federation.silos[self.name].sizes[dataset],
            accounts=tuple(
                AccountFacts(a.id, a.unit, a.relation, a.delta, a.filter, a.delta0)
                for a in self.ledger.accounts()
                if a.source == source
            ),
        )

    def quote(self, spec: JobSpec) -> tuple[PartyFacts, PartyQuote]:
        """Derive the quote of a job here, from the spec and this silo's public facts."""
        facts = self.facts(spec.dataset)
        quote = jobs.kind(spec.kind).quote(spec, {self.name: facts})[self.name]
        pricing.check_terms(quote, facts)
        return facts, quote

    def reserve(self, manifest: dict[str, Any]) -> Receipt:
        """Check a manifest against policy and ledger, and reserve what the job costs.

        Raises `PolicyRefused`, `Refused` (budget), `BadInput` or `IntegrityError`; then nothing
        is reserved. The same manifest again returns the same receipt.
        """
        body = self._read_manifest(manifest)
        job = str(body["job"])
        spec = _parse_spec(body["spec"])
        policy.check(
            self._config.policy,
            silo=self.name,
            kind=spec.kind,
            no_privacy=spec.no_privacy,
            exact_evaluation=spec.exact_evaluation,
            packages=spec.packages,
        )
        facts, quote = self.quote(spec)
        if digest(quote.document()) != digest(body["quotes"][self.name]):
            raise IntegrityError(
                f"silo {self.name}: the coordinator's quote is not the one derived here",
                field="quote",
            )
        directory = self._job(job)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        receipt = self.ledger.reserve(
            key=job,
            job=job,
            events=pricing.account_events(quote.event, quote.unit, facts),
            refundable=quote.refundable,
            digest=digest(body),
            expires=datetime.fromisoformat(body["expires"]),
        )
        write_durably(directory / "manifest.json", json.dumps(manifest).encode())
        return receipt

    def end(self, job: str) -> Receipt | None:
        """End a job from outside: a reservation comes back, what was started is settled.

        None where the job was never reserved here; ended before, it is its receipt again.
        """
        charge = self.ledger.charge(job)
        if charge is None:
            return None
        if charge.state in (State.RESERVED, State.RELEASED, State.EXPIRED):
            return self.ledger.release(job)
        return self.settle(job)

    def start(self, job: str, go: dict[str, Any]) -> Receipt:
        """Start on the coordinator's go, durably, before any row is read.

        The go must be signed and carry every silo's reservation, signed by that silo; the
        secret of the job's samples and noise is drawn here.
        """
        body = statements.read(go, self._federation.coordinator, kind="go")
        manifest = self._manifest(job)
        if body["job"] != job or body["manifest"] != digest(manifest["body"]):
            raise IntegrityError("the go is for another job or manifest", field="go")
        for silo in manifest["body"]["quotes"]:
            receipt = Receipt.read(body["receipts"].get(silo))
            receipt.check(self._membership.key(silo), verify)
            if receipt.job != job or receipt.kind != "reserve" or receipt.silo != silo:
                raise IntegrityError(f"the go lacks the reservation of {silo}", field="go")
        receipt = self.ledger.start(job, go=digest(body))
        secret = self._job(job) / "secret"
        if not secret.exists():
            write_durably(secret, secrets.token_bytes(32))
        return receipt

    def participate(self, job: str, endpoint: Endpoint, *, deadline: float) -> None:
        """Take part until the coordinator ends the job; what was run is kept for settlement.

        A fault of this silo's own crosses as its code only and forfeits the charge.
        """
        spec = _parse_spec(self._manifest(job)["body"]["spec"])
        facts, quote = self.quote(spec)
        allowed = policy.protections(
            self._config.policy,
            no_privacy=spec.no_privacy,
            exact_evaluation=spec.exact_evaluation,
        )

        def rows(part: str) -> Part:
            from federation.sources.rows import load_part

            self.ledger.mark_read(job)
            return load_part(self._config, facts.dataset, part)

        context = SiloContext(
            job=job,
            role="trainer",
            spec=spec,
            quote=quote,
            facts=facts,
            endpoint=endpoint,
            gate=self._gate(job, allowed, quote.releases),
            secret=(self._job(job) / "secret").read_bytes(),
            rows=rows,
            deadline=deadline,
        )
        (self._job(job) / "stop").unlink(missing_ok=True)
        try:
            stop = jobs.kind(spec.kind).participate(context)
        except ExchangeClosed:
            # The coordinator went away: the charge stands, and a resume goes on with it.
            self._keep(job, Stop.OTHER_PARTY)
            return
        except Exception as error:
            self._log(job, error)
            self._keep(job, Stop.OWN_FAULT)
            code = getattr(error, "code", "SILO-FAULT")
            body: bytes = msgpack.packb(code)
            endpoint.send("coordinator", job=job, round=0, name="fault", body=body)
            return
        self._keep(job, stop)

    def settle(self, job: str) -> Receipt:
        """Settle what was run, destroy the job's secret, and drop its stored releases."""
        facts, quote = self.quote(_parse_spec(self._manifest(job)["body"]["spec"]))
        stop, event = self._executed(job, quote)
        charge = self._charge(job)
        if charge.state is State.FORFEITED:  # by its owner, or after a restored backup
            receipt = self.ledger.forfeit(job)
        else:
            ran = pricing.account_events(event, quote.unit, facts)
            executed = {account: ran[account] for account in charge.lines}
            receipt = self.ledger.settle(job, executed=executed, stop=stop)
        secret = self._job(job) / "secret"
        if secret.exists():
            with secret.open("r+b") as file:
                file.write(os.urandom(32))
                os.fsync(file.fileno())
            secret.unlink()
        self._gate(job).forget()
        return receipt

    def executed_epsilon(self, job: str) -> float:
        """The PLD price of what the job ran here, at the account's delta."""
        facts, quote = self.quote(_parse_spec(self._manifest(job)["body"]["spec"]))
        return pricing.epsilon(self._executed(job, quote)[1], quote, facts)

    def _job(self, job: str) -> Path:
        return self._paths.jobs / job

    def _gate(
        self,
        job: str,
        allowed: frozenset[str] = frozenset(),
        planned: Mapping[str, int] | None = None,
    ) -> Gate:
        return Gate(self.ledger, job, self._paths.releases / job, allowed, planned or {})

    def _keep(self, job: str, stop: Stop) -> None:
        write_durably(self._job(job) / "stop", stop.value.encode())

    def _executed(self, job: str, quote: PartyQuote) -> tuple[Stop, Event]:
        """Why the job ended here, and what it ran: all of it, or the releases it began.

        Nothing, where no row was ever read. A silo that left no word of why it ended died at its
        work, perhaps of what it read. Once the charge is settled what was kept then holds: the
        releases are gone.
        """
        kept = self._job(job) / "executed.json"
        state = self._charge(job).state
        if state in (State.STARTED, State.READ) or not kept.exists():
            said = self._job(job) / "stop"
            stop = Stop(said.read_text()) if said.exists() else Stop.OWN_FAULT
            if state is State.STARTED:
                event: Event = NOTHING
            elif stop in (Stop.COMPLETED, Stop.OWN_FAULT):
                event = quote.event
            else:
                event = self._gate(job).begun()
            record = {"stop": stop.value, "event": event.model_dump(mode="json")}
            write_durably(kept, json.dumps(record).encode())
        record = json.loads(kept.read_bytes())
        return Stop(record["stop"]), parse_event(record["event"])

    def _log(self, job: str, error: Exception) -> None:
        """Write the fault where the owner can read it; it may hold row values and stays here."""
        import traceback

        text = "".join(traceback.format_exception(error))
        write_durably(self._job(job) / "fault.log", text.encode())

    def _charge(self, job: str) -> ChargeState:
        charge = self.ledger.charge(job)
        if charge is None:
            raise self._unknown(job)
        return charge

    def _unknown(self, job: str) -> NotFound:
        return NotFound(f"silo {self.name} has no reservation of job {job}", field="job", value=job)

    def _manifest(self, job: str) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads((self._job(job) / "manifest.json").read_bytes())
        except FileNotFoundError:
            raise self._unknown(job) from None
        return manifest

    def _read_manifest(self, manifest: dict[str, Any]) -> dict[str, Any]:
        body = statements.read(manifest, self._federation.coordinator, kind="manifest")
        now = datetime.now(UTC)
        issued = datetime.fromisoformat(body["issued"])
        expires = datetime.fromisoformat(body["expires"])
        if not (issued - SKEW <= now <= expires + SKEW and expires - issued <= MANIFEST_LIFE):
            raise IntegrityError(
                "the manifest is not valid now; compare the clocks of silo and coordinator",
                field="manifest",
                value=f"issued {body['issued']}, expires {body['expires']}",
                allowed=f"{MANIFEST_LIFE} from issue, {SKEW} of skew",
            )
        if body["membership"] != self._membership.version:
            raise IntegrityError(
                f"the manifest names membership {body['membership']}, this silo signed "
                f"{self._membership.version}",
                field="membership",
                value=body["membership"],
                allowed=self._membership.version,
            )
        if body["code"] != code_version():
            raise IntegrityError(
                "the coordinator runs other code than this silo", field="code", value=body["code"]
            )
        return body


def _parse_spec(data: dict[str, Any]) -> JobSpec:
    return parse(data, jobs.kind(data.get("kind")).Spec, "job")

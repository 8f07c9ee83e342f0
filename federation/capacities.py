"""Capacities: whoever holds a silo's ledger lowers what an account allows; two persons raise it.

A raised capacity is a larger claim to everybody whose rows are behind it, for good. One of the
policy's approvers **proposes** it by a signed statement, a second one **agrees** by another over
the same proposal, and the ledger's entry holds both. A proposal serves once, ends after
`approval_days`, and is void once the account's capacity, the membership or the ledger it was made
on is another. Where the policy says `raised_by: 1`, the holder of the ledger raises it alone, and
the entry shows that nobody else agreed.

It keeps honest people from acting alone and makes every raise name who wanted it. Whoever can write
the silo's files can write its policy too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from federation import statements
from federation.documents import parse
from federation.errors import BadInput, IntegrityError, NotFound, PolicyRefused
from federation.home import Home
from federation.manifest import SKEW, Instant, Known
from federation.membership import Membership, Terms
from federation.persons import Persons
from federation.policy import Current, Policy
from federation.spec import Name, digest
from privacy.ledger import Account, Head, Ledger, clock
from privacy.ledger.durable import write_durably
from privacy.ledger.terms import check_epsilon
from secure.keys import SigningKey

KIND = "capacity"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Proposal(_Body):
    """Another capacity for an account that allows `was` now."""

    federation: Name
    membership: Annotated[int, Field(ge=1)]
    silo: Name
    account: Annotated[str, Field(max_length=200)]
    was: float
    epsilon: float
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def about(self) -> str:
        """The digest of everything that is proposed."""
        return digest(self.model_dump(mode="json"))


class Word(_Body):
    """What one person signs: a proposal, and the head of the ledger that they saw."""

    kind: Literal["capacity"]
    proposal: Proposal
    head: Known
    by: Name
    at: Instant
    until: Instant


class Capacities:
    """What the accounts of one silo allow, and what was proposed that they allow.

    `directory` holds one file per proposal that waits: the statement of whoever proposed it.
    """

    def __init__(
        self,
        silo: str,
        directory: Path,
        policy: Current,
        ledger: Ledger,
        terms: Terms,
    ) -> None:
        self._silo = silo
        self._directory = directory
        self._policy = policy
        self._ledger = ledger
        self._terms = terms

    def set(
        self, account: str, epsilon: float, reason: str, key: SigningKey | None = None
    ) -> Word | None:
        """Lower a capacity, or raise it where the policy lets one do it; else propose to raise it.

        Returns the proposal that now waits for a second person, or None where it is done. Raises
        `PolicyRefused` where two persons have to sign and no key is given, `BadInput` where the
        policy does not enrol the key.
        """
        check_epsilon(epsilon)
        was = self._account(account).capacity_epsilon
        policy = self._policy.now()
        if epsilon <= was or policy.raised_by == 1:
            self._ledger.set_capacity(account, epsilon, reason, was=was)
            self._file(account).unlink(missing_ok=True)
            return None
        if key is None or len(policy.approvers) < policy.raised_by:
            raise PolicyRefused(
                f"silo {self._silo}: raising {account} from {was:g} to {epsilon:g} takes two "
                "persons of policy.approvers, each with --key and a key of their own; enrolled: "
                f"{', '.join(sorted(policy.approvers)) or 'nobody'} (policy.raised_by: 1 lets one "
                "do it)",
                field="policy.raised_by",
                value=policy.raised_by,
                allowed=sorted(policy.approvers),
            )
        asked = {
            "federation": self._terms.federation,
            "membership": self._terms.version,
            "silo": self._silo,
            "account": account,
            "was": was,
            "epsilon": epsilon,
            "reason": reason,
            "nonce": secrets.token_hex(16),
        }
        proposal = parse(asked, Proposal, "proposal")
        word, statement = self._sign(proposal, key)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._file(account), json.dumps(statement, indent=1).encode())
        return word

    def proposed(self, account: str) -> Word:
        """The proposal that waits for a second person, or `NotFound` where none holds now."""
        return self._waiting(account)[0]

    def agree(self, account: str, key: SigningKey) -> Account:
        """Raise a capacity as it was proposed, as the second person who signs it.

        Raises `NotFound` where nothing is proposed, or not any more; `BadInput` where the key is
        nobody's, or the proposer's own.
        """
        first, statement = self._waiting(account)
        word, second = self._sign(first.proposal, key)
        if word.by == first.by:
            raise BadInput(
                f"silo {self._silo}: {first.by} proposed this; a second person agrees, by a key of "
                "their own",
                field="key",
                value=key.public,
                allowed=sorted(set(self._policy.now().approvers) - {first.by}),
            )
        proposal = first.proposal
        # Seen before it is done: a crash in between leaves a proposal that has to be made again.
        if not self._ledger.see_nonce(proposal.nonce, proposal.about, first.until):
            raise self._nothing(account)
        raised = self._ledger.set_capacity(
            account,
            proposal.epsilon,
            proposal.reason,
            was=proposal.was,
            agreed=[statement, second],
        )
        self._file(account).unlink(missing_ok=True)
        return raised

    def _sign(self, proposal: Proposal, key: SigningKey) -> tuple[Word, dict[str, Any]]:
        policy, now, head = self._policy.now(), clock.now(), self._ledger.head()
        word = Word(
            kind="capacity",
            proposal=proposal,
            head=Known(entry=head.seq, hash=head.hash),
            by=Persons(self._silo, policy, self._terms).name(key.public),
            at=now,
            until=now + timedelta(days=policy.approval_days),
        )
        return word, statements.sign(word.model_dump(mode="json"), key)

    def _waiting(self, account: str) -> tuple[Word, dict[str, Any]]:
        """What is proposed for an account, read with all its conditions, and its statement."""
        allows, policy = self._account(account).capacity_epsilon, self._policy.now()
        statement = _statement(self._file(account))
        here = (self._terms, self._silo, account, allows)
        word = _read(statement, policy, *here, clock.now())
        if word is None or not self._ledger.knows(Head(word.head.entry, word.head.hash)):
            raise self._nothing(account)
        return word, statement

    def _account(self, account: str) -> Account:
        """The account of this id, `SOURCE/UNIT`."""
        for found in self._ledger.accounts():
            if found.id == account:
                return found
        raise NotFound(
            f"silo {self._silo} has no account {account!r}",
            field="account",
            value=account,
            allowed=[found.id for found in self._ledger.accounts()],
        )

    def _file(self, account: str) -> Path:
        return _file(self._directory, account)

    def _nothing(self, account: str) -> NotFound:
        return NotFound(
            f"silo {self._silo}: nobody has proposed another capacity of {account}, or it holds no "
            "more; `tacit budget set` with --key proposes one",
            field="account",
            value=account,
        )


def proposals(
    home: Home, silo: str, capacities: Mapping[str, float], now: datetime
) -> Iterator[Word]:
    """What waits for a second person at a silo, from its files alone: no key is opened.

    `capacities`: what each account allows, by its id, `SOURCE/UNIT`.
    """
    directory = home.silo(silo).capacities
    if not directory.exists():
        return
    policy, terms = home.silo_config(silo).policy, Membership.load(home).terms
    for account, allows in sorted(capacities.items()):
        word = _read(
            _statement(_file(directory, account)), policy, terms, silo, account, allows, now
        )
        if word is not None:
            yield word


def _file(directory: Path, account: str) -> Path:
    return directory / f"{account.replace('/', '.')}.json"


def _statement(file: Path) -> Any:
    """What a file says, whatever it is; None where it says nothing."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _read(
    statement: Any,
    policy: Policy,
    terms: Terms,
    silo: str,
    account: str,
    allows: float,
    now: datetime,
) -> Word | None:
    """The proposal in a statement, if it holds: signed by an approver, about this, and in time."""
    names = Persons(silo, policy, terms).names
    key = statement.get("key") if isinstance(statement, dict) else None
    if not isinstance(key, str) or key not in names:
        return None
    try:
        word = parse(statements.read(statement, key, kind=KIND), Word, KIND)
    except (BadInput, IntegrityError):
        return None
    said = word.proposal
    about = (said.federation, said.membership, said.silo, said.account, said.was)
    ends = min(word.until, word.at + timedelta(days=policy.approval_days))
    holds = about == (terms.federation, terms.version, silo, account, allows)
    return word if holds and word.by == names[key] and word.at - SKEW <= now <= ends else None

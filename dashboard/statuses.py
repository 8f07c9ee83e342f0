"""One word for an account and for a home: the worst wins, and what is not verified is no data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dashboard.checker import STALE, Check
from dashboard.queries import AccountLine, Overview
from dashboard.verification import Chain

WORST_FIRST = ("breached", "exhausted", "no data", "at risk", "healthy")
NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Judged:
    """An account with its status and, where that is `no data`, why."""

    account: AccountLine
    status: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ledger: whether its chain verifies, how far, when, and who else vouches.

    `verified` is `None` while nothing is known.
    """

    silo: str
    verified: bool | None
    entries: int
    position: int
    finding: str
    at: datetime | None
    vouched_to: int
    vouched_by: str


def worst(statuses: Iterable[str]) -> str:
    """The worst of some statuses; of none it is `no data`."""
    return min(statuses, key=WORST_FIRST.index, default=NO_DATA)


def verdicts(overview: Overview, check: Check | None, now: datetime) -> tuple[Verdict, ...]:
    """Lay the check beside the ledgers as they are now."""
    chains = {c.silo: c for c in check.finding.chains} if check and check.finding else {}
    lines = []
    for books in overview.silos:
        chain = chains.get(books.silo)
        stale = check is not None and now - check.at > STALE
        if chain is None or check is None or (stale and chain.ok):
            why = (check.failure if check else "") or ("check out of date" if stale else "")
            found = Verdict(
                silo=books.silo,
                verified=False if books.problem else None,
                entries=books.entries,
                position=0,
                finding=books.problem or why or "not checked yet",
                at=check.at if check else None,
                vouched_to=0,
                vouched_by="",
            )
        else:
            found = _verdict(books.entries, chain, check.at)
        lines.append(found)
    return tuple(lines)


def judge(overview: Overview, found: Iterable[Verdict]) -> tuple[Judged, ...]:
    """Give every account its status: what its ledger says, or `no data` where that is worse."""
    by_silo = {verdict.silo: verdict for verdict in found}
    lines = []
    for account in overview.accounts:
        why = _doubt(account, by_silo[account.silo])
        status = worst([account.standing, *([NO_DATA] if why else [])])
        lines.append(Judged(account, status, why or account.breach))
    return tuple(lines)


def whole(judged: Iterable[Judged], overview: Overview) -> str:
    """The status of a home: the worst of its accounts and of ledgers that cannot be read."""
    unread = [NO_DATA for books in overview.silos if books.problem]
    return worst([*(line.status for line in judged), *unread])


def attention(
    judged: Iterable[Judged], found: Iterable[Verdict], overview: Overview
) -> tuple[tuple[str, str], ...]:
    """What is not healthy, the worst first: a status and, as plain data, what it is about."""
    lines = [(line.status, _about(line)) for line in judged if line.status != WORST_FIRST[-1]]
    broken = {verdict.silo: verdict.finding for verdict in found if verdict.verified is False}
    for books in overview.silos:
        if books.silo in broken:
            lines.append((NO_DATA, f"ledger of {books.silo}: {broken[books.silo]}"))
        elif books.problem:
            lines.append((NO_DATA, f"ledger of {books.silo}: {books.problem}"))
    return tuple(sorted(lines, key=lambda line: WORST_FIRST.index(line[0])))


def _about(line: Judged) -> str:
    return f"{line.account.name}: {line.why}" if line.why else line.account.name


def _verdict(entries: int, chain: Chain, at: datetime) -> Verdict:
    reason = chain.reason
    if not chain.ok and chain.bad:
        reason = f"entry {chain.bad}: {reason}"
    return Verdict(
        silo=chain.silo,
        verified=chain.ok,
        entries=max(entries, chain.entries),
        position=chain.entries if chain.ok else max((chain.bad or 1) - 1, 0),
        finding=reason,
        at=at,
        vouched_to=chain.vouched_to,
        vouched_by=chain.vouched_by,
    )


def _doubt(account: AccountLine, verdict: Verdict) -> str:
    if verdict.verified is False:
        return "the ledger does not verify"
    if verdict.verified is None:
        return verdict.finding
    if verdict.position < account.touched:
        return f"entries after {verdict.position} are not checked yet"
    return ""

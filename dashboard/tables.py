"""Rows as the columns that people see: plain values, no Markdown, ready for a grid or a file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from dashboard.queries import AccountLine, ReleaseLine
from dashboard.statuses import Judged, Verdict
from dashboard.strings import APPROVAL, PROTECTION, STATUS
from dashboard.subjects import PersonLine
from federation import approvals as asked
from federation import capacities

Row = dict[str, object]


def accounts(judged: Iterable[Judged]) -> list[Row]:
    """One row per account."""
    return [
        {
            "silo": a.silo,
            "source": a.source,
            "protects": f"one {a.unit}",
            "status": STATUS[line.status],
            "used %": 100 * a.used,
            "allows ε": a.capacity,
            "spent ε": finite(a.spent),
            "reserved ε": finite(a.reserved),
            "left ε": finite(a.remaining),
            "claims ε": a.claim,
            "at δ": f"{a.delta:g}",
            "jobs that fit": a.jobs_that_fit,
            "at this pace until": day(a.spent_by),
            "unprotected": a.unprotected,
            "relation": a.relation,
            "filter": a.filter,
            "note": line.why,
        }
        for line in judged
        for a in [line.account]
    ]


def chains(verdicts: Iterable[Verdict]) -> list[Row]:
    """One row per ledger."""
    words = {True: "✓ verifies", False: "✕ does not verify", None: "? not verified"}
    return [
        {
            "silo": v.silo,
            "ledger": words[v.verified],
            "checked": f"{v.position} of {v.entries}",
            "vouched to": f"{v.vouched_to} by {v.vouched_by}" if v.vouched_to else "nobody",
            "finding": v.finding,
        }
        for v in verdicts
    ]


def spends(account: AccountLine) -> list[Row]:
    """One row per charge, the newest first."""
    return [
        {
            "reserved (UTC)": moment(s.when),
            "job": s.job,
            "state": s.state,
            "takes %": finite(100 * s.share),
            "ε alone": finite(s.epsilon),
            "used after %": 100 * s.used_after,
            "ε after": finite(s.epsilon_after),
            "entry": s.entry,
            "mechanism": s.mechanism,
        }
        for s in reversed(account.spends)
    ]


def releases(lines: Iterable[ReleaseLine]) -> list[Row]:
    """One row per silo, job and protection, the unprotected first."""
    ordered = sorted(lines, key=lambda r: (r.protection != "unprotected", r.silo, r.job))
    return [
        {
            "silo": r.silo,
            "job": r.job,
            "protection": PROTECTION.get(r.protection, r.protection),
            "releases": r.count,
            "what": ", ".join(r.names),
        }
        for r in ordered
    ]


def approvals(lines: Iterable[asked.Line]) -> list[Row]:
    """One row per request, those that nobody has answered first, then the newest."""
    waits = ("pending", "elsewhere", "expired")
    newest = sorted(lines, key=lambda line: line.asked, reverse=True)
    ordered = sorted(newest, key=lambda line: line.state not in waits)
    return [
        {
            "silo": line.silo,
            "job": line.job,
            "state": APPROVAL[line.state],
            "kind": line.kind,
            "data set": line.dataset,
            "ε alone": line.epsilon,
            "at δ": "" if line.delta is None else f"{line.delta:g}",
            "asked (UTC)": moment(line.asked),
            "by": line.by or " or ".join(line.approvers),
            "until (UTC)": moment(line.until) if line.until else "",
            "reason": line.reason,
            "spec, code and quote": line.about,
        }
        for line in ordered
    ]


def proposals(words: Iterable[capacities.Word]) -> list[Row]:
    """One row per account whose capacity somebody wants to raise."""
    return [
        {
            "silo": word.proposal.silo,
            "account": word.proposal.account,
            "allows ε": word.proposal.was,
            "to allow ε": word.proposal.epsilon,
            "reason": word.proposal.reason,
            "proposed by": word.by,
            "until (UTC)": moment(word.until),
            "signed over": word.proposal.about,
        }
        for word in words
    ]


def people(lines: Iterable[PersonLine]) -> list[Row]:
    """One row per data set and relation."""
    return [
        {
            "data set": p.dataset,
            "relation": p.relation,
            "silos": p.silos,
            "claims ε": p.claim,
            "spent ε": finite(p.spent),
            "at δ": f"{p.delta:g}",
        }
        for p in lines
    ]


def shown(rows: list[Row]) -> list[Row]:
    """The rows without the columns that say nothing in any of them."""
    empty = {key for key in (rows[0] if rows else {}) if all(row[key] == "" for row in rows)}
    return [{key: value for key, value in row.items() if key not in empty} for row in rows]


def finite(value: float) -> float | None:
    """A number, and nothing where an account can no longer state it."""
    return value if math.isfinite(value) else None


def day(at: datetime | None) -> str:
    """A date for people, in UTC."""
    return at.astimezone(UTC).date().isoformat() if at else ""


def moment(at: datetime) -> str:
    """A time for people, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")

"""Rows as the columns that people see: plain values, no Markdown, ready for a grid or a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from dashboard.charts import epsilon, percent
from dashboard.queries import AccountLine, ReleaseLine
from dashboard.statuses import Judged, Verdict
from dashboard.strings import STATUS
from dashboard.subjects import PersonLine

Row = dict[str, object]


def accounts(judged: Iterable[Judged]) -> list[Row]:
    """One row per account."""
    return [
        {
            "silo": a.silo,
            "source": a.source,
            "protects": f"one {a.unit}",
            "status": STATUS[line.status],
            "used": a.used,
            "allows ε": a.capacity,
            "spent ε": epsilon(a.spent),
            "reserved ε": epsilon(a.reserved),
            "left ε": epsilon(a.remaining),
            "claims ε": a.claim,
            "at δ": f"{a.delta:g}",
            "jobs that fit": a.jobs_that_fit,
            "used up by": a.spent_by.date().isoformat() if a.spent_by else "",
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
            "vouched to": f"{v.vouched_to} ({v.vouched_by})" if v.vouched_to else "nobody",
            "at (UTC)": moment(v.at) if v.at else "",
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
            "takes": percent(s.share),
            "ε alone": epsilon(s.epsilon),
            "used after": percent(s.used_after),
            "ε after": epsilon(s.epsilon_after),
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
            "protection": "▲ unprotected" if r.protection == "unprotected" else r.protection,
            "releases": r.count,
            "what": ", ".join(r.names),
        }
        for r in ordered
    ]


def people(lines: Iterable[PersonLine]) -> list[Row]:
    """One row per data set and relation."""
    return [
        {
            "data set": p.dataset,
            "relation": p.relation,
            "silos": p.silos,
            "claims ε": epsilon(p.claim),
            "spent ε": epsilon(p.spent),
            "at δ": f"{p.delta:g}",
        }
        for p in lines
    ]


def moment(at: datetime) -> str:
    """A time for people, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")

"""Charts as pure functions of rows. Status is a word beside every bar, not a colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import altair as alt

from dashboard.queries import AccountLine
from dashboard.statuses import NO_DATA, WORST_FIRST, Judged
from dashboard.strings import STATUS
from privacy.ledger.views import AT_RISK

Chart = alt.LayerChart | alt.FacetChart

COLORS = {
    "healthy": "#2a8f85",
    "at risk": "#d98e04",
    "no data": "#7d8590",
    "exhausted": "#c8553d",
    "breached": "#8e2a63",
}
BAR = 34
"""Height of one account in the bars, in pixels."""


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours of text and of what recedes."""

    text: str
    faint: str


LIGHT = Ink("#31333f", "#e3e6ea")
DARK = Ink("#e6e8ec", "#3a3f4a")


def budget_bars(judged: Sequence[Judged], unread: Sequence[str], ink: Ink = LIGHT) -> Chart:
    """One bar per account: the share that is used, with its status in words.

    Silos in `unread`, whose ledgers cannot be read, get an empty bar that says so.
    """
    rows: list[dict[str, object]] = [
        {
            "account": label,
            "used": min(line.account.used, 1.0),
            "whole": 1.0,
            "status": line.status,
            "said": f"{percent(line.account.used)}   {STATUS[line.status]}",
            "capacity": f"{line.account.capacity:g}",
            "spent": epsilon(line.account.spent),
            "left": epsilon(line.account.remaining),
        }
        for label, line in zip(labels([x.account for x in judged]), judged, strict=True)
    ]
    rows += [{"account": silo, "used": 0, "whole": 1, "said": STATUS[NO_DATA]} for silo in unread]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y(
            "account:N",
            sort=None,
            title=None,
            axis=alt.Axis(
                labelLimit=260, labelFontSize=13, ticks=False, domain=False, labelPadding=8
            ),
        ),
        tooltip=[
            alt.Tooltip("account:N", title="account"),
            alt.Tooltip("said:N", title="used"),
            alt.Tooltip("capacity:N", title="allows ε"),
            alt.Tooltip("spent:N", title="spent ε"),
            alt.Tooltip("left:N", title="left ε"),
        ],
    )
    x = alt.X(
        "used:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1.3], nice=False),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1], grid=False),
    )
    track = base.mark_bar(height=16, cornerRadius=4, color=ink.faint).encode(
        x=alt.X("whole:Q", title=None)
    )
    bars = base.mark_bar(height=16, cornerRadius=4).encode(
        x=x,
        color=alt.Color(
            "status:N",
            scale=alt.Scale(domain=list(WORST_FIRST), range=[COLORS[s] for s in WORST_FIRST]),
            legend=None,
        ),
    )
    words = base.mark_text(align="left", dx=10, fontSize=13, color=ink.text).encode(
        x=alt.X("whole:Q", title=None), text="said:N"
    )
    mark = (
        alt.Chart(alt.InlineData(values=[{"at": AT_RISK}]))
        .mark_rule(strokeDash=[3, 3], color=COLORS["at risk"], size=1.5)
        .encode(x=alt.X("at:Q", title=None))
    )
    said = "; ".join(f"{row['account']} {row['said']}" for row in rows)
    return alt.layer(track, bars, mark, words).properties(
        height=BAR * len(rows) + 40, description=f"Share of each budget that is used: {said}"
    )


def course(account: AccountLine, now: datetime, ink: Ink = LIGHT) -> Chart:
    """How an account was used over time, job by job, and where its rate leads."""
    steps = [{"when": _utc(s.when), "used": s.used_after} for s in account.spends]
    before = [{"when": steps[0]["when"], "used": 0.0}] if steps else []
    line = [*before, *steps, {"when": _utc(now), "used": account.used}]
    points = [
        {
            "when": _utc(s.when),
            "used": s.used_after,
            "at": s.when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "job": s.job,
            "alone": epsilon(s.epsilon),
            "after": epsilon(s.epsilon_after),
            "gone": percent(s.used_after),
        }
        for s in account.spends
    ]
    x = alt.X(
        "when:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(grid=False, tickCount=6)
    )
    y = alt.Y(
        "used:Q",
        title="used",
        scale=alt.Scale(domain=[0, max(1.0, account.used)]),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
    )
    color = COLORS["healthy"]
    gone = (
        alt.Chart(alt.InlineData(values=line))
        .mark_area(interpolate="step-after", opacity=0.18, color=color, line={"color": color})
        .encode(x=x, y=y)
    )
    jobs = (
        alt.Chart(alt.InlineData(values=points))
        .mark_point(filled=True, size=70, opacity=1, color=color)
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("job:N"),
                alt.Tooltip("at:N", title="reserved"),
                alt.Tooltip("alone:N", title="ε alone"),
                alt.Tooltip("after:N", title="ε after"),
                alt.Tooltip("gone:N", title="used after"),
            ],
        )
    )
    layers = [gone, jobs]
    if account.spent_by is not None:
        ahead = [
            {"when": _utc(now), "used": account.used},
            {"when": _utc(account.spent_by), "used": 1.0},
        ]
        layers.append(
            alt.Chart(alt.InlineData(values=ahead))
            .mark_line(strokeDash=[5, 4], color=ink.text, opacity=0.6)
            .encode(x=x, y=y)
        )
    return alt.layer(*layers).properties(
        height=260,
        description=f"{account.name}: {percent(account.used)} used by {len(points)} charges",
    )


def labels(accounts: Sequence[AccountLine]) -> list[str]:
    """Name accounts by silo, and by source and unit only where that tells them apart."""
    sources = len({(a.source, a.unit) for a in accounts}) > 1
    return [f"{a.silo} · {a.source} · one {a.unit}" if sources else a.silo for a in accounts]


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.1%}"


def epsilon(value: float) -> str:
    """An epsilon for people; what no order can state any more is beyond the account."""
    return "beyond" if value == float("inf") else f"{value:.2f}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""The page of budgets: what is allowed, spent and left, and whether the ledgers verify.

Text that comes from ledgers and settings goes through `st.text`, grids and charts only: none of
them reads Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import charts, exports, queries, reading, statuses, strings, subjects, tables
from dashboard.checker import Check, Checker
from federation.home import Home
from privacy.ledger import clock
from privacy.ledger.views import AT_RISK

REFRESH = 15.0  # seconds after which an open page looks again
FIRST, LATER = 20.0, 3.0  # seconds to wait for the first check, and for one after a change
MOST = 8  # lines below the headline; the tables hold the rest

BOX = {
    "healthy": st.success,
    "at risk": st.warning,
    "no data": st.warning,
    "exhausted": st.error,
    "breached": st.error,
}


@st.cache_resource(show_spinner=False)
def _checker(root: str) -> Checker:
    return Checker(Path(root))


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _overview(root: str, marks: Hashable) -> queries.Overview:
    return queries.overview(Home(Path(root)))


@st.fragment(run_every=REFRESH)
def _body(home: Home) -> None:
    marks = queries.marks(home)
    overview = _overview(str(home.root), marks)
    st.text(strings.AS_OF.format(name=overview.federation, at=tables.moment(clock.now())))
    if not overview.silos:
        st.info(strings.NO_SILO)
        st.text(strings.NO_SILO_NEXT)
        return
    checker = _checker(str(home.root))
    anew = bool(st.session_state.pop("verify_again", False))
    with st.spinner(strings.VERIFYING):
        first = checker.latest(marks, 0, anew=anew) is None
        check = checker.latest(marks, FIRST if first or anew else LATER)
    found = statuses.verdicts(overview, check, clock.now())
    judged = statuses.judge(overview, found)

    _headline(overview, found, judged)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader(strings.BARS)
        unread = [books.silo for books in overview.silos if books.problem]
        if judged or unread:
            st.altair_chart(charts.budget_bars(judged, unread, _ink()), width="stretch")
            st.caption(strings.AT_RISK_FROM.format(share=AT_RISK))
        if not any(account.spends for account in overview.accounts):
            st.info(strings.NO_SPENDS_AT_ALL)
            st.code(strings.NEXT_JOB, language=None)
    with right:
        _chains(home, found, check, checker.running)
    _accounts(judged)
    _behind(overview)
    _releases(overview)
    _approvals(overview)
    _proposals(overview)
    _people(overview)
    if overview.elsewhere:
        st.caption(strings.ELSEWHERE)
        st.text(", ".join(overview.elsewhere))
    st.caption(strings.FOOT)


def _headline(
    overview: queries.Overview,
    found: tuple[statuses.Verdict, ...],
    judged: tuple[statuses.Judged, ...],
) -> None:
    status = statuses.whole(judged, overview)
    BOX[status](f"**{strings.STATUS[status]}.** {strings.HEADLINE[status]}")
    lines = statuses.attention(judged, found, overview)[:MOST]
    if lines:
        st.text("\n".join(f"{strings.STATUS[word]}   {about}" for word, about in lines))
    accounts = overview.accounts
    fits = [a.jobs_that_fit for a in accounts if a.jobs_that_fit is not None]
    verified = sum(verdict.verified is True for verdict in found)
    unprotected = sum(r.count for r in overview.releases if r.protection == "unprotected")
    if unprotected:
        st.warning(strings.OUTSIDE.format(number=unprotected))
    used = max((account.used for account in accounts), default=None)
    cards = [
        (strings.MOST_USED, charts.percent(used) if used is not None else "-"),
        (strings.JOBS_LEFT, str(min(fits)) if fits else "-"),
        (strings.VERIFIED, f"{verified} of {len(found)}"),
        (strings.UNPROTECTED, str(unprotected)),
    ]
    helps = (
        strings.MOST_USED_HELP,
        strings.JOBS_LEFT_HELP,
        strings.VERIFIED_HELP,
        strings.UNPROTECTED_HELP,
    )
    for column, (label, value), said in zip(st.columns(4), cards, helps, strict=True):
        column.metric(label, value, help=said, border=True)


def _chains(
    home: Home, found: tuple[statuses.Verdict, ...], check: Check | None, running: bool
) -> None:
    st.subheader(strings.CHAINS)
    st.dataframe(tables.shown(tables.chains(found)), hide_index=True, width="stretch")
    if check and check.finding and check.finding.mirror:
        st.error(strings.MIRROR_TROUBLE)
        st.text(check.finding.mirror)
    said = [strings.CHECKED.format(at=tables.moment(check.at))] if check else []
    said += [strings.CHECKING] if running else []
    st.caption(" ".join(said))
    st.caption(strings.ON_THIS_MACHINE if home.mirror.is_file() else strings.NOBODY_VOUCHES)
    st.button(strings.RECHECK, on_click=_ask_again)


def _ask_again() -> None:
    st.session_state["verify_again"] = True


def _accounts(judged: tuple[statuses.Judged, ...]) -> None:
    st.subheader(strings.ACCOUNTS)
    rows = tables.accounts(judged)
    _grid(rows, "used %")
    st.caption(strings.ACCOUNTS_NOTE)
    _download(rows, "accounts")


def _behind(overview: queries.Overview) -> None:
    accounts = {account.name: account for account in overview.accounts}
    if not accounts:
        return
    st.subheader(strings.BEHIND)
    chosen = st.selectbox(strings.CHOOSE, list(accounts))
    account = accounts[chosen]
    if not account.spends:
        st.info(strings.NO_SPENDS)
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        fits = account.jobs_that_fit
        said = (
            [strings.PACE.format(day=tables.day(account.spent_by))]
            if account.used < 1 and account.spent_by
            else []
        )
        said += [strings.FITS.format(number=fits)] if fits is not None else []
        st.caption(" ".join(said))
        st.altair_chart(charts.course(account, clock.now(), _ink()), width="stretch")
    rows = tables.spends(account)
    with right:
        _grid(rows)
        _download(rows, "spends")


def _releases(overview: queries.Overview) -> None:
    if not overview.releases:
        return
    st.subheader(strings.RELEASES)
    exposed = any(line.protection == "unprotected" for line in overview.releases)
    st.caption(strings.SOME_UNPROTECTED if exposed else strings.ALL_PROTECTED)
    _grid(tables.releases(overview.releases))


def _approvals(overview: queries.Overview) -> None:
    if not overview.approvals:
        return
    st.subheader(strings.APPROVALS)
    st.caption(strings.APPROVALS_NOTE)
    st.code(strings.APPROVALS_COMMAND, language=None)
    rows = tables.approvals(overview.approvals)
    _grid(rows)
    _download(rows, "approvals")


def _proposals(overview: queries.Overview) -> None:
    if overview.proposals:
        st.subheader(strings.PROPOSALS)
        st.caption(strings.PROPOSALS_NOTE)
        st.code(strings.PROPOSALS_COMMAND, language=None)
        _grid(tables.proposals(overview.proposals))


def _people(overview: queries.Overview) -> None:
    lines = subjects.people(overview.accounts, overview.holders, overview.silos_per_subject)
    if lines:
        st.subheader(strings.PEOPLE)
        st.caption(strings.PEOPLE_NOTE)
        _grid(tables.people(lines))


def _grid(rows: list[tables.Row], bar: str | None = None) -> None:
    """Show rows; numbers with two digits, and one column as a bar up to 100."""
    seen = tables.shown(rows)
    config: dict[str, Any] = {
        key: st.column_config.NumberColumn(format="%.2f" if "ε" in key else "%.1f")
        for key in (seen[0] if seen else {})
        if "ε" in key or "%" in key
    }
    if bar is not None:
        config[bar] = st.column_config.ProgressColumn(format="%.1f", min_value=0, max_value=100)
    st.dataframe(seen, hide_index=True, width="stretch", column_config=config, placeholder="")


def _download(rows: list[tables.Row], name: str) -> None:
    st.download_button(
        strings.DOWNLOAD, exports.to_csv(rows), f"{name}.csv", "text/csv", key=f"download_{name}"
    )


def _ink() -> charts.Ink:
    return charts.DARK if st.context.theme.type == "dark" else charts.LIGHT


def page() -> None:
    """Show the page, or what to do where there is no federation to show."""
    st.title(strings.TITLE)
    home = Home.find()
    if not home.federation_file.is_file():
        st.info(strings.EMPTY)
        st.text(strings.EMPTY_NEXT)
        st.code(strings.EMPTY_COMMAND, language=None)
        return
    try:
        home.federation()
    except reading.UNREADABLE as error:
        st.error(strings.BROKEN_HOME)
        st.text(reading.unreadable(error))
        return
    _body(home)


page()

"""`tacit budget ...` and `tacit price`: what is allowed, spent and left, and what events cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import HomeOption, Json, Output, find_home, grid, note, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from federation.capacities import Word
    from federation.silo import Silo
    from privacy.ledger import AccountTerms

AccountArgument = Annotated[str, typer.Argument(help="SILO/SOURCE/UNIT, as budget show prints it.")]
SiloOption = Annotated[str | None, typer.Option("--silo", help="Only this silo.")]


def show(silo: SiloOption = None, home: HomeOption = None, json: Json = False) -> None:
    """Show every account: what it allows, what is spent, what is left."""
    with reporting(json) as out:
        from federation.books import account_lines, opened
        from federation.capacities import proposals
        from privacy.ledger import clock

        where = find_home(home)
        with opened(where, silo) as ledgers:
            lines = [
                line for name, ledger in ledgers.items() for line in account_lines(name, ledger)
            ]
            waiting = [
                _proposal(name, word)
                for name, ledger in ledgers.items()
                for word in proposals(
                    where, name, {a.id: a.capacity_epsilon for a in ledger.accounts()}, clock.now()
                )
            ]
        _tell(out, lines, waiting)


def history(silo: SiloOption = None, home: HomeOption = None, json: Json = False) -> None:
    """Show the charges behind the balances, oldest first."""
    with reporting(json) as out:
        from federation.books import opened, spend_lines

        with opened(find_home(home), silo) as ledgers:
            lines = [line for name, ledger in ledgers.items() for line in spend_lines(name, ledger)]
        out.result({"spends": lines}, lambda screen: _show_rows(lines, screen))


def forecast(
    spec: Annotated[
        Path | None, typer.Argument(help="How many more jobs like this one fit?")
    ] = None,
    silo: SiloOption = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Tell when each account is spent at this month's rate, and how many more jobs fit."""
    with reporting(json) as out:
        from federation.books import forecast_lines
        from federation.jobs import load

        lines = forecast_lines(find_home(home), silo, load(spec) if spec else None)
        out.result({"accounts": lines}, lambda screen: _show_rows(lines, screen))


def open_(
    account: AccountArgument,
    epsilon: Annotated[float, typer.Option(help="What it allows.")],
    delta: Annotated[float, typer.Option(help="At this delta, for good.")],
    filter: Annotated[
        str, typer.Option(help="renyi, renyi1, basic, zcdp or gdp, for good.")
    ] = "renyi",
    relation: Annotated[str, typer.Option(help="add_remove or replace, for good.")] = "add_remove",
    delta0: Annotated[
        float, typer.Option(help="The part of delta for events that carry one.")
    ] = 0.0,
    look: Annotated[
        bool, typer.Option("--look", help="Open nothing; show what each filter would admit.")
    ] = False,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Open an account of a source, and show what each filter would admit of typical jobs."""
    with reporting(json) as out:
        from federation import opening
        from privacy.ledger import AccountTerms
        from privacy.ledger.choices import choices

        with _at_silo(account, home) as (silo, there):
            source, _, unit = there.rpartition("/")
            terms = AccountTerms(
                source=source,
                unit=unit,  # type: ignore[arg-type]
                relation=relation,  # type: ignore[arg-type]
                epsilon=epsilon,
                delta=delta,
                filter=filter,
                delta0=delta0,
            )
            opening.check(find_home(home), silo.name, terms)
            admits = choices(terms)
            if not look:
                silo.ledger.open_account(terms)
            lines = _lines(silo, there)
        out.result(
            {"accounts": lines, "admits": admits},
            lambda screen: _show_choices(admits, lines, terms, screen),
        )


def set_(
    account: AccountArgument,
    epsilon: Annotated[float, typer.Option(help="The new capacity.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger for good.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="Your own key, to propose a larger one.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Lower an account's capacity, or propose to raise it; the claim is the largest ever set."""
    with reporting(json) as out:
        from federation.errors import BadInput
        from secure.keys import SigningKey

        if not reason.strip():
            raise BadInput("reason: say why; it stands in the ledger for good", field="reason")
        with _at_silo(account, home) as (silo, name):
            mine = SigningKey.load(key) if key else None
            word = silo.capacities.set(name, epsilon, reason, mine)
            lines, waiting = _lines(silo, name), [_proposal(silo.name, word)] if word else []
        _tell(out, lines, waiting)


def agree(
    account: AccountArgument,
    key: Annotated[
        Path | None, typer.Option("--key", help="Your own key; without: only look.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Show what was proposed for an account; with --key, agree to it as the second person."""
    with reporting(json) as out:
        from secure.keys import SigningKey

        with _at_silo(account, home) as (silo, name):
            word = silo.capacities.proposed(name)
            if key:
                silo.capacities.agree(name, SigningKey.load(key))
            lines, waiting = _lines(silo, name), [] if key else [_proposal(silo.name, word)]
        _tell(out, lines, waiting)


@contextmanager
def _at_silo(account: str, home: Path | None) -> Iterator[tuple[Silo, str]]:
    """The silo that an account's id names, opened, and the account's id there."""
    from federation.errors import BadInput
    from federation.silo import Silo

    name, _, there = account.partition("/")
    if not there:
        raise BadInput(
            f"account {account!r} is not SILO/SOURCE/UNIT",
            field="account",
            value=account,
            allowed="SILO/SOURCE/UNIT, as budget show prints it",
        )
    silo = Silo(find_home(home), name)
    try:
        yield silo, there
    finally:
        silo.close()


def _show_choices(
    admits: dict[str, dict[str, int | None]],
    lines: list[dict[str, Any]],
    terms: AccountTerms,
    screen: Console,
) -> None:
    names = list(next(iter(admits.values())))
    title = (
        f"How many such jobs epsilon {terms.epsilon:g} at delta {terms.delta:g} admits, one after "
        f"the other, under {terms.relation.value}"
    )
    table = grid(title, "job", *names, left=1)
    for job, counts in admits.items():
        table.add_row(job, *("no price" if n is None else f"{n:,}" for n in counts.values()))
    screen.print(table)
    note(
        screen,
        "An account keeps its filter for good. renyi is the one for jobs of several kinds; basic "
        "gives nothing back where a job ends early.",
    )
    if lines:
        show_accounts(lines, screen)


def _tell(out: Output, accounts: list[dict[str, Any]], proposed: list[dict[str, Any]]) -> None:
    """Give how accounts stand, and what waits for a second person, as a command's result."""
    out.result(
        {"accounts": accounts, "proposed": proposed},
        lambda screen: _show_accounts(accounts, proposed, screen),
    )


def _lines(silo: Silo, account: str) -> list[dict[str, Any]]:
    from federation.books import account_lines

    whole = f"{silo.name}/{account}"
    return [line for line in account_lines(silo.name, silo.ledger) if line["account"] == whole]


def _proposal(silo: str, word: Word) -> dict[str, Any]:
    said = word.proposal
    return {
        "account": f"{silo}/{said.account}",
        "was": said.was,
        "epsilon": said.epsilon,
        "reason": said.reason,
        "by": word.by,
        "until": word.until.isoformat(timespec="seconds"),
        "signed_over": said.about,
    }


def price(
    event: Annotated[Path, typer.Argument(help="An event tree as JSON.", show_default=False)],
    delta: Annotated[float, typer.Option(help="Price at this delta.")],
    relation: Annotated[str | None, typer.Option(help="add_remove or replace.")] = None,
    json: Json = False,
) -> None:
    """Price any event tree by every accountant that supports it."""
    with reporting(json) as out:
        from federation.documents import read_yaml
        from federation.errors import BadInput
        from privacy import events
        from privacy.accounting import registry

        if not 0 < delta < 1:
            raise BadInput(f"delta: {delta:g} is not between 0 and 1", field="delta", value=delta)
        known = [str(r) for r in events.Relation]
        if relation is not None and relation not in known:
            raise BadInput(
                f"relation: {relation!r} is none of {', '.join(known)}",
                field="relation",
                value=relation,
                allowed=known,
            )
        related = events.Relation(relation) if relation else None
        prices = registry.price(events.parse(read_yaml(event)), delta, related)
        out.result(prices, lambda screen: _show_prices(prices, screen))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="What is allowed, spent and left.", no_args_is_help=True)
    group.command()(show)
    group.command()(history)
    group.command()(forecast)
    group.command("open")(open_)
    group.command("set")(set_)
    group.command()(agree)
    app.add_typer(group, name="budget")
    app.command()(price)


def _show_accounts(
    lines: list[dict[str, Any]], proposed: list[dict[str, Any]], screen: Console
) -> None:
    show_accounts(lines, screen)
    for said in proposed:
        note(
            screen,
            f"Proposed by {said['by']}, nothing changed yet: {said['account']} to allow "
            f"{said['epsilon']:g} instead of {said['was']:g}, {said['reason']!r}. A second person "
            f"agrees until {said['until']}: tacit budget agree {said['account']} --key FILE",
        )


def show_accounts(lines: list[dict[str, Any]], screen: Console) -> None:
    """Accounts for people, one line each."""
    columns = ("silo", "source", "protects", "status", "allows", "spent", "left", "used")
    table = grid("Privacy budgets, in epsilon", *columns, left=4)
    for line in lines:
        table.add_row(
            line["silo"],
            line["source"],
            f"one {line['unit']}",
            line["status"],
            f"{line['capacity']['epsilon']:.2f}",
            f"{line['spent']['epsilon']:.2f}",
            f"{line['remaining']['epsilon']:.2f}",
            f"{line['used']:.1%}",
        )
    screen.print(table)
    note(
        screen,
        "Spent is what the account's filter counts for all jobs so far, left is the rest of what "
        "it allows. Used is the share that decides how many more jobs fit. The claim to others "
        "is what the account allows, however little is spent.",
    )


def _show_prices(prices: dict[str, float], screen: Console) -> None:
    for name, value in prices.items():
        screen.print(f"{name:>6}  epsilon {value:.6f}")


def _show_rows(rows: list[dict[str, Any]], screen: Console) -> None:
    if not rows:
        screen.print("Nothing yet.")
        return
    table = grid(None, *(column.replace("_", " ") for column in rows[0]), left=len(rows[0]))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    screen.print(table)

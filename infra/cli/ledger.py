"""`tacit ledger ...`: verify the chains, export them, anchor their heads, recover a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import HomeOption, Json, find_home, reporting

if TYPE_CHECKING:
    from rich.console import Console

SiloOption = Annotated[str | None, typer.Option("--silo", help="Only this silo.")]


def verify(
    silo: SiloOption = None,
    against: Annotated[
        Path | None, typer.Option(help="A directory of heads that tacit ledger anchor wrote.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Check every column of every ledger against its chain, its head and what others hold."""
    with reporting(json) as out:
        from federation.books import verification

        document = verification(find_home(home), silo, against)
        out.result(document, lambda screen: _show(document, screen))
        raise typer.Exit(0 if document["ok"] else 4)


def export(
    silo: Annotated[str, typer.Argument(help="Whose ledger.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Where to; must not exist.", show_default=False)],
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Write all entries with their hashes and signatures as JSON lines."""
    with reporting(json) as out:
        from federation.books import export_entries

        count = export_entries(find_home(home), silo, file)
        document = {"silo": silo, "entries": count, "file": str(file.resolve())}
        out.result(document, lambda screen: screen.print(f"{count} entries in {file}"))


def anchor(
    directory: Annotated[
        Path, typer.Argument(help="Where to put the signed heads; best elsewhere.")
    ],
    silo: SiloOption = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Write a signed checkpoint of each ledger's head, to be kept by somebody else."""
    with reporting(json) as out:
        from federation.books import opened

        directory.mkdir(parents=True, exist_ok=True)
        files = []
        with opened(find_home(home), silo) as ledgers:
            for name, ledger in ledgers.items():
                path = directory / f"{name}-{ledger.head().seq}.json"
                ledger.checkpoint(path)
                files.append(str(path.resolve()))
        document = {"checkpoints": files}
        out.result(document, lambda screen: screen.print("\n".join(files), soft_wrap=True))


def recover(
    silo: Annotated[str, typer.Argument(help="Whose ledger.", show_default=False)],
    export_file: Annotated[
        Path | None, typer.Option("--from", help="Entries that tacit ledger export wrote.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """After a backup was restored: replay what others hold, and close what cannot be replayed."""
    with reporting(json) as out:
        from federation.books import recovered

        document = recovered(find_home(home), silo, export_file)
        out.result(document, lambda screen: _show_recovery(document, screen))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="The chains behind the budgets.", no_args_is_help=True)
    group.command()(verify)
    group.command()(export)
    group.command()(anchor)
    group.command()(recover)
    app.add_typer(group, name="ledger")


def _show(document: dict[str, Any], screen: Console) -> None:
    mirror = document.get("mirror")
    if mirror:
        screen.print(
            "No ledger under this home; run it at each silo. The coordinator's mirror holds: "
            f"{mirror['receipts']} receipts of {len(mirror['silos'])} silos, each as it was signed",
            soft_wrap=True,
        )
    for line in document["ledgers"]:
        word = "holds" if line["ok"] else "IS BROKEN"
        vouched = line["vouched_to"]
        by = f"; {line['vouched_by']} vouches up to entry {vouched}" if vouched else ""
        screen.print(f"{line['silo']}: the chain of {line['entries']} entries {word}{by}")
    bad = document["first_bad"]
    if bad:
        screen.print(f"First bad entry: {bad['silo']} {bad['seq']}: {bad['reason']}", markup=False)


def _show_recovery(document: dict[str, Any], screen: Console) -> None:
    screen.print(f"{document['silo']}: {document['replayed']} entries appended again")
    if document["lost"]:
        screen.print(
            f"{len(document['lost'])} known entries are lost, so these accounts are closed and "
            f"admit nothing more: {', '.join(document['breached'])}",
            soft_wrap=True,
        )

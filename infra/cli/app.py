"""The `tacit` command. Importing it loads neither torch nor Prefect; commands import late."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import typer

from infra.cli import budget, data, federations, job, ledger, windows
from infra.cli.reporting import fail

app = typer.Typer(
    name="tacit",
    help="Compute on data that may not be shown, and keep the account of what it cost in privacy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
federations.register(app)
job.register(app)
budget.register(app)
ledger.register(app)
data.register(app)
windows.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from federation.version import RELEASE

        print(f"tacit {RELEASE}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Federated work under enforced privacy budgets."""


def main() -> None:
    """Run the command; usage errors are bad input like any other."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        message = error.format_message() or str(error)
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        fail({"code": "USAGE", "message": message + hint}, "--json" in sys.argv)
        code = 2
    sys.exit(code)

"""The `tacit` command. Importing it loads neither torch nor Prefect; commands import late."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from infra.cli import budget, data, federations, job, ledger, sealing, stack, verification, windows
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
stack.register(app)
budget.register(app)
ledger.register(app)
data.register(app)
sealing.register(app)
verification.register(app)
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
    except typer.Exit as leaving:
        code = leaving.exit_code
    except typer.Abort:
        code = 130
    except Exception as error:
        # Typer carries its own copy of click, whose usage errors are known by this method only.
        if not hasattr(error, "format_message"):
            raise
        said, context = error.format_message(), getattr(error, "ctx", None)
        if said.startswith("Usage:"):  # a group that was called without a command
            print(said, file=sys.stderr)
        else:
            fail(_usage(error, said, context), "--json" in sys.argv)
        code = 2
    sys.exit(code)


def _usage(error: Any, said: str, context: Any) -> dict[str, Any]:
    """A usage error in the shape of all others."""
    hint = f" See {context.command_path} --help." if context else ""
    message = (said if said.endswith((".", "?")) else f"{said}.") + hint
    parameter = getattr(error, "param", None)
    option = str(getattr(error, "option_name", None) or "").lstrip("-")
    field = parameter.name if parameter is not None else option or None
    allowed = getattr(error, "possibilities", None)
    return {"code": "USAGE", "message": message, "field": field, "allowed": allowed or None}

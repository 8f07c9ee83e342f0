"""How a command speaks: one JSON document or text for people, and errors as exit codes.

Results go to stdout; progress, logs and errors to stderr. With `--json` an error is one JSON
document on stdout, `{error: {code, message, field, value, allowed}}`. Exit codes: 0 done, 2 bad
input, 3 refused by budget or policy, 4 integrity failure, 5 something needed is not there, 1
anything else.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.extras import install

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from federation.home import Home

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The federation's directory; else TACIT_HOME, the nearest federation.yaml, ./.tacit.",
        show_default=False,
    ),
]

EXTRAS = {
    "sklearn": "examples",
    "streamlit": "dashboard",
    "altair": "dashboard",
    "psycopg": "postgres",
}
"""Which extra brings a module."""

PATH_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""What a wrong path on the command line raises: bad input, not a fault of ours."""


class Output:
    """Where a command puts its result."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, document: Any, text: Callable[[Console], None]) -> None:
        """Print the document, or let `text` write it for people."""
        if self.as_json:
            _print_json(document)
        else:
            text(console())


def _print_json(document: Any) -> None:
    """One document that every JSON reader takes: no NaN, no Infinity, but their names."""
    print(json.dumps(_named(document), indent=2, default=str, allow_nan=False))


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list | tuple) else value


def grid(title: str | None, *columns: str, left: int = 1) -> Table:
    """A plain table for people; the first `left` columns hold words, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge, table.show_edge = False, False
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return table


def note(screen: Console, text: str) -> None:
    """An explanation under a table."""
    screen.print(text, style="dim", markup=False)


def console(*, stderr: bool = False) -> Console:
    """A rich console; 100 columns where the output is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 100)


@contextmanager
def reporting(as_json: bool) -> Iterator[Output]:
    """Run a command's work; every error becomes a message and an exit code."""
    try:
        yield Output(as_json)
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        fail({"code": "INTERRUPTED", "message": "interrupted; tacit job resume goes on"}, as_json)
        raise typer.Exit(130) from None
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        extra = EXTRAS.get(name)
        hint = f"; {install(extra)}" if extra else ""
        told = {"code": "MISSING", "message": f"{name} is not installed{hint}"}
        told |= {"field": "extra", "value": extra} if extra else {"field": "module", "value": name}
        fail(told, as_json)
        raise typer.Exit(5) from None
    except Exception as error:
        if os.environ.get("TACIT_DEBUG"):
            traceback.print_exc()
        if isinstance(error, PATH_ERRORS) and error.filename is not None:
            path = os.fsdecode(error.filename)
            told = {"code": "FILE", "message": f"{path}: {error.strerror}"}
            fail(told | {"field": "file", "value": path}, as_json)
            raise typer.Exit(2) from None
        if hasattr(error, "exit_code") and hasattr(error, "message"):
            fail(described(error), as_json)
            raise typer.Exit(error.exit_code) from None
        message = f"internal error {type(error).__name__}; TACIT_DEBUG=1 shows where"
        fail({"code": "INTERNAL", "message": message}, as_json)
        raise typer.Exit(1) from None


def described(error: Any) -> dict[str, Any]:
    """The public parts of one of our errors."""
    return {
        "code": error.code,
        "message": error.message,
        "field": error.field,
        "value": error.value,
        "allowed": error.allowed,
    }


def fail(error: dict[str, Any], as_json: bool) -> None:
    """Print an error where the caller looks for it."""
    full = {"code": None, "message": None, "field": None, "value": None, "allowed": None} | error
    if as_json:
        _print_json({"error": full})
    else:
        from rich.markup import escape

        out = console(stderr=True)
        out.print(f"[bold red]{full['code']}[/] {escape(str(full['message']))}")


def find_home(explicit: Path | None) -> Home:
    """The home that a command works on."""
    from federation.home import Home

    return Home.find(explicit)


def pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    """The values of an option that is given as NAME=VALUE, each name once."""
    from federation.errors import BadInput

    found = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(found) != len(texts):
        raise BadInput(
            f"--{option} takes {form}, each name once", field=option, value=texts, allowed=form
        )
    return found

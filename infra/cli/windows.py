"""`tacit dashboard` and `tacit doctor`: windows onto the federation and this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import HomeOption, Json, find_home, reporting

if TYPE_CHECKING:
    from rich.console import Console


def dashboard(
    port: Annotated[int, typer.Option(help="Loopback port.", min=1, max=65535)] = 8501,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Open the governance dashboard on this machine; Ctrl-C ends it."""
    with reporting(json):
        import importlib.util
        import os

        from dashboard.launch import command, environment
        from federation.errors import Missing
        from infra.extras import install

        where = find_home(home)
        where.federation()
        if importlib.util.find_spec("streamlit") is None:
            raise Missing(
                f"the dashboard needs streamlit; {install('dashboard')}",
                field="extra",
                value="dashboard",
            )
        # This process becomes the server, so a signal meant for it leaves nothing behind.
        words = command(port)
        os.execve(words[0], words, environment(where.root))  # noqa: S606


def doctor(home: HomeOption = None, json: Json = False) -> None:
    """Look at versions, ports, disk, clock and stray processes; changes nothing."""
    with reporting(json) as out:
        from infra.doctor import examine

        lines = examine(find_home(home))
        out.result(
            {"checks": lines, "ok": all(line["ok"] for line in lines)},
            lambda screen: _show(lines, screen),
        )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(dashboard)
    app.command()(doctor)


def _show(lines: list[dict[str, Any]], screen: Console) -> None:
    for line in lines:
        mark = "ok  " if line["ok"] else "LOOK"
        screen.print(f"{mark}  {line['check']:<16} {line['seen']}", markup=False, soft_wrap=True)

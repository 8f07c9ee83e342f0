"""`tacit up`, `down`, `status` and `submit`: the distributed stack on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.job import SpecArgument, show_result
from infra.cli.reporting import HomeOption, Json, find_home, grid, reporting

if TYPE_CHECKING:
    from rich.console import Console


def up(home: HomeOption = None, json: Json = False) -> None:
    """Start the exchange and every silo here, each in a process of its own."""
    with reporting(json) as out:
        from infra import stack

        where = find_home(home)
        stack.up(where)
        document = stack.examine(where)
        out.result(document, lambda screen: _show(document, screen))


def down(home: HomeOption = None, json: Json = False) -> None:
    """Stop what `tacit up` started; nothing of it is left running."""
    with reporting(json) as out:
        from infra import stack

        stopped = stack.down(find_home(home))
        said = "The stack is down." if stopped else "No stack was running."
        out.result({"stopped": stopped}, lambda screen: screen.print(said))


def status(home: HomeOption = None, json: Json = False) -> None:
    """Tell what of the stack lives, and how far each silo's clock is off."""
    with reporting(json) as out:
        from infra import stack

        document = stack.examine(find_home(home))
        out.result(document, lambda screen: _show(document, screen))


def submit(
    spec: SpecArgument,
    home: HomeOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result.")] = False,
    json: Json = False,
) -> None:
    """Run a job on the distributed stack: every silo in its own process, wherever it is."""
    with reporting(json) as out:
        from federation.jobs import load
        from federation.record import Job
        from infra.running import detach, drive

        where = find_home(home)
        loaded = load(spec)
        if not wait:
            job = Job.create(where, loaded, engine="exchange")
            detach(where, job)
            document: dict[str, Any] = {"job_id": job.id, "kind": job.spec.kind}
            out.result(
                document | {"status": "submitted"},
                lambda screen: screen.print(f"{job.id} is submitted; tacit job show {job.id}"),
            )
            return
        result = drive(where, lambda: Job.create(where, loaded, engine="exchange"), quiet=json)
        out.result(result, lambda screen: show_result(result, screen))
        raise typer.Exit(0 if result["status"] == "completed" else 1)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, down, status, submit):
        app.command()(command)


def _show(document: dict[str, Any], screen: Console) -> None:
    said = document["supervisor"]
    screen.print(f"supervisor  {f'process {said}' if said else 'not running'}")
    screen.print(f"exchange    {'answers' if document['exchange'] else 'does not answer'}")
    table = grid(None, "silo", "serves", "clock off by")
    for silo, line in document["silos"].items():
        offset = line["clock_offset"]
        shown = "" if offset is None else f"{offset:+.2f} s"
        table.add_row(silo, "yes" if line["serves"] else "no", shown)
    screen.print(table)

"""`tacit up`, `down`, `status` and `submit`: the distributed stack on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.job import SpecArgument, exit_code, show_result
from infra.cli.reporting import HomeOption, Json, find_home, grid, note, reporting

if TYPE_CHECKING:
    from rich.console import Console


def up(home: HomeOption = None, json: Json = False) -> None:
    """Start Prefect, the exchange and every silo here, each in a process of its own."""
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
    """Submit a job to the stack: the coordinator's worker drives it, silos run it apart."""
    with reporting(json) as out:
        from federation.jobs import load
        from federation.record import Job
        from flows.checking import check
        from infra.submitting import follow, hand_over, server_of

        where = find_home(home)
        loaded = load(spec)
        server_of(where)
        check(where, loaded, "exchange")
        job = Job.create(where, loaded, engine="exchange")
        hand_over(where, job)
        if wait:
            result = follow(where, job)
            out.result(result, lambda screen: show_result(result, screen))
            raise typer.Exit(exit_code(result))
        document: dict[str, Any] = {"job_id": job.id, "kind": job.spec.kind}
        out.result(
            document | {"status": "submitted"},
            lambda screen: screen.print(f"{job.id} is submitted; tacit job show {job.id}"),
        )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, down, status, submit):
        app.command()(command)


def _show(document: dict[str, Any], screen: Console) -> None:
    said = document["supervisor"]
    screen.print(f"supervisor  {f'process {said}' if said else 'not running'}")
    screen.print(f"exchange    {'answers' if document['exchange'] else 'does not answer'}")
    prefect = document["prefect"]
    if prefect is not None:
        answers = "answers" if prefect["answers"] else "does not answer"
        screen.print(f"prefect     {answers} at {prefect['url']}, on {prefect['database']}")
        screen.print(f"worker      {'serves' if prefect['worker'] else 'does not serve'}")
    table = grid(None, "silo", "serves", "worker", "clock off by", left=3)
    for silo, line in document["silos"].items():
        offset = line["clock_offset"]
        shown = "" if offset is None else f"{offset:+.2f} s"
        worker = {None: "", True: "yes", False: "no"}[line["worker"]]
        table.add_row(silo, "yes" if line["serves"] else "no", worker, shown)
    screen.print(table)
    if prefect is not None and prefect["database"] == "sqlite":
        note(
            screen,
            "No PostgreSQL was installed when this stack was made, so Prefect keeps its state in "
            "SQLite: jobs start seconds later, and it can be busy. apt install postgresql, move "
            "coordinator/prefect away, and tacit up makes one.",
        )

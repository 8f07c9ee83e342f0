"""`tacit quote`, `tacit run`, and `tacit job ...`: price a job, run it, look at it, resume it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import approvals
from infra.cli.reporting import HomeOption, Json, find_home, grid, note, reporting

if TYPE_CHECKING:
    from rich.console import Console

SpecArgument = Annotated[Path, typer.Argument(help="The job's YAML.", show_default=False)]
IdArgument = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


def quote(spec: SpecArgument, home: HomeOption = None, json: Json = False) -> None:
    """Price a job at every silo. Costs nothing and reads no row."""
    with reporting(json) as out:
        from federation import engines, lifecycle
        from federation.jobs import load

        where = find_home(home)
        loaded = load(spec)
        with engines.opened(where, engines.engine_of(where)) as parties:
            document = lifecycle.quote(loaded, parties)
        out.result(document, lambda screen: show_quote(document, screen))


def run(spec: SpecArgument, home: HomeOption = None, json: Json = False) -> None:
    """Run a job here, on the embedded stack."""
    with reporting(json) as out:
        from federation.jobs import load
        from federation.record import Job
        from infra.running import drive

        where = find_home(home)
        loaded = load(spec)
        result = drive(where, lambda: Job.create(where, loaded), quiet=json)
        out.result(result, lambda screen: show_result(result, screen))
        raise typer.Exit(exit_code(result))


def resume(id: IdArgument, home: HomeOption = None, json: Json = False) -> None:
    """Go on with a job that waited for approval, or whose process died: no second charge."""
    with reporting(json) as out:
        from federation.record import Job
        from flows import stopping
        from infra.running import drive
        from infra.submitting import follow, handed_over

        where = find_home(home)
        job = Job(where, id)
        stopping.withdraw(job)
        if job.engine == "exchange" and handed_over(where, job):
            result = follow(where, job)
        else:
            result = drive(where, lambda: job, quiet=json)
        out.result(result, lambda screen: show_result(result, screen))
        raise typer.Exit(exit_code(result))


def list_(home: HomeOption = None, json: Json = False) -> None:
    """List the jobs of this federation, oldest first, and what awaits approval here."""
    with reporting(json) as out:
        from federation.record import all_jobs
        from infra.submitting import shown_status

        where = find_home(home)
        rows = [
            {
                "job_id": job.id,
                "kind": job.spec.kind,
                "status": shown_status(job),
                "created": job.created.isoformat(timespec="seconds"),
            }
            for job in all_jobs(where)
        ]
        requests = approvals.requests(where)

        def text(screen: Console) -> None:
            _show_rows(rows, screen)
            approvals.show(requests, screen)

        out.result({"jobs": rows, "approvals": requests}, text)


def show(id: IdArgument, home: HomeOption = None, json: Json = False) -> None:
    """Show one job: its status, its spec, what it cost and what it gave."""
    with reporting(json) as out:
        from federation.record import Job
        from federation.report import result_of
        from infra.submitting import shown_status

        where = find_home(home)
        requests = [line for line in approvals.requests(where) if line["job_id"] == id]
        if requests and not (where.jobs / id).exists():  # a silo's own host
            document: dict[str, Any] = {"job_id": id, "requests": requests}
            out.result(document, lambda screen: approvals.show(requests, screen))
            return
        job = Job(where, id)
        document = result_of(job) | {
            "status": shown_status(job),
            "error": job.error,
            "spec": job.spec.model_dump(mode="json"),
            "requests": requests,
        }

        def text(screen: Console) -> None:
            show_result(document, screen)
            approvals.show(requests, screen)

        out.result(document, text)


def cancel(id: IdArgument, home: HomeOption = None, json: Json = False) -> None:
    """Cancel a job, at work or interrupted; what it reserved and never started comes back."""
    with reporting(json) as out:
        from federation import engines, lifecycle
        from federation.books import open_mirror
        from federation.record import Job
        from flows import stopping
        from infra.submitting import wake

        where = find_home(home)
        job = Job(where, id)
        driven = job.shown_status() == "running"
        if driven:  # then whoever drives it ends it, at the silos too
            stopping.request(job)
            try:
                stopping.wait(job)
            finally:
                stopping.withdraw(job)
            job = Job(where, id)
        if not driven or job.status != "cancelled":
            with (
                job.working(),
                engines.opened(where, job.engine) as parties,
                open_mirror(where) as mirror,
            ):
                lifecycle.cancel(job, parties, mirror)
            wake(where, job)  # a run that was suspended finds that the job is over
        document = {"job_id": job.id, "status": job.status}
        out.result(document, lambda screen: screen.print(f"{job.id} is {job.status}"))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(quote)
    app.command()(run)
    group = typer.Typer(help="Look at jobs, resume or cancel them.", no_args_is_help=True)
    group.command("list")(list_)
    group.command()(show)
    group.command()(resume)
    group.command()(cancel)
    approvals.register(group)
    app.add_typer(group, name="job")


def show_quote(document: dict[str, Any], screen: Console) -> None:
    """A quote for people: a line per silo, what a policy has to allow, then whether it fits."""
    bare = "unprotected" in document["leaving"]
    columns = ("silo", "protects", "fits", "epsilon", "delta", "of account", "left after")
    table = grid(
        f"Quote of {document['job']} ({document['kind']}): what it would cost", *columns, left=3
    )
    for silo, line in document["silos"].items():
        table.add_row(
            silo,
            f"one {line['unit']}",
            "yes" if line["admissible"] else "no",
            "none bounds it" if bare else f"{line['epsilon']:.3f}",
            f"{line['delta']:.0e}",
            f"{line['charge']:.1%}",
            f"{line['remaining_epsilon']:.2f}",
        )
    screen.print(table)
    if document["opens"]:
        fields = ", ".join(f"policy.{name}: true" for name in document["opens"])
        screen.print(
            f"It releases something unprotected: each silo has to have {fields} in its silo.yaml.",
            markup=False,
            soft_wrap=True,
        )
    note(
        screen,
        "Epsilon is the price of this job alone. The account counts it by its own filter, which "
        "holds for all jobs together, so prices and what is left need not add up.",
    )
    encryption = next(iter(document["silos"].values()))["plan"].get("encryption")
    if encryption:
        mib = {name: f"{size / 2**20:.2f} MiB" for name, size in encryption.items()}
        note(
            screen,
            f"Encrypted: each silo sends {mib['upload_bytes']} a round and needs "
            f"{mib['silo_memory_bytes']}; two silos answer {mib['answer_bytes']} more; the "
            f"coordinator needs {mib['coordinator_memory_bytes_per_silo']} per silo. A parameter's "
            f"mean change is off by at most {encryption['error']:.1e} (proved).",
        )
    shares = next(iter(document["silos"].values()))["plan"].get("shares")
    if shares:
        alone = max(line["plan"]["shares"]["own_epsilon"] for line in document["silos"].values())
        note(
            screen,
            f"Noise in the sum alone: epsilon is that of sums of {shares['silos']} silos or more, "
            f"{shares['colluding']} of which may tell what they added. If all others of a silo "
            f"did, its own share alone would leave epsilon {alone:.3f}.",
        )
    if "subject" in document:
        total = document["subject"]
        screen.print(
            f"A subject at {total['silos']} silos loses at most epsilon {total['epsilon']:.3f} "
            f"at delta {total['delta']:.0e}."
        )
    if not document["admissible"]:
        from federation.lifecycle import fits_text

        screen.print(f"Does not fit; {fits_text(document['fits'])}.")


def exit_code(result: dict[str, Any]) -> int:
    """0 where a job completed, 3 where a silo's policy makes it wait, else 1."""
    return {"completed": 0, "interrupted": 3}.get(result["status"], 1)


def show_result(document: dict[str, Any], screen: Console) -> None:
    """A job's result for people: spends, metrics, and where the files are."""
    screen.print(f"Job {document['job_id']} is {document['status']}.")
    if document.get("error"):
        screen.print(f"{document['error']['code']} {document['error']['message']}", markup=False)
    if document["silos"]:
        columns = ("silo", "spent epsilon", "delta", "left epsilon", "account used")
        table = grid("\nWhat it cost", *columns)
        for silo, line in document["silos"].items():
            left = (
                (f"{line['remaining_epsilon']:.2f}", f"{line['used']:.1%}")
                if line["settled"]
                else ("not known", "not settled")
            )
            table.add_row(silo, f"{line['epsilon']:.3f}", f"{line['delta']:.0e}", *left)
        screen.print(table)
        bare = sum(line["unprotected"] for line in document["silos"].values())
        if bare:
            note(screen, f"{bare} releases left without protection; the guarantee excludes them.")
    released = document["metrics"]
    numbers = {k: v for k, v in released.items() if not isinstance(v, dict)}
    if numbers:
        intervals = released.get("intervals", {})
        table = grid("\nReleased test metrics, all silos", *("metric", "value", "95 % interval"))
        for name, value in numbers.items():
            low_high = intervals.get(name)
            span = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else ""
            told = "not resolvable" if value is None else f"{value:.3f}"
            table.add_row(name.replace("_", " "), told, span)
        screen.print(table)
    if document.get("details"):
        table = grid("\nWhat was done", "fact", "value")
        for name, value in document["details"].items():
            told = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), told)
        screen.print(table)
    if document.get("report"):
        screen.print(f"\nReport  {document['report']}", soft_wrap=True)
    if document.get("model"):
        screen.print(f"Model   {document['model']}", soft_wrap=True)


def _show_rows(rows: list[dict[str, Any]], screen: Console) -> None:
    if not rows:
        screen.print("No jobs yet. tacit run JOB.yaml makes the first.")
        return
    table = grid(None, *rows[0], left=len(rows[0]))
    for row in rows:
        table.add_row(*row.values())
    screen.print(table)

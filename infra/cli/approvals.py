"""`tacit job approve` and `tacit job key`: a person at a silo looks at a job, and signs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import HomeOption, Json, find_home, grid, note, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from federation.home import Home
    from federation.silo import Silo
    from federation.spec import JobSpec

_WORDS = {"given": "approved", "refused": "refused", "expired": "expired; approved"}
"""What a person is told of an answer, by its state."""

IdArgument = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


def approve(
    id: IdArgument,
    silo: Annotated[
        str | None, typer.Option("--silo", help="The silo, where several here were asked.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Your own key; without: only look."),
    ] = None,
    deny: Annotated[
        str | None, typer.Option("--deny", help="Refuse the job, for this reason: A-CODE.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Show what a silo is asked to let run; with --key, approve or refuse it."""
    with reporting(json) as out:
        import re

        from federation.approvals import REASON
        from federation.errors import BadInput
        from federation.silo import Silo
        from secure.keys import SigningKey

        if deny is not None and (key is None or not re.fullmatch(REASON, deny)):
            raise BadInput(
                "deny: give a code that may be told, such as NOT-THIS-QUARTER, and --key",
                field="deny",
                value=deny,
                allowed=REASON,
            )
        where = find_home(home)
        name = silo or _asked(where, id)
        opened = Silo(where, name)
        try:
            document = _described(opened, id)
            if key is not None:
                opened.approvals.answer(id, SigningKey.load(key), refuse=deny)
            stands = opened.approvals.standing(id)
        finally:
            opened.close()
        document["state"] = stands.state
        if stands.answer is not None:
            document |= stands.answer.model_dump(mode="json", include={"by", "at", "until"})
            document["reason"] = stands.answer.reason
        out.result(document, lambda screen: _show_one(document, screen))


def key(
    file: Annotated[Path, typer.Argument(help="Where to keep it.", show_default=False)],
    json: Json = False,
) -> None:
    """Make a key for a person who approves jobs; the silo's owner enrols its public half."""
    with reporting(json) as out:
        from secure.keys import SigningKey

        made = SigningKey.generate()
        made.save(file)
        document = {"key": str(file), "public": made.public, "fingerprint": made.fingerprint}
        line = f"approvers: {{your-name: {made.public}}}"

        def text(screen: Console) -> None:
            screen.print(f"Kept in {file}, for nobody else to read. In silo.yaml under policy:")
            screen.print(line, soft_wrap=True, markup=False)
            screen.print(f"Fingerprint, to compare with the owner: {made.fingerprint}")

        out.result(document, text)


def register(group: typer.Typer) -> None:
    """Add the commands of this module to `tacit job`."""
    group.command()(approve)
    group.command()(key)


def requests(home: Home) -> list[dict[str, Any]]:
    """What the silos under a home were asked to approve, as plain lines."""
    from federation.approvals import lines
    from privacy.ledger import clock

    now = clock.now()
    return [
        {
            "job_id": line.job,
            "silo": line.silo,
            "state": line.state,
            "kind": line.kind,
            "dataset": line.dataset,
            "epsilon": line.epsilon,
            "delta": line.delta,
            "about": line.about,
            "asked": line.asked.isoformat(timespec="seconds"),
            "approvers": list(line.approvers),
            "by": line.by or None,
            "until": line.until.isoformat(timespec="seconds") if line.until else None,
        }
        for silo in home.silo_names()
        for line in lines(home, silo, now)
    ]


def show(lines: list[dict[str, Any]], screen: Console) -> None:
    """Requests for people."""
    if not lines:
        return
    table = grid("\nApprovals", "job", "silo", "state", "asked", "by", "epsilon", left=5)
    for line in lines:
        by = line["by"] or " or ".join(line["approvers"])
        state = "approved" if line["state"] == "given" else line["state"]
        table.add_row(line["job_id"], line["silo"], state, line["asked"], by, _epsilon(line))
    screen.print(table)
    if any(line["state"] in ("pending", "expired") for line in lines):
        note(screen, "tacit job approve ID --silo NAME shows one; with --key FILE you sign it.")


def _asked(home: Home, job: str) -> str:
    """The one silo under a home that was asked to approve a job."""
    from federation.errors import BadInput, NotFound

    found: list[str] = sorted(x["silo"] for x in requests(home) if x["job_id"] == job)
    if not found:
        raise NotFound(
            f"no silo under {home.root} was asked to approve job {job}; see tacit job list",
            field="job",
            value=job,
            allowed=sorted({line["job_id"] for line in requests(home)}),
        )
    if len(found) > 1:
        raise BadInput(
            f"job {job} was asked of {', '.join(found)}; say which with --silo",
            field="silo",
            value=None,
            allowed=found,
        )
    return found[0]


def _described(silo: Silo, job: str) -> dict[str, Any]:
    """What a person is to approve: as it was asked, and what it would take as things stand now."""
    from federation import jobs, pricing
    from federation.documents import parse

    request = silo.approvals.request(job)
    spec: JobSpec = parse(request.spec, jobs.kind(request.spec.get("kind"), "spec").Spec, "spec")
    facts, quote = silo.quote(spec)
    line = pricing.price(quote, facts, silo.ledger)
    return {
        "job_id": job,
        "silo": silo.name,
        "federation": request.federation,
        "asked": request.asked.isoformat(timespec="seconds"),
        "asked_by": "coordinator",
        "about": request.about,
        "epsilon": request.epsilon,
        "above": request.above,
        "holds_days": silo.approvals.days,
        "delta": line["delta"],
        "unit": line["unit"],
        "charge": line["charge"],
        "remaining_epsilon": line["remaining_epsilon"],
        "admissible": line["admissible"],
        "leaving": sorted(spec.leaving),
        "spec": request.spec,
    }


def _epsilon(line: dict[str, Any]) -> str:
    epsilon: float | None = line["epsilon"]
    return "none bounds it" if epsilon is None else f"{epsilon:.3f}"


def _show_one(document: dict[str, Any], screen: Console) -> None:
    import yaml

    head = {
        "job": document["job_id"],
        "silo": document["silo"],
        "asked by": f"the coordinator of {document['federation']}, {document['asked']}",
        "epsilon": f"{_epsilon(document)} per {document['unit']} at delta {document['delta']:g}",
        "of the account": f"{document['charge']:.1%}"
        + ("" if document["admissible"] else ", more than is left"),
        "leaves as": ", ".join(document["leaving"]),
        "signed over": document["about"],
    }
    table = grid(None, "", "", left=2)
    table.show_header = False
    for name, value in head.items():
        table.add_row(name, str(value))
    screen.print(table)
    screen.print(yaml.safe_dump(document["spec"], sort_keys=False), markup=False, highlight=False)
    state = document["state"]
    if state == "pending":
        note(
            screen,
            f"Nobody has answered. --key FILE approves it for {document['holds_days']} days; "
            "--deny A-CODE beside it refuses it.",
        )
        return
    until = f" until {document['until']}" if state != "refused" else f": {document['reason']}"
    screen.print(f"{_WORDS[state]} by {document['by']}{until}")

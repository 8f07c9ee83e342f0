"""What a job gives back: a report (Markdown and JSON), plots, and the model with its card.

Everything here is made from what was released and from receipts; nothing of a row can be in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from federation.approvals import Answer
from federation.documents import parse
from federation.errors import BadInput
from federation.model_card import model_card
from federation.plots import draw
from federation.record import Job
from federation.spec import AggregationSpec
from privacy.ledger import Receipt
from privacy.ledger.durable import write_durably


def result_of(job: Job) -> dict[str, Any]:
    """The result document of `tacit run`: status, spends, metrics, files and seconds.

    A job that waits for approvals is `interrupted`; its error says by whom.
    """
    outcome = job.document("outcome") or {}
    settlement = job.document("settlement") or {}
    balances = job.document("balances") or {}
    timing = job.document("timing") or {}
    return {
        "job_id": job.id,
        "kind": job.spec.kind,
        "status": "interrupted" if job.status == "waiting" else job.status,
        "error": job.error,
        "silos": {
            silo: {
                "epsilon": line["epsilon"],
                "delta": line["delta"],
                "unit": line["unit"],
                "remaining_epsilon": balances[silo]["after"]["remaining_epsilon"],
                "used": balances[silo]["after"]["used"],
                "unprotected": balances[silo]["after"]["unprotected"],
                "settled": line["settled"],
            }
            for silo, line in settlement.items()
        },
        "approvals": approvals_of(job),
        "metrics": outcome.get("metrics", {}),
        "details": outcome.get("details", {}),
        "rounds": outcome.get("rounds", 0),
        "report": _path(job.directory / "report.md"),
        "model": outcome.get("model"),
        "seconds": {"total": timing.get("total"), "rounds": outcome.get("seconds")},
    }


def approvals_of(job: Job) -> dict[str, dict[str, str]]:
    """Who approved a job at which silo, as the receipts of its reservations say."""
    found = {}
    for silo, document in (job.document("receipts") or {}).items():
        statement = Receipt.read(document).data.get("approval")
        try:
            answer = parse(statement["body"], Answer, "approval") if statement else None
        except (BadInput, KeyError, TypeError):  # a silo can write anything into its own ledger
            answer = None
        if answer is not None:
            at = answer.at.isoformat(timespec="seconds")
            found[silo] = {"by": answer.by, "at": at, "approved": answer.about}
    return found


def publish(job: Job) -> None:
    """Write report, plots and model card of a settled job; the last step of its life."""
    if job.status != "settled":
        return
    outcome = job.document("outcome") or {}
    balances = job.document("balances") or {}
    plots = draw(job.directory, outcome.get("curve", []), balances)
    if outcome.get("model"):
        card = model_card(job)
        write_durably(Path(outcome["model"]).with_name("card.md"), card.encode(), 0o644)
    text = _markdown(job, outcome, balances, plots)
    write_durably(job.directory / "report.md", text.encode(), 0o644)
    job.update("completed")
    body = json.dumps(result_of(job), indent=2).encode()
    write_durably(job.directory / "report.json", body, 0o644)


def _markdown(
    job: Job, outcome: dict[str, Any], balances: dict[str, Any], plots: dict[str, str]
) -> str:
    settlement = job.document("settlement") or {}
    lines = [
        f"# {job.spec.name}",
        "",
        f"Kind `{job.spec.kind}` on dataset `{job.spec.dataset}`, {outcome.get('rounds', 0)} rounds"
        + (", stopped early on released metrics." if outcome.get("stopped_early") else "."),
        "",
        "## What it cost",
        "",
        "| silo | protects | spent epsilon | delta | left epsilon | account used |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for silo, line in settlement.items():
        after = balances[silo]["after"]
        left = (
            f"{after['remaining_epsilon']:.2f} | {after['used']:.1%}"
            if line["settled"]
            else "not known | not known"
        )
        lines.append(
            f"| {silo} | one {line['unit']} | {line['epsilon']:.3f} | {line['delta']:.0e} "
            f"| {left} |"
        )
    lines += [
        "",
        "Spent is the tight price of this job alone; left is what each account's filter still "
        "admits. The claim to others is each account's whole capacity.",
    ]
    gone = [silo for silo, line in settlement.items() if not line["settled"]]
    if gone:
        lines += [
            "",
            f"{', '.join(gone)} left before the end: the whole charge stands there until "
            f"`tacit job resume {job.id}` settles it.",
        ]
    excluded = sum(balances[s]["after"]["unprotected"] for s in balances)
    if excluded:
        lines += ["", f"**The guarantee excludes {excluded} unprotected releases.**"]
    aggregation = job.spec.model_dump(mode="json").get("aggregation")
    if aggregation:
        lines += ["", AggregationSpec.model_validate(aggregation).guarantee]
    if "budget" in plots:
        lines += ["", f"![Budget before and after]({plots['budget']})"]
    lines += outcome.get("text") or _metrics(outcome.get("metrics", {}))
    if "metrics" in plots:
        lines += ["", f"![Released metrics by silo]({plots['metrics']})"]
    if "curve" in plots:
        lines += ["", f"![Released metrics by round]({plots['curve']})"]
    lines += [
        "",
        "## Receipts",
        "",
        "| silo | ledger entry | hash |",
        "|---|--:|---|",
    ]
    for silo, line in settlement.items():
        head = Receipt.read(line["receipt"]).head
        lines.append(f"| {silo} | {head.seq} | `{head.hash}` |")
    approvals = approvals_of(job)
    if approvals:
        lines += ["", "## Approvals", "", "| silo | approved by | at | spec, code and quote |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {silo} | {line['by']} | {line['at']} | `{line['approved']}` |"
            for silo, line in approvals.items()
        ]
    lines += ["", f"Job `{job.id}`, spec `{job.spec.digest()}`.", ""]
    return "\n".join(lines)


def _metrics(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["", "No metric was released."]
    names = [name for name in ("accuracy", "log_loss", "auc") if name in metrics]
    lines = ["", "## Test metrics, as released", "", "| | " + " | ".join(names) + " |"]
    lines.append("|---|" + "--:|" * len(names))
    intervals = metrics.get("intervals", {})

    def cell(source: dict[str, Any], name: str, spans: dict[str, Any]) -> str:
        value = source.get(name)
        if value is None:
            return "not resolvable"
        span = spans.get(name)
        return f"{value:.3f}" + (f" ({span[0]:.3f} to {span[1]:.3f})" if span else "")

    row = " | ".join(cell(metrics, name, intervals) for name in names)
    lines.append(f"| all silos | {row} |")
    for silo, own in metrics.get("silos", {}).items():
        row = " | ".join(cell(own, name, own.get("intervals", {})) for name in names)
        lines.append(f"| {silo} | {row} |")
    if intervals:
        lines += ["", "Intervals are 95 % for the stored test rows and cover the noise."]
    return lines


def _path(path: Path) -> str | None:
    return str(path) if path.exists() else None

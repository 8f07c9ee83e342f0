"""The model card: what the model is, and its guarantee in words that hold."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Any

from federation.record import Job
from federation.spec import AggregationSpec


def model_card(job: Job) -> str:
    """The card of a settled train job, Markdown."""
    settlement = job.document("settlement") or {}
    balances = job.document("balances") or {}
    outcome = job.document("outcome") or {}
    spec = job.spec.model_dump(mode="json")
    aggregation = AggregationSpec.model_validate(spec["aggregation"])
    lines = [
        f"# Model card: {job.spec.name}",
        "",
        f"- Model: {spec['model']['name']}, trained by job `{job.id}`",
        f"- Dataset: `{job.spec.dataset}`; rows stayed at {', '.join(settlement)}",
        f"- Rounds: {outcome.get('rounds', 0)} of {spec['strategy']['name']}",
        "",
        "## Guarantee",
        "",
    ]
    if spec["privacy"]["none"]:
        lines.append(
            "None. This model was trained without differential privacy, as each silo's policy "
            "allowed; it may reveal the rows it was trained on."
        )
    else:
        lines += [
            guarantee(silo, line, balances[silo]["after"]["relation"], _epsilon(line, outcome))
            for silo, line in settlement.items()
        ]
        released = "every opened sum" if aggregation.distributed else "every released update"
        lines += [
            "",
            f"Neighbouring data sets differ by one such unit, {_neighbours(balances)}. The "
            f"sentences hold for whoever sees {_seen(spec, released)}, whatever else they know; "
            "they do not cover other jobs on the same rows, for which each silo's account gives "
            "the bound: "
            + "; ".join(
                f"{silo}: epsilon {b['after']['claim_epsilon']:g} at delta {b['after']['delta']:g}"
                for silo, b in balances.items()
            )
            + ".",
            "",
            "The noise is drawn exactly, from cryptographic sources, and added to integers; "
            "gradients are clipped in floating point, with a slack for its rounding."
            if aggregation.distributed
            else "The noise is drawn from a cryptographic source and added in floating point; "
            "the sentences are about the mechanism in real numbers.",
        ]
    lines += ["", aggregation.guarantee]
    excluded = {s: b["after"]["unprotected"] for s, b in balances.items()}
    if any(excluded.values()):
        counts = ", ".join(f"{n} at {silo}" for silo, n in excluded.items() if n)
        lines += ["", f"**The guarantee excludes unprotected releases: {counts}.**"]
    return "\n".join([*lines, ""])


def _seen(spec: dict[str, Any], released: str) -> str:
    """What may be seen without an end to the guarantee; exact metrics are outside of it."""
    if spec["evaluation"]["release"] != "exact":
        return f"the model, {released} and every released metric of this job"
    ended = ", nor the round in which they ended it" if spec["evaluation"]["patience"] else ""
    return f"the model and {released} of this job, but not its metrics{ended}"


def _neighbours(balances: dict[str, Any]) -> str:
    """How neighbouring data sets differ, in words; one relation holds for all silos of a job."""
    words = {"add_remove": "present or absent (add/remove)", "replace": "exchanged for another"}
    return " or ".join(sorted({words[b["after"]["relation"]] for b in balances.values()}))


def _epsilon(line: dict[str, Any], outcome: dict[str, Any]) -> float:
    """What the sentence may claim: all that was planned, where the job's own results ended it.

    The price of the rounds that were run is a proven bound only if their number was fixed before.
    """
    return float(line["planned_epsilon" if outcome.get("stopped_early") else "epsilon"])


def guarantee(silo: str, line: dict[str, Any], relation: str, price: float) -> str:
    """One silo's guarantee as a sentence; its epsilon, `price`, is rounded up, never down."""
    epsilon = Decimal(repr(price)).quantize(Decimal("0.001"), ROUND_CEILING)
    one = f"any one {line['unit']} of silo {silo}"
    whether = {
        "add_remove": f"Whether or not {one} took part",
        "replace": f"Whether {one} is what it is or exchanged for any other",
    }[relation]
    return (
        f"- {whether}, the probability of any outcome of this job changes by at most a factor "
        f"e^{epsilon}, "
        f"up to an additional probability of {line['delta']:g} "
        f"((epsilon, delta)-differential privacy with epsilon {epsilon} and delta "
        f"{line['delta']:g})."
    )

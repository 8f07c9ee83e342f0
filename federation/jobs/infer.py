"""`kind: infer`: one silo's rows are predicted by another silo's model.

The two silos speak with each other; the coordinator starts them, counts batches and measures. The
predictions are written where the rows are and leave in no form, so the job costs nothing and every
charge is of no event. Under `mode: ckks` the rows leave as ciphertexts whose key stays with them;
under `mode: plain` they leave as they are, which both silos' policies must allow.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.documents import parse
from federation.errors import BadInput, retold
from federation.inference.specs import Spec
from federation.jobs.base import CoordinatorContext, Outcome, PartyFacts, PartyQuote, SiloContext
from privacy.events import NOTHING
from privacy.ledger import Stop
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.inference.served import Facts

__all__ = ["Spec", "coordinate", "participate", "quote"]


def quote(spec: Spec, facts: Mapping[str, PartyFacts]) -> dict[str, PartyQuote]:
    """Nothing at either silo; what is counted is how many messages may leave."""
    return {silo: _party_quote(spec, party) for silo, party in facts.items()}


def coordinate(context: CoordinatorContext) -> Outcome:
    """Offer the model, start one batch after the other, and measure."""
    spec: Spec = context.spec
    facts = _offered(context)
    times = _Times(context.directory / "batches.log")
    context.progress(len(times.seconds), spec.batches)
    for batch in range(len(times.seconds), spec.batches):
        begun = time.monotonic()
        answers = context.ask("batch", batch, b"")
        if any(answers.values()):
            raise BadMessage("an answer to a batch says nothing", field="batch", value=batch)
        times.add(time.monotonic() - begun)
        context.progress(batch + 1, spec.batches)
    context.ask("close", 0, b"")
    context.tell("finish", spec.batches)
    details = _details(spec, times.seconds, facts)
    return Outcome(
        metrics={},
        curve=[],
        rounds=spec.batches,
        stopped_early=False,
        model=None,
        seconds=sum(times.seconds),
        details=details,
        text=_text(spec, details),
    )


def participate(context: SiloContext) -> Stop:
    """Ask, or answer, until the coordinator says finish."""
    from federation.inference.parties import DataSilo, ModelSilo

    role = {"data": DataSilo, "model": ModelSilo}[context.role]
    return role(context).run()


def _party_quote(spec: Spec, party: PartyFacts) -> PartyQuote:
    role = spec.role(party.silo)
    if not party.accounts:
        raise BadInput(
            f"silo {party.silo} keeps no account of source {party.source}", field="accounts"
        )
    account = party.accounts[0]
    leaving = {"data": "rows", "model": "answers"}[role]
    return PartyQuote(
        party.silo,
        account.unit,
        account.delta,
        NOTHING,
        {"role": role, "mode": spec.mode, "rows": spec.rows, "batches": spec.batches},
        {leaving: spec.batches * spec.sessions},
        refundable=True,
    )


def _offered(context: CoordinatorContext) -> Facts | None:
    """Send the published model to its silo, the same however often; the facts it tells."""
    from federation.inference.served import Facts, Files, check_published, published

    spec: Spec = context.spec
    body = b""
    if spec.model.job is not None:
        chosen, jobs = context.directory / "model.txt", context.directory.parent
        if not chosen.exists():  # the latest of a name may be another one when the job is resumed
            check_published(spec, jobs, context.facts[spec.roles.data].dataset)
            chosen.write_text(published(jobs, spec.model.job).parts[-3])
        body = Files.at(published(jobs, chosen.read_text()), spec.model.job).pack()
    silo = spec.roles.model
    asked = {spec.roles.data: b"", silo: body}
    try:
        said: Any = json.loads(context.ask("offer", 0, asked)[silo])
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and set(said) == {"error"}:
        raise retold(said["error"] if isinstance(said["error"], dict) else {}, silo)
    try:
        return None if said == {"facts": None} else parse(said["facts"], Facts, f"silo {silo}")
    except (BadInput, KeyError, TypeError):
        raise BadMessage(f"silo {silo} told no facts of its model", field="offer") from None


class _Times:
    """How long each batch took, kept over all attempts at the job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        self.seconds = [float(line) for line in lines if line.endswith("\n")]

    def add(self, seconds: float) -> None:
        """Note one batch."""
        self.seconds.append(seconds)
        with self._path.open("a") as file:
            file.write(f"{seconds:.6f}\n")


def _details(spec: Spec, seconds: list[float], facts: Facts | None) -> dict[str, Any]:
    """Counts, latencies, and the public facts of encrypted inference."""
    median = statistics.median(seconds)
    return {
        "mode": spec.mode,
        "places": spec.rows,
        "batches": spec.batches,
        "seconds_per_batch": median,
        "seconds_slowest_batch": max(seconds),
        "seconds_per_row": median / spec.places(0),
        **(facts.model_dump() if facts else {}),
    }


def _text(spec: Spec, details: Mapping[str, Any]) -> tuple[str, ...]:
    """The report's part on what was done, and who saw what."""
    lines = [
        "",
        "## Inference",
        "",
        f"{spec.rows} places of {spec.dataset} ({spec.part}) at {spec.roles.data}, by a model of "
        f"{spec.roles.model}, in {spec.batches} batches of up to {spec.batch_size}. The "
        f"predictions are at {spec.roles.data} only, in `predictions.csv` beside its other files "
        "of this job.",
        "",
        f"Median batch {details['seconds_per_batch']:.3f} s, slowest "
        f"{details['seconds_slowest_batch']:.3f} s (the first one includes keys), "
        f"{details['seconds_per_row']:.4f} s a row.",
        "",
        "## Who saw what",
        "",
        spec.guarantee,
    ]
    if "error" in details:
        mib = {name: details[name] / 2**20 for name in ("key_bytes", "request_bytes")}
        lines += [
            "",
            "## Certificate and forecast",
            "",
            f"Ring {details['ring']}, {details['modulus_bits']} bits of modulus, depth "
            f"{details['depth']}, {details['packing']} mode. Forecast: {mib['key_bytes']:.1f} MiB "
            f"of keys, {mib['request_bytes']:.2f} MiB and {details['seconds']:.3f} s a request.",
            "",
            f"Every output is within {details['error']:.3g} (proved, but for a chance of 2^-40) of "
            "the compiled model in exact arithmetic, and that within "
            f"{details['approximation']:.3g} of the plain model. These are the model owner's "
            "statements about its model. For which rows the class is certified stands in the "
            "predictions and is told to nobody.",
        ]
    return tuple(lines)

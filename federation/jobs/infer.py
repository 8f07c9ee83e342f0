"""`kind: infer`: one silo's rows are predicted by another silo's model.

The two silos speak with each other; the coordinator starts them, counts batches and measures. The
predictions are written where the rows are and leave in no form, so the job costs nothing and every
charge is of no event. Under `mode: ckks` the rows leave as ciphertexts whose key stays with them.
Under `plain` they leave as they are, and under `equivariant`, to a node, sealed, which is
obfuscation and not encryption: the policies of all these silos must allow it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
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
    from federation.inference.party import Party
    from federation.inference.sealed import SealedFacts
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
        text=_text(spec, details, facts),
    )


def participate(context: SiloContext) -> Stop:
    """Ask, or answer, until the coordinator says finish."""
    from federation.inference.data_silo import DataSilo
    from federation.inference.model_silo import ModelSilo, NodeSilo

    parts: dict[str, Callable[[SiloContext], Party]]
    parts = {"data": DataSilo, "model": ModelSilo, "node": NodeSilo}
    return parts[context.role](context).run()


def _party_quote(spec: Spec, party: PartyFacts) -> PartyQuote:
    role = spec.role(party.silo)
    if not party.accounts:
        raise BadInput(
            f"silo {party.silo} keeps no account of source {party.source}", field="accounts"
        )
    account = party.accounts[0]
    messages = spec.batches * spec.sessions
    releases: dict[str, dict[str, int]]
    releases = {"data": {"rows": messages}, "model": {"answers": messages}}
    if spec.mode == "equivariant":
        releases |= {"model": {"sealed": 1}, "node": {"answers": messages}}
    return PartyQuote(
        party.silo,
        account.unit,
        account.delta,
        NOTHING,
        {"role": role, "mode": spec.mode, "rows": spec.rows, "batches": spec.batches},
        releases[role],
        refundable=True,
    )


def _offered(context: CoordinatorContext) -> Facts | SealedFacts | None:
    """Send the published model to its silo, the same however often; the facts it tells."""
    from federation.inference.sealed import SealedFacts
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
    asked = dict.fromkeys(spec.silos, b"") | {silo: body}
    try:
        said: Any = json.loads(context.ask("offer", 0, asked)[silo])
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and set(said) == {"error"}:
        raise retold(said["error"] if isinstance(said["error"], dict) else {}, silo)
    try:
        if spec.mode == "plain":
            return None
        if spec.mode == "equivariant":
            return parse(said["facts"], SealedFacts, f"silo {silo}")
        return parse(said["facts"], Facts, f"silo {silo}")
    except (BadInput, KeyError, TypeError):
        raise BadMessage(f"silo {silo} told no facts of its model", field="offer") from None


class _Times:
    """How long each batch took, kept over all attempts at the job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(whole))
        self.seconds = [float(line) for line in whole]

    def add(self, seconds: float) -> None:
        """Note one batch."""
        self.seconds.append(seconds)
        with self._path.open("a") as file:
            file.write(f"{seconds:.6f}\n")


def _details(spec: Spec, seconds: list[float], facts: Facts | SealedFacts | None) -> dict[str, Any]:
    """Counts, latencies, and the public facts that the model's silo told."""
    median = statistics.median(seconds)
    told: dict[str, Any] = {} if facts is None else facts.model_dump(mode="json")
    findings = told.pop("findings", [])
    attacks = {f"{f['attack']}, {f['knows']}: {f['measure']}": f["value"] for f in findings}
    return {
        "mode": spec.mode,
        "places": spec.rows,
        "batches": spec.batches,
        "seconds_per_batch": median,
        "seconds_slowest_batch": max(seconds),
        "seconds_per_row": median / spec.places(0),
        **told,
        **attacks,
    }


def _text(
    spec: Spec, details: Mapping[str, Any], facts: Facts | SealedFacts | None
) -> tuple[str, ...]:
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
    if facts is not None:
        lines += ["", *facts.text()]
    return tuple(lines)

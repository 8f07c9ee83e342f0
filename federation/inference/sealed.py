"""Sealed inference: the model under keys of its owner, at a node that has neither base nor key.

Obfuscation, not encryption (`secure.equivariant`). The model's silo seals once in a job and keeps
what it made, so that a session that died goes on with the same keys; the seed is never written.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field
from torch import nn

from federation.limits import Within
from federation.models import Image
from federation.spec import Block
from privacy.ledger.durable import write_durably
from secure.equivariant import Model, Owner, SealingKey, from_torch, wire
from secure.errors import BadMessage
from secure.keys import SigningKey

if TYPE_CHECKING:
    from federation.jobs.base import SiloContext

Words = Annotated[str, Field(pattern=r"^[A-Za-z0-9 .,'-]{1,100}$")]
Measured = Annotated[float, Within(-1e9, 1e9)]


class Finding(Block):
    """What one attack recovered of the sealing, and what chance would have."""

    attack: Words
    knows: Words
    measure: Words
    value: Measured
    chance: Measured


class SealedFacts(Block):
    """What the model's silo tells the coordinator of its sealing."""

    protection: Literal["obfuscation, not encryption"]
    findings: Annotated[tuple[Finding, ...], Field(max_length=100)]

    def text(self) -> list[str]:
        """The report's lines on what attacks recovered."""
        return [
            f"## What attacks recovered: {self.protection}",
            "",
            "| attack | who knows | measure | recovered | by chance |",
            "|---|---|---|--:|--:|",
            *(
                f"| {f.attack} | {f.knows} | {f.measure} | {f.value:.1%} | {f.chance:.1%} |"
                for f in self.findings
            ),
            "",
            "On synthetic rows, by the model's silo when it sealed. An attacker may do better.",
        ]


def sealable(network: nn.Module, shape: tuple[int, ...]) -> Model:
    """A torch model of ours for sealing; what cannot be sealed is refused by its name."""
    if not isinstance(network, nn.Sequential):
        return from_torch(network, shape)  # which refuses it by name
    parts = OrderedDict(network.named_children())
    for name, part in list(parts.items()):
        if isinstance(part, Image):  # gives rows their channel; so does sealing
            shape = tuple(part.shape)
            del parts[name]
    return from_torch(nn.Sequential(parts), shape)


def check_places(sealed_input: bytes, places: int) -> None:
    """Refuse a sealed input of another number of rows (`BadMessage`); no model runs for it."""
    content = wire.unpack("sealed input", sealed_input)
    rows = wire.unpack_tensors("sealed input", content["tensors"]).get("rows")
    if rows is None or rows.dim() == 0 or len(rows) != places:
        raise BadMessage(f"rows: not those of {places} places", field="rows", allowed=places)


class Sealed:
    """A sealing of one job: bytes for node and data silo, and what the attacks recovered."""

    def __init__(self, node: bytes, silo: bytes, facts: SealedFacts) -> None:
        self.node, self.silo, self.facts = node, silo, facts

    @classmethod
    def made(cls, context: SiloContext, network: nn.Module) -> Sealed:
        """Seal and attack, or read what this job has sealed before."""
        kept = {name: context.directory / f"sealed.{name}" for name in ("node", "silo", "facts")}
        if not kept["facts"].exists():
            spec, members = context.spec, context.members
            sealing = Owner(cast(SigningKey, context.signer)).seal(
                sealable(network, context.facts.dataset.input_shape),
                SealingKey.generate(),
                node=members[spec.roles.node],
                silo=members[spec.roles.data],
            )
            names = Finding.model_fields
            report = sealing.report.document()
            findings = [{name: line[name] for name in names} for line in report["findings"]]
            facts = {"protection": report["label"], "findings": findings}
            write_durably(kept["node"], sealing.node)
            write_durably(kept["silo"], sealing.silo)
            write_durably(kept["facts"], json.dumps(facts).encode())
        said = json.loads(kept["facts"].read_bytes())
        facts_read = SealedFacts.model_validate(said)
        return cls(kept["node"].read_bytes(), kept["silo"].read_bytes(), facts_read)

    @staticmethod
    def forget(directory: Path) -> None:
        """Drop what a job sealed."""
        for path in directory.glob("sealed.*"):
            path.unlink()

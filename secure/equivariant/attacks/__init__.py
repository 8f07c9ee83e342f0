"""The attacks on equivariant sealing that ship with it, and that sealing always runs.

| attack | knows | what it recovers |
|---|---|---|
| weight matching | the sealed model; a public base, or none | tokens; hidden units and inputs |
| known plaintext | some pairs of sealed and plain inputs | the rest of the traffic |
| token frequency, input statistics | public inputs of the same kind | tokens; inputs |
| hidden-state inversion | the states of one layer, the base | the inputs |
| feature maps | the states of convolutions | what the image shows |

Each works on what a node holds. The owner's plain model and keys serve to count what was right.
"""

from __future__ import annotations

from secure.equivariant.architecture import Transformed
from secure.equivariant.attacks.on_rows import on_rows
from secure.equivariant.attacks.on_tokens import on_tokens
from secure.equivariant.attacks.probes import Probes
from secure.equivariant.errors import BadInput
from secure.equivariant.inputs import Tokens
from secure.equivariant.model import Model
from secure.equivariant.report import VISIBLE, Report


def attack(
    plain: Model, sealed: Model, done: Transformed, *, base: Model, probes: Probes | None = None
) -> Report:
    """Attack a sealed model and say what was recovered.

    `plain` and `done` are the truth that the findings are counted by; `base` is what the attacker
    has, of the same description. Raises `BadInput` for a base that is another kind of model.
    """
    if base.description != plain.description:
        raise BadInput("base: its description is not that of the model", field="base")
    takes = plain.architecture.takes
    probes = probes or Probes.synthetic(takes)
    if isinstance(takes, Tokens):
        kind, findings = "tokens", on_tokens(plain, sealed, done, base, probes)
    else:
        kind = "images" if len(takes.shape) == 3 else "rows"
        findings = on_rows(plain, sealed, done, base, probes)
    return Report(
        kind=kind,
        sealed=sealed.digest,
        probes=probes.source,
        visible=VISIBLE[kind],
        findings=tuple(findings),
    )

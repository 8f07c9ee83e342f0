"""Owner, node and data silo: three objects, with bytes between them.

```python
sealing = Owner(owner_key).seal(model, SealingKey.generate(), node=node_public, silo=silo_public)
node = Node(sealing.node, me=node_public, owner=owner_public)
silo = Silo(sealing.silo, silo_key, owner=owner_public)
answer = silo.open(node.run(silo.seal({"tokens": ids})))
```

The owner has the model and the key. The node has the sealed model, neither base nor key. The data
silo has the keys of input and answer, and nothing else of the model. Obfuscation, not encryption:
`sealing.report` says what attacks recovered from what the node holds. Nothing here checks that the
node computed what it was asked; `secure.verification` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from secure.equivariant import wire
from secure.equivariant.attacks import attack
from secure.equivariant.attacks.probes import Probes
from secure.equivariant.errors import BadInput, SameParty
from secure.equivariant.groups import Dense, Key, Monomial
from secure.equivariant.inputs import AnyTakes, Inputs, Rows, Tokens
from secure.equivariant.keys import SealingKey, lock, unlock
from secure.equivariant.model import Model
from secure.equivariant.report import LABEL, Report
from secure.errors import BadMessage
from secure.exchange.sealing import seal_for, unseal
from secure.keys import SigningKey

DAYS, LONGEST = 30, 3660
"""How long a sealing is good for, unless said otherwise: a node collects what it sees."""

_TAKES: TypeAdapter[Rows | Tokens] = TypeAdapter(AnyTakes)
Clock = Callable[[], datetime]


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Sealing:
    """What one sealing gives: bytes for the node, bytes for the silo, the rest for the owner."""

    node: bytes = field(repr=False)
    silo: bytes = field(repr=False)
    manifest: dict[str, Any]
    report: Report
    key: SealingKey = field(repr=False)

    def key_file(self, owner: SigningKey, passphrase: str | None = None) -> bytes:
        """The node's key and the manifest, locked; for a file of mode 0600."""
        return lock(self.key, self.manifest, owner, passphrase)


class Owner:
    """Who has the model."""

    def __init__(self, key: SigningKey, clock: Clock = _utc) -> None:
        self._key = key
        self._clock = clock

    def seal(
        self,
        model: Model,
        key: SealingKey,
        *,
        node: str,
        silo: str,
        base: Model | None = None,
        probes: Probes | None = None,
        days: int = DAYS,
    ) -> Sealing:
        """Seal a model for one node and one data silo (public keys), and attack the result.

        `base` is the public model that an attacker may have, the model itself unless given;
        `probes` are inputs like those that will come, synthetic ones unless given. Raises
        `SameParty` where the node is also the owner or the silo, and `BadModel` or
        `UnsupportedOperation` where the model cannot be sealed.
        """
        for name, public in (("node", node), ("silo", silo)):
            if not re.fullmatch("[0-9a-f]{64}", public):
                raise BadInput(
                    f"{name}: not a public key", field=name, allowed="64 hexadecimal digits"
                )
        for name, other in (("owner", self._key.public), ("silo", silo)):
            if node == other:
                raise SameParty(
                    f"node: it is also the {name}, and both together undo the sealing",
                    field="node",
                    value=node,
                    allowed=f"another party than the {name}",
                )
        if not 1 <= days <= LONGEST:
            raise BadInput(
                f"days: {days} is not from 1 to {LONGEST}",
                field="days",
                value=days,
                allowed=f"1 to {LONGEST}",
            )
        own = key.for_node(node, model.digest)
        sealed, done = model.transform(own.secret)
        now = self._clock().replace(microsecond=0)
        common: dict[str, Any] = {
            "protection": LABEL,
            "sealing": wire.digest(sealed.digest.encode(), node.encode(), now.isoformat().encode()),
            "owner": self._key.public,
            "created": now,
            "expires": now + timedelta(days=days),
        }
        description, weights = sealed.description, sealed.tensors()
        for_node = wire.Manifest(
            content=wire.digest(description, weights), receiver=node, **common
        ).signed(self._key)
        takes = model.architecture.takes.model_dump_json().encode()
        keys = wire.pack_tensors(
            {**_numbers("input", done.input), **_numbers("output", done.output)}
        )
        for_silo = wire.Manifest(content=wire.digest(takes, keys), receiver=silo, **common).signed(
            self._key
        )
        return Sealing(
            node=wire.pack("sealed model", **for_node, description=description, weights=weights),
            silo=seal_for(silo, wire.pack("sealed keys", **for_silo, takes=takes, keys=keys)),
            manifest={
                "scheme": "tacit equivariant 1",
                "protection": LABEL,
                "kind": model.architecture.takes.kind,
                "sealing": common["sealing"],
                "base": model.digest,
                "sealed": sealed.digest,
                "dtype": str(model.dtype).removeprefix("torch."),
                "created": now.isoformat(),
                "expires": (now + timedelta(days=days)).isoformat(),
                "owner": self._key.public,
                "node": node,
                "silo": silo,
                "boundaries": [boundary.document() for boundary in done.boundaries],
            },
            report=attack(model, sealed, done, base=base or model, probes=probes),
            key=own,
        )

    def attack(
        self,
        model: Model,
        sealed: bytes,
        key_file: bytes,
        *,
        base: Model | None = None,
        probes: Probes | None = None,
        passphrase: str | None = None,
    ) -> Report:
        """Attack what a node was sent, again: with another base, or with better probes.

        Raises `BadInput` where `model` is not the one that was sealed, and the errors of `unlock`
        and `Node` where the key file or the sealed model was changed.
        """
        key, manifest = unlock(key_file, self._key, passphrase)
        if manifest["base"] != model.digest:
            raise BadInput("model: not the one that was sealed", field="model", value=model.digest)
        node = Node(sealed, me=manifest["node"], owner=self._key.public)
        node.manifest.check_sealing(manifest["sealing"])
        done = model.transform(key.secret)[1]
        return attack(model, node.model, done, base=base or model, probes=probes)


class Node:
    """Who computes. `sealed` is what the owner sent, `me` and `owner` are public keys.

    Raises `BadSignature` or `BadMessage` for bytes that the owner did not make for this node.
    """

    def __init__(self, sealed: bytes, *, me: str, owner: str, clock: Clock = _utc) -> None:
        content = wire.unpack("sealed model", sealed)
        self.manifest = wire.checked_manifest(content, owner=owner, receiver=me)
        self.model = Model.read(content["description"], content["weights"])
        self._clock = clock

    def run(self, sealed_input: bytes) -> bytes:
        """Run the sealed model on a sealed input.

        Raises `StaleKey` past the sealing's date or for an input of another sealing, `BadMessage`
        and `BadInput` for anything that is no input of the model.
        """
        content = wire.unpack("sealed input", sealed_input)
        self.manifest.check_date(self._clock())
        self.manifest.check_sealing(content["sealing"])
        tensors = wire.unpack_tensors("sealed input", content["tensors"])
        answer = self.model.run(tensors)
        return wire.pack(
            "sealed answer",
            sealing=self.manifest.sealing,
            tensors=wire.pack_tensors({"answer": answer}),
        )


class Silo:
    """Who has the data. `sealed` is what the owner sent, for this silo's key alone.

    Raises `BadSignature` or `BadMessage` for bytes that the owner did not make for this silo.
    """

    def __init__(self, sealed: bytes, key: SigningKey, *, owner: str, clock: Clock = _utc) -> None:
        content = wire.unpack("sealed keys", unseal(key, sealed))
        self.manifest = wire.checked_manifest(content, owner=owner, receiver=key.public)
        self._clock = clock
        try:
            self.takes = _TAKES.validate_json(content["takes"])
        except ValidationError:
            raise BadMessage("sealed keys: malformed form of the inputs", field="takes") from None
        numbers = wire.unpack_tensors("sealed keys", content["keys"])
        self._input = _key("input", numbers)
        self._output = _key("output", numbers)

    def seal(self, inputs: Inputs) -> bytes:
        """Seal one input, `{"rows": ..}` or `{"tokens": ..}`; `BadInput` for a wrong one."""
        self.manifest.check_date(self._clock())
        wide = "rows" in inputs and inputs["rows"].dtype == torch.float64
        dtype = torch.float64 if wide else torch.float32
        checked = self.takes.checked(inputs, dtype)
        sealed = self.takes.sealed(checked, self._input.to(dtype))
        return wire.pack(
            "sealed input",
            sealing=self.manifest.sealing,
            tensors=wire.pack_tensors(sealed),
        )

    def open(self, sealed_answer: bytes) -> Tensor:
        """Open an answer: what the plain model would have given.

        Raises `StaleKey` for an answer of another sealing, `BadMessage` for anything else.
        """
        content = wire.unpack("sealed answer", sealed_answer)
        self.manifest.check_sealing(content["sealing"])
        tensors = wire.unpack_tensors("sealed answer", content["tensors"])
        answer = tensors.get("answer")
        if (
            answer is None
            or len(tensors) != 1
            or answer.dtype not in (torch.float32, torch.float64)
            or answer.dim() < 2
            or answer.shape[-1] != self._output.size
        ):
            raise BadMessage("sealed answer: not one answer of this model", field="answer")
        return self._output.to(answer.dtype).inverted().apply(answer)


def _numbers(name: str, key: Monomial | Dense) -> dict[str, Tensor]:
    if isinstance(key, Monomial):
        return {f"{name}.order": key.order, f"{name}.scale": key.scale}
    return {f"{name}.matrix": key.matrix}


def _key(name: str, numbers: dict[str, Tensor]) -> Key:
    """Read a key, from numbers that the owner signed."""
    if f"{name}.order" in numbers:
        return Monomial(numbers[f"{name}.order"], numbers[f"{name}.scale"])
    # A dense key is orthogonal, so its inverse need not travel.
    matrix = numbers[f"{name}.matrix"]
    return Dense(matrix, matrix.T)

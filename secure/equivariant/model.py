"""A model: a description and its weights, checked against each other, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import rfc8785
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from secure.equivariant.architecture import Architecture, Seen, Transformed
from secure.equivariant.decoder import Decoder
from secure.equivariant.encoder import Encoder
from secure.equivariant.errors import BadModel, UnsupportedOperation
from secure.equivariant.inputs import Inputs
from secure.equivariant.network import Network

Described = Annotated[Network | Decoder | Encoder, Field(discriminator="kind")]
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
WIDENED = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Model:
    """A description and all its weights, in one floating-point type.

    Weights in bfloat16 or float16 are widened to float32, which is exact; integers of a quantised
    model are refused. Raises `BadModel` where names or shapes do not agree with the description,
    `UnsupportedOperation` for another type.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        wanted = self.architecture.tensors()
        for name in wanted.keys() | self.weights.keys():
            found = tuple(self.weights[name].shape) if name in self.weights else None
            if found is None or wanted.get(name) != found:
                raise BadModel(
                    f"weights: {name} has shape {found}, the description wants {wanted.get(name)}",
                    field=name,
                    value=found,
                    allowed=wanted.get(name),
                )
        object.__setattr__(self, "weights", _one_type(self.weights))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.weights.values()):
            raise BadModel("weights: not all are finite", field="weights")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(iter(self.weights.values())).dtype

    @property
    def description(self) -> bytes:
        """The description as canonical JSON (RFC 8785)."""
        return rfc8785.dumps(self.architecture.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 over the description and, in the order of names, every weight."""
        total = hashlib.sha256(b"tacit model 1\0")
        for part in (self.description, *self._parts()):
            total.update(len(part).to_bytes(8, "big") + part)
        return total.hexdigest()

    def _parts(self) -> list[bytes]:
        parts = []
        for name, tensor in sorted(self.weights.items()):
            head = f"{name} {DTYPES[tensor.dtype]} {list(tensor.shape)}"
            parts += [head.encode(), tensor.contiguous().numpy().tobytes()]
        return parts

    def checked(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the inputs as the model takes them; `BadInput` names what does not fit."""
        return self.architecture.takes.checked(inputs, self.dtype)

    def run(self, inputs: Inputs, seen: Seen | None = None) -> Tensor:
        """Run the model; `seen` collects the states on the way."""
        with torch.inference_mode():
            return self.architecture.forward(self.weights, self.checked(inputs), seen)

    def transform(self, secret: bytes) -> tuple[Model, Transformed]:
        """Return the sealed model, in the type of this one, and all its keys."""
        wide = {name: tensor.to(torch.float64) for name, tensor in self.weights.items()}
        done = self.architecture.transform(wide, secret)
        sealed = {name: tensor.to(self.dtype) for name, tensor in done.weights.items()}
        return Model(done.architecture, sealed), done

    def tensors(self) -> bytes:
        """The weights as safetensors."""
        data: bytes = save({name: tensor.contiguous() for name, tensor in self.weights.items()})
        return data

    @classmethod
    def read(cls, description: bytes, tensors: bytes) -> Model:
        """Read a model from its description and safetensors."""
        try:
            architecture = _DESCRIBED.validate_json(description)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "description"
            raise BadModel(f"{where}: {first['msg']}", field=where, value=None) from None
        try:
            weights = load(tensors)
        except (SafetensorError, ValueError) as error:
            raise BadModel(
                f"weights: no safetensors, {type(error).__name__}", field="weights"
            ) from None
        return cls(architecture, weights)


_DESCRIBED: TypeAdapter[Network | Decoder | Encoder] = TypeAdapter(Described)


def _one_type(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    widened = {n: t.float() if t.dtype in WIDENED else t for n, t in weights.items()}
    types = {tensor.dtype for tensor in widened.values()}
    if len(types) != 1 or not types <= DTYPES.keys():
        named = sorted(str(kind).removeprefix("torch.") for kind in types)
        raise UnsupportedOperation(
            f"weights: of type {', '.join(named)}; a key mixes real numbers, so quantised or "
            "mixed weights cannot be sealed",
            field="dtype",
            value=named,
            allowed=["float32", "float64", "bfloat16", "float16"],
        )
    return {name: tensor.detach() for name, tensor in widened.items()}

"""What a model is asked: rows of numbers or tokens; all that a data silo learns of the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from secure.equivariant.errors import BadInput
from secure.equivariant.groups import Key
from secure.equivariant.operations import Part

Inputs = Mapping[str, Tensor]


class Takes(Part):
    """The form of an input."""

    @abstractmethod
    def checked(self, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the inputs in their shapes and types; `BadInput` says what does not fit."""

    @abstractmethod
    def sealed(self, checked: Inputs, key: Key) -> dict[str, Tensor]:
        """Return checked inputs under the input key."""


class Rows(Takes):
    """Finite real numbers [n, *shape] under the name `rows`; the key acts on the first of shape."""

    kind: Literal["rows"] = "rows"
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=3)

    def checked(self, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return rows [n, *shape]; rows of another shape with as many numbers are reshaped."""
        _names(inputs, "rows")
        rows = inputs["rows"]
        if rows.dim() < 2 or torch.Size(rows.shape[1:]).numel() != torch.Size(self.shape).numel():
            raise BadInput(
                f"rows: of shape {list(rows.shape)}, where [n, *{list(self.shape)}] is taken",
                field="rows",
                value=list(rows.shape),
                allowed=["n", *self.shape],
            )
        if not rows.dtype.is_floating_point or not bool(torch.isfinite(rows).all()):
            raise BadInput("rows: not all are finite real numbers", field="rows")
        return {"rows": rows.to(dtype).reshape(len(rows), *self.shape)}

    def sealed(self, checked: Inputs, key: Key) -> dict[str, Tensor]:
        """Return the rows with the key applied to their features or channels."""
        return {"rows": key.apply(checked["rows"].movedim(1, -1)).movedim(-1, 1).contiguous()}


class Tokens(Takes):
    """Token ids [n, length] under `tokens`; an encoder also takes `mask` and `types`."""

    kind: Literal["tokens"] = "tokens"
    vocabulary: PositiveInt
    positions: PositiveInt
    types: PositiveInt | None = None

    def checked(self, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return int64 ids, a boolean mask (true: attended), int64 types."""
        _names(inputs, "tokens", () if self.types is None else ("mask", "types"))
        found = {"tokens": self._ids(inputs, "tokens", self.vocabulary)}
        if self.types is not None and "types" in inputs:
            found["types"] = self._ids(inputs, "types", self.types)
        if "mask" in inputs:
            found["mask"] = inputs["mask"].to(torch.bool)
        for name, tensor in found.items():
            if tensor.shape != found["tokens"].shape:
                raise BadInput(
                    f"{name}: of shape {list(tensor.shape)}, where tokens have "
                    f"{list(found['tokens'].shape)}",
                    field=name,
                    value=list(tensor.shape),
                    allowed=list(found["tokens"].shape),
                )
        if "mask" in found and not bool(found["mask"].any(dim=1).all()):
            raise BadInput("mask: a row attends to no token", field="mask")
        return found

    def _ids(self, inputs: Inputs, name: str, limit: int) -> Tensor:
        ids = inputs[name]
        if ids.dim() != 2 or not 1 <= ids.shape[1] <= self.positions:
            raise BadInput(
                f"{name}: of shape {list(ids.shape)}, where [n, 1 to {self.positions}] is taken",
                field=name,
                value=list(ids.shape),
                allowed=f"[n, 1 to {self.positions}]",
            )
        if ids.dtype not in (torch.int64, torch.int32):
            found = str(ids.dtype).removeprefix("torch.")
            raise BadInput(
                f"{name}: of type {found}", field=name, value=found, allowed="int64, int32"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= limit):
            raise BadInput(f"{name}: outside 0 to {limit - 1}", field=name, allowed=f"< {limit}")
        return ids.to(torch.int64)

    def sealed(self, checked: Inputs, key: Key) -> dict[str, Tensor]:
        """Return the ids under the permutation; mask and types stay as they are."""
        # A token's row in the sealed table is where the permutation took it.
        place = key.inverted().apply(torch.arange(self.vocabulary, dtype=torch.float64))
        return {**checked, "tokens": place.round().to(torch.int64)[checked["tokens"]]}


AnyTakes = Annotated[Rows | Tokens, Field(discriminator="kind")]


def _names(inputs: Inputs, needed: str, optional: tuple[str, ...] = ()) -> None:
    allowed = [needed, *optional]
    for name in inputs:
        if name not in allowed:
            raise BadInput(f"{name}: no input of this model", field=name, allowed=allowed)
    if needed not in inputs:
        raise BadInput(f"{needed}: this input is missing", field=needed, allowed=allowed)

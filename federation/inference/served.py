"""A model as it is asked: found, checked against the schema, and made ready to answer.

A model is two files: weights as safetensors, and beside them a description of architecture and
schema (`federation.predict.describe`). Nothing here reads a row.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load
from torch import nn

from federation.documents import parse
from federation.errors import BadInput, NotFound
from federation.limits import Count, CountOrNone, Within
from federation.models import OWN, Image, build_model
from federation.schema import CategoryFeature, Dataset
from federation.spec import Block
from federation.training.specs import ModelSpec
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.inference.specs import Spec
    from secure.ckks.compiler import Compiled
    from secure.ckks.network import Network

Reals = npt.NDArray[np.float64]
Bytes = Annotated[int, Within(0, 2**53 - 1)]
Bound = Annotated[float, Within(0, 1e300)]


class Facts(Block):
    """What the model's silo tells the coordinator of encrypted inference: public numbers only.

    Sizes in bytes, `seconds` for one request by the forecast; `error` is the proved bound of every
    output over the whole box but for a chance of 2^-40, `approximation` what polynomials in place
    of other activations add at most.
    """

    packing: Literal["latency", "throughput"]
    ring: Count
    modulus_bits: Count
    depth: CountOrNone
    rotations: CountOrNone
    key_bytes: Bytes
    request_bytes: Bytes
    reply_bytes: Bytes
    memory_bytes: Bytes
    seconds: Bound
    error: Bound
    approximation: Bound

    def text(self) -> list[str]:
        """The report's lines on certificate and forecast."""
        return [
            "## Certificate and forecast",
            "",
            f"Ring {self.ring}, {self.modulus_bits} bits of modulus, depth {self.depth}, "
            f"{self.packing} mode. Forecast: {self.key_bytes / 2**20:.1f} MiB of keys, "
            f"{self.request_bytes / 2**20:.2f} MiB and {self.seconds:.3f} s a request.",
            "",
            f"Every output is within {self.error:.3g} (proved, but for a chance of 2^-40) of the "
            f"compiled model in exact arithmetic, and that within {self.approximation:.3g} of the "
            "plain model. These are the model owner's statements about its model. For which rows "
            "the class is certified stands beside the predictions and is told to nobody.",
        ]


@dataclass(frozen=True)
class Files:
    """The two files of a model."""

    weights: bytes
    description: bytes

    @classmethod
    def at(cls, path: Path, what: str) -> Files:
        """Read `path` and its description; `NotFound` where one is not there."""
        try:
            return cls(path.read_bytes(), path.with_suffix(".json").read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"model: no {what}: {path.name} and {path.stem}.json are not both there",
                field="model",
                value=what,
            ) from None

    def pack(self) -> bytes:
        """Both as one message."""
        packed: bytes = msgpack.packb([self.weights, self.description])
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Files:
        """What `pack` made."""
        return cls(*unpacked(packed, 2, "a model"))


def published(jobs: Path, named: str) -> Path:
    """The model of a finished train job among the coordinator's records, by id or by name.

    By name it is the latest. Raises `NotFound`.
    """
    records = [json.loads(path.read_bytes()) for path in jobs.glob("*/job.json")]
    trained = [r for r in records if r["kind"] == "train" and r["status"] == "completed"]
    found = [r for r in trained if named in (r["id"], r["name"])]
    if not found:
        raise NotFound(
            f"model.job: no finished train job {named!r} here; see tacit job list",
            field="model.job",
            value=named,
            allowed=sorted(r["id"] for r in trained)[-5:],
        )
    latest = max(found, key=lambda record: str(record["created"]))
    return jobs / str(latest["id"]) / "model" / "model.safetensors"


def check_published(spec: Spec, jobs: Path, dataset: Dataset) -> None:
    """Refuse a published model that is not there, or that the mode cannot take."""
    if spec.model.job is not None:
        files = Files.at(published(jobs, spec.model.job), spec.model.job)
        model = read_model(files, dataset, ours=True)
        if spec.mode == "ckks":
            readable(spec, model, dataset)


def read_model(files: Files, dataset: Dataset, *, ours: bool) -> nn.Module:
    """The model of two files, in double precision; `BadInput` where they are not one.

    It must have been made for this very schema. With `ours` a package's model is refused: what
    comes from outside makes no code of others run.
    """
    try:
        document = json.loads(files.description)
        said, schema = document["model"], Dataset.model_validate(document["dataset"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadInput("model: its description is not one", field="model.description") from None
    architecture = parse(said, ModelSpec, "model")
    if schema.digest() != dataset.digest():
        raise BadInput(
            f"model: it was made for another schema than that of {dataset.name!r}: rows of shape "
            f"{list(schema.input_shape)} and {schema.n_classes} classes, here "
            f"{list(dataset.input_shape)} and {dataset.n_classes}",
            field="model.dataset",
            value=schema.digest()[:8],
            allowed=dataset.digest()[:8],
        )
    if ours and architecture.name not in OWN:
        raise BadInput(
            f"model: {architecture.name!r} comes from a package; the silo that has it can keep it "
            "as model.own",
            field="model.name",
            value=architecture.name,
            allowed=list(OWN),
        )
    model = build_model(architecture.model_dump(), dataset.input_shape, dataset.n_classes, seed=0)
    try:
        state = load(files.weights)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError):
        raise BadInput("model: weights of another architecture", field="model.weights") from None
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise BadInput("model: weights that are not finite", field="model.weights")
    return model.double().eval()


def readable(spec: Spec, model: nn.Module, dataset: Dataset) -> Network:
    """The model as CKKS computes it; `BadParameters` names the first layer that it cannot."""
    from secure.ckks.network import Approximation, read

    asked = spec.approximation
    ways = () if asked is None else Approximation(asked.bound, asked.degree)
    return read(model, dataset.input_shape, ways, reshapes=(Image,))


def input_box(dataset: Dataset) -> tuple[Reals, Reals]:
    """The lowest and highest value of every input position, [features], as the schema declares.

    Every row that `federation.sources.rows` maps lies inside.
    """
    if dataset.image is not None:
        size = int(np.prod(dataset.input_shape))
        return np.zeros(size), np.ones(size)
    low = [
        0.0 if isinstance(feature, CategoryFeature) else -1.0
        for feature in dataset.features.values()
        for _ in range(getattr(feature, "width", 1))
    ]
    return np.array(low), np.ones(len(low))


class PlainServed:
    """The model on rows as they are: safetensors of `rows` [n, ...] to `logits` [n, classes]."""

    facts: None = None

    def __init__(self, spec: Spec, model: nn.Module, dataset: Dataset) -> None:
        self._spec, self._model, self._shape = spec, model, dataset.input_shape

    def answer(self, batch: int, rows: bytes) -> bytes:
        """Run the model; `BadMessage` for anything but the rows of this batch."""
        shape = (self._spec.places(batch), *self._shape)
        values = array_of(rows, "rows", np.dtype(np.float32), shape)
        with torch.no_grad():
            logits = self._model(torch.tensor(values, dtype=torch.float64))
        answer: bytes = save_arrays({"logits": np.ascontiguousarray(logits.numpy())})
        return answer


class EncryptedServed:
    """The model on ciphertexts; it holds evaluation keys and nothing that decrypts."""

    def __init__(self, spec: Spec, model: nn.Module, dataset: Dataset) -> None:
        from secure.ckks.compiler import compile_network
        from secure.ckks.server import Server

        self._spec = spec
        self.compiled: Compiled = compile_network(
            readable(spec, model, dataset),
            *input_box(dataset),
            rows=spec.batch_size,
            mode=spec.packing,
        )
        self.server = Server(self.compiled)

    @property
    def facts(self) -> Facts:
        """Forecast and certificate."""
        cost, plan = asdict(self.compiled.forecast), self.compiled.plan
        said: dict[str, Any] = {name: cost[name] for name in Facts.model_fields if name in cost}
        said |= {"packing": plan.mode, "error": plan.error, "approximation": plan.approximation}
        return Facts(**said)

    @property
    def cost(self) -> int:
        """How many rows a session can have predicted: every slot, as what is in it is not seen."""
        spec, plan = self._spec, self.compiled.plan
        each = rows_of_request(plan.mode, plan.slots)
        return sum(-(-spec.places(batch) // each) for batch in range(spec.batches)) * each

    def answer(self, batch: int, rows: bytes) -> bytes:
        """Compute on a batch's ciphertexts; `BadMessage` for anything but these."""
        each = rows_of_request(self.compiled.plan.mode, self.compiled.plan.slots)
        requests = unpacked(rows, -(-self._spec.places(batch) // each), "rows")
        answer: bytes = msgpack.packb([self.server.answer(request) for request in requests])
        return answer


def rows_of_request(packing: str, slots: int) -> int:
    """How many rows one encrypted request holds."""
    return 1 if packing == "latency" else slots


def unpacked(packed: bytes, count: int, what: str) -> list[bytes]:
    """A msgpack list of so many byte strings, or `BadMessage`."""
    try:
        parts = msgpack.unpackb(packed)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        parts = None
    if not (
        isinstance(parts, list)
        and len(parts) == count
        and all(type(part) is bytes for part in parts)
    ):
        raise BadMessage(f"{what}: not {count} byte strings", field=what, allowed=count)
    return parts


def array_of(
    packed: bytes, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The one array of a safetensors message, of this name, type and shape, or `BadMessage`."""
    try:
        arrays = load_arrays(packed)
    except SafetensorError:
        arrays = {}
    found = arrays.get(name)
    if len(arrays) != 1 or found is None or found.dtype != dtype or found.shape != shape:
        raise BadMessage(f"{name}: not {dtype} {list(shape)}", field=name, allowed=list(shape))
    return found

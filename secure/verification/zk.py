"""Zero-knowledge proofs of a small network, by ezkl (extra `zk`).

    circuit = build(layers, samples, directory / "owner")     # owner: rounds it to a circuit
    draw_parameters(directory / "parameters", circuit.size)   # verifier
    keys = make_keys(circuit, directory / "parameters")       # owner
    proof = prove(keys, row)                                  # owner
    outputs = check(keys.statement, proof, row)               # verifier

What a proof says: the rounded circuit behind the verifying key has these outputs on this input.
Weights are fixed in the key and not shown; input and output are. It says nothing of how the model
was trained, and the outputs are those of the rounded circuit: `Circuit.error` is its distance from
the floating-point network on the samples.

Parameters (KZG) have a trapdoor: who drew them can forge. So the verifier draws them itself, and is
then the only one whom the proofs convince; or all use the file of a public ceremony. The owner of
the weights has the opposite worry: **parameters that are malformed on purpose draw weights out of
the verifying key**, and ezkl does not check them. Where weights are secret from the verifier, use a
ceremony's file. Even then the key lets its reader confirm a guess of all weights together.
Practical up to some 1e5 weights on two cores (benchmarks/verification.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from secure.errors import BadMessage, BadParameters, NotVerified
from secure.verification.extras import optional

Floats = npt.NDArray[np.float64]
Layers = Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]

MAX_PROOF = 1 << 24
"""Largest proof that is read, in bytes."""


@dataclass(frozen=True)
class Circuit:
    """A network as a circuit, in a directory of its owner. It has 2^`size` rows.

    `error` is the largest difference of an output from the floating-point network on the samples.
    """

    directory: Path
    size: int
    error: float

    @property
    def compiled(self) -> Path:
        """The compiled circuit; it holds the weights and stays with the owner."""
        return self.directory / "network.compiled"

    @property
    def settings(self) -> Path:
        """The circuit's public settings."""
        return self.directory / "settings.json"


@dataclass(frozen=True)
class Statement:
    """What a verifier holds: settings, verifying key and parameters, all public.

    The verifier takes the digest from somebody it trusts to have built the key from the committed
    model: its owner by signature, or an auditor who has the weights and ran `check_key`.
    """

    settings: Path
    key: Path
    parameters: Path

    @property
    def digest(self) -> str:
        """What stands for the statement: a digest of its three files."""
        files = (self.settings, self.key, self.parameters)
        hashes = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
        return hashlib.sha256(b"tacit zk statement 1\0" + hashes).hexdigest()


@dataclass(frozen=True)
class Keys:
    """What the owner proves with."""

    circuit: Circuit
    proving: Path
    statement: Statement


def build(layers: Layers, samples: npt.ArrayLike, directory: Path) -> Circuit:
    """Round a network (weight [outputs, inputs], bias [outputs], ReLU between) to a circuit.

    `samples` [n, inputs] are public rows over which the number format is chosen. `directory` must
    not exist; it will hold the weights. Errors: `BadParameters` where ezkl cannot do it.
    """
    ezkl = optional("ezkl")
    rows = np.asarray(samples, dtype=np.float64)
    model = _onnx(layers)
    directory.mkdir(parents=True, mode=0o700)
    network, data = directory / "network.onnx", directory / "samples.json"
    network.write_bytes(model)
    data.write_text(json.dumps({"input_data": [rows.ravel().tolist()]}))
    circuit = Circuit(directory, 0, 0.0)
    arguments = ezkl.PyRunArgs()
    arguments.input_visibility = arguments.output_visibility = "public"
    arguments.param_visibility = "fixed"
    # Numbers of 28 bits, range-checked in four pieces of 7: the table stays small.
    arguments.decomp_base, arguments.decomp_legs = 128, 4
    with _told("the network does not become a circuit", BadParameters):
        ezkl.gen_settings(str(network), str(circuit.settings), py_run_args=arguments)
        ezkl.calibrate_settings(str(data), str(network), str(circuit.settings), "resources")
        ezkl.compile_circuit(str(network), str(circuit.compiled), str(circuit.settings))
    size = int(json.loads(circuit.settings.read_text())["run_args"]["logrows"])
    found = np.stack([_outputs(ezkl, circuit, row) for row in rows])
    return Circuit(directory, size, float(np.abs(found - _forward(layers, rows)).max()))


def draw_parameters(path: Path, size: int) -> None:
    """Draw the parameters for circuits of 2^`size` rows; whoever ran this can forge proofs."""
    ezkl = optional("ezkl")
    with _told("no parameters were drawn", BadParameters):
        ezkl.gen_srs(str(path), size)


def make_keys(circuit: Circuit, parameters: Path) -> Keys:
    """Make the proving and the verifying key of a circuit, in its directory."""
    ezkl = optional("ezkl")
    proving, key = circuit.directory / "proving.key", circuit.directory / "verifying.key"
    with _told("no keys were made", BadParameters):
        ezkl.setup(str(circuit.compiled), str(key), str(proving), srs_path=str(parameters))
    return Keys(circuit, proving, Statement(circuit.settings, key, parameters))


def prove(keys: Keys, row: npt.ArrayLike) -> bytes:
    """Prove the outputs of one row [inputs]; the proof shows row and outputs, not the weights."""
    ezkl = optional("ezkl")
    with TemporaryDirectory() as name, _told("no proof was made", BadParameters):
        witness, proof = Path(name) / "witness.json", Path(name) / "proof.json"
        _witness(ezkl, keys.circuit, np.asarray(row, dtype=np.float64), witness)
        ezkl.prove(
            str(witness),
            str(keys.circuit.compiled),
            str(keys.proving),
            str(proof),
            srs_path=str(keys.statement.parameters),
        )
        return proof.read_bytes()


def check(statement: Statement, proof: bytes, row: npt.ArrayLike) -> Floats:
    """Return the outputs that the proof proves for `row`.

    Errors: `BadMessage` for what is no proof; `NotVerified` where it does not hold, or holds for
    another input. Only the field elements that the proof binds are read; the readable copies that
    ezkl writes beside them are not part of it.
    """
    ezkl = optional("ezkl")
    values = np.asarray(row, dtype=np.float64)
    settings = _settings(statement)
    inputs, outputs = (int(np.prod(shape)) for shape in settings["model_instance_shapes"])
    instances = _instances(proof, inputs + outputs)
    with TemporaryDirectory() as name, _told("the proof does not hold", NotVerified):
        path = Path(name) / "proof.json"
        path.write_bytes(proof)
        key, parameters = str(statement.key), str(statement.parameters)
        if not ezkl.verify(str(path), str(statement.settings), key, srs_path=parameters):
            raise NotVerified("the proof does not hold", field="proof")
    scale_in, scale_out = settings["model_input_scales"][0], settings["model_output_scales"][0]
    shown = np.array([ezkl.felt_to_float(x, scale_in) for x in instances[:inputs]])
    if values.shape != shown.shape or np.abs(shown - values).max() > 0.500001 * 2.0**-scale_in:
        raise NotVerified("the proof is about another input", field="row")
    return np.array([ezkl.felt_to_float(x, scale_out) for x in instances[inputs:]])


def check_key(statement: Statement, layers: Layers) -> None:
    """For who has the weights: raise `NotVerified` unless the verifying key is this network's.

    The circuit is compiled again under the statement's settings, and its key made again.
    """
    ezkl = optional("ezkl")
    _settings(statement)
    model = _onnx(layers)
    with TemporaryDirectory() as name, _told("the key is not this network's", NotVerified):
        here = Path(name)
        network, compiled, key = here / "network.onnx", here / "network.compiled", here / "key"
        network.write_bytes(model)
        ezkl.compile_circuit(str(network), str(compiled), str(statement.settings))
        parameters = str(statement.parameters)
        ezkl.setup(str(compiled), str(key), str(here / "proving"), srs_path=parameters)
        if key.read_bytes() != statement.key.read_bytes():
            raise NotVerified("the key is not this network's", field="key")


def _settings(statement: Statement) -> dict[str, Any]:
    """The circuit's settings, in which input and output are shown and weights fixed."""
    settings: dict[str, Any] = json.loads(statement.settings.read_text())
    names = ("input_visibility", "output_visibility", "param_visibility")
    seen = [settings["run_args"][name] for name in names]
    if seen != ["Public", "Public", "Fixed"]:
        raise NotVerified(
            "the circuit does not show its input and output and fix its weights",
            field="settings",
            value=seen,
            allowed=["Public", "Public", "Fixed"],
        )
    return settings


def _instances(proof: bytes, count: int) -> list[str]:
    """The field elements that a proof binds: inputs, then outputs."""
    try:
        if len(proof) > MAX_PROOF:
            raise ValueError("too large")
        (found,) = json.loads(proof)["instances"]
        if len(found) != count or not all(type(x) is str and len(x) == 64 for x in found):
            raise ValueError("other instances")
        for element in found:
            bytes.fromhex(element)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadMessage("not a proof about this circuit", field="proof") from None
    return list(found)


def _outputs(ezkl: Any, circuit: Circuit, row: Floats) -> Floats:
    with TemporaryDirectory() as name:
        witness = Path(name) / "witness.json"
        _witness(ezkl, circuit, row, witness)
        found = json.loads(witness.read_text())["pretty_elements"]["rescaled_outputs"][0]
    return np.array([float(x) for x in found])


def _witness(ezkl: Any, circuit: Circuit, row: Floats, path: Path) -> None:
    data = path.with_name("row.json")
    data.write_text(json.dumps({"input_data": [row.tolist()]}))
    with _told("the circuit does not take this row", BadParameters):
        ezkl.gen_witness(str(data), str(circuit.compiled), str(path))


def _forward(layers: Layers, rows: Floats) -> Floats:
    """The network in doubles."""
    for number, (weight, bias) in enumerate(layers):
        rows = np.maximum(rows, 0) if number else rows
        rows = rows @ np.asarray(weight, dtype=np.float64).T + np.asarray(bias, dtype=np.float64)
    return rows


def _onnx(layers: Layers) -> bytes:
    """The network as an ONNX file, one row at a time."""
    onnx = optional("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes, weights, here = [], [], "input"
    for number, (weight, bias) in enumerate(layers):
        if number:
            nodes.append(helper.make_node("Relu", [here], [f"relu{number}"]))
            here = f"relu{number}"
        for name, value in (("w", weight), ("b", bias)):
            array = np.asarray(value, dtype=np.float32)
            weights.append(onnx.numpy_helper.from_array(array, f"{name}{number}"))
        out = "output" if number == len(layers) - 1 else f"linear{number}"
        nodes.append(helper.make_node("Gemm", [here, f"w{number}", f"b{number}"], [out], transB=1))
        here = out
    sizes = [np.asarray(layers[0][0]).shape[1], np.asarray(layers[-1][0]).shape[0]]
    first, last = (
        helper.make_tensor_value_info(name, kind, [1, size])
        for name, size in zip(("input", "output"), sizes, strict=True)
    )
    graph = helper.make_graph(nodes, "network", [first], [last], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString()
    return written


@contextmanager
def _told(what: str, kind: type[BadParameters] | type[NotVerified]) -> Iterator[None]:
    """Turn ezkl's failures into ours; its panics come as no `Exception`.

    While it looks for a number format it logs every one that does not fit as an error: hushed.
    """
    logging.getLogger("ezkl").setLevel(logging.CRITICAL)
    try:
        yield
    except (BadParameters, NotVerified):
        raise
    except BaseException as error:
        if not isinstance(error, RuntimeError | ValueError) and "Panic" not in type(error).__name__:
            raise
        raise kind(f"{what}: {str(error)[:200]}", field="proof") from None

"""Zero-knowledge proofs by ezkl, made and checked for real on a network of 195 weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure.errors import BadMessage, BadParameters, MissingExtra, NotVerified
from secure.verification import zk

RNG = np.random.default_rng(0)
LAYERS = [
    (RNG.normal(size=(16, 8)) / 3, RNG.normal(size=16) / 10),
    (RNG.normal(size=(3, 16)) / 4, RNG.normal(size=3) / 10),
]
SAMPLES = RNG.normal(size=(20, 8))
ROW = RNG.normal(size=8)
OTHER = [(LAYERS[0][0] + 0.05, LAYERS[0][1]), LAYERS[1]]


@dataclass(frozen=True)
class Made:
    keys: zk.Keys
    proof: bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("zk")
    circuit = zk.build(LAYERS, SAMPLES, home / "owner")
    zk.draw_parameters(home / "parameters", circuit.size)
    keys = zk.make_keys(circuit, home / "parameters")
    return Made(keys, zk.prove(keys, ROW))


def forward(layers: list[Any], row: np.ndarray) -> np.ndarray:
    (w1, b1), (w2, b2) = layers
    return np.maximum(w1 @ row + b1, 0) @ w2.T + b2


def test_a_proof_gives_the_network_s_outputs(made: Made) -> None:
    outputs = zk.check(made.keys.statement, made.proof, ROW)
    assert np.abs(outputs - forward(LAYERS, ROW)).max() < 2 * made.keys.circuit.error < 2e-3


def test_it_holds_for_its_own_input_only(made: Made) -> None:
    for row in (ROW + 2.0**-10, ROW[::-1], ROW[:7], np.append(ROW, 0.0)):
        with pytest.raises(NotVerified) as caught:
            zk.check(made.keys.statement, made.proof, row)
        assert caught.value.exit_code == 4


def changed(proof: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(proof)
    change(document)
    return json.dumps(document).encode()


def output(document: dict[str, Any]) -> None:
    """Claim the first output in the second's place."""
    instances = document["instances"][0]
    instances[9] = instances[8]


def bytes_of_proof(document: dict[str, Any]) -> None:
    document["proof"][100] ^= 1
    document["hex_proof"] = "0x" + bytes(document["proof"]).hex()


@pytest.mark.parametrize("change", [output, bytes_of_proof], ids=["output", "proof"])
def test_a_changed_proof_does_not_hold(made: Made, change: Callable[..., None]) -> None:
    with pytest.raises(NotVerified):
        zk.check(made.keys.statement, changed(made.proof, change), ROW)


def test_the_readable_copies_beside_the_proof_are_not_believed(made: Made) -> None:
    def lie(document: dict[str, Any]) -> None:
        document["pretty_public_inputs"]["rescaled_outputs"] = [["9", "9", "9"]]
        document["pretty_public_inputs"]["outputs"] = document["instances"]

    outputs = zk.check(made.keys.statement, changed(made.proof, lie), ROW)
    assert np.array_equal(outputs, zk.check(made.keys.statement, made.proof, ROW))


@pytest.mark.parametrize(
    "proof",
    [b"", b"{}", b"[]", b'{"instances": []}', b'{"instances": [["00"]]}', b"\xff\xfe"],
)
def test_what_is_no_proof_is_refused(made: Made, proof: bytes) -> None:
    with pytest.raises(BadMessage):
        zk.check(made.keys.statement, proof, ROW)


def test_hostile_values_in_a_proof_are_refused(made: Made) -> None:
    def field_element(value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda document: document["instances"][0].__setitem__(8, value)

    for value in (None, 7, "zz" * 32, "00" * 31, "é" * 64):
        with pytest.raises(BadMessage):
            zk.check(made.keys.statement, changed(made.proof, field_element(value)), ROW)
    # No element of the field: above the modulus.
    with pytest.raises(NotVerified):
        zk.check(made.keys.statement, changed(made.proof, field_element("ff" * 32)), ROW)
    for cut in (
        lambda d: d.pop("proof"),
        lambda d: d.update(proof=[]),
        lambda d: d.update(proof=7),
    ):
        with pytest.raises(NotVerified):
            zk.check(made.keys.statement, changed(made.proof, cut), ROW)
    with pytest.raises(BadMessage):
        zk.check(made.keys.statement, made.proof + b" " * (1 << 24), ROW)


def test_another_model_has_another_key_and_its_proofs_do_not_hold(
    made: Made, tmp_path: Path
) -> None:
    parameters = made.keys.statement.parameters
    other = zk.make_keys(zk.build(OTHER, SAMPLES, tmp_path / "other"), parameters)
    assert other.statement.key.read_bytes() != made.keys.statement.key.read_bytes()
    assert other.statement.digest != made.keys.statement.digest
    with pytest.raises(NotVerified):
        zk.check(made.keys.statement, zk.prove(other, ROW), ROW)


def test_who_has_the_weights_can_tell_whether_a_key_is_that_of_the_model(made: Made) -> None:
    zk.check_key(made.keys.statement, LAYERS)
    with pytest.raises(NotVerified):
        zk.check_key(made.keys.statement, OTHER)


def test_a_circuit_that_leaves_its_weights_open_is_refused(made: Made, tmp_path: Path) -> None:
    settings = json.loads(made.keys.statement.settings.read_text())
    settings["run_args"]["param_visibility"] = "Private"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    loose = replace(made.keys.statement, settings=tmp_path / "settings.json")
    for refused in (lambda: zk.check(loose, made.proof, ROW), lambda: zk.check_key(loose, LAYERS)):
        with pytest.raises(NotVerified) as caught:
            refused()
        assert caught.value.field == "settings"


def test_every_draw_of_parameters_is_another_and_a_key_belongs_to_one(
    made: Made, tmp_path: Path
) -> None:
    zk.draw_parameters(tmp_path / "parameters", made.keys.circuit.size)
    assert (tmp_path / "parameters").read_bytes() != made.keys.statement.parameters.read_bytes()
    with pytest.raises(NotVerified):
        swapped = replace(made.keys.statement, parameters=tmp_path / "parameters")
        zk.check(swapped, made.proof, ROW)


def test_what_does_not_become_a_circuit_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BadParameters):
        zk.build(
            [(np.ones((2, 3)), np.ones(2)), (np.ones((2, 5)), np.ones(2))], SAMPLES, tmp_path / "x"
        )
    with pytest.raises(BadParameters):
        zk.prove(made.keys, ROW[:5])


def test_ezkl_prints_nothing_of_its_own(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from pathlib import Path; from secure.verification import zk\n"
        "layers = [(np.ones((2, 3)), np.ones(2))]\n"
        f"zk.build(layers, np.ones((2, 3)), Path({str(tmp_path / 'owner')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("package", ["ezkl", "onnx"])
def test_without_the_package_the_extra_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"constraints\.txt '\.\[zk\]'") as caught:
        zk.build(LAYERS, SAMPLES, tmp_path / "owner")
    assert caught.value.exit_code == 5 and not (tmp_path / "owner").exists()

"""`tacit model seal` and `tacit model attack`, in this process and once as a command."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from federation.documents import parse
from federation.models import build_model
from federation.predict import describe
from federation.schema import Dataset
from infra.cli.app import main
from secure.equivariant import LABEL, Decoder, Node, Silo
from secure.keys import SigningKey

PARTS = {"code", "message", "field", "value", "allowed"}
OWNER, NODE, SILO = (SigningKey(letter * 32) for letter in (b"o", b"n", b"s"))
Command = Callable[..., dict[str, Any]]
SPLIT = {"by": "hash", "salt": "d", "test_fraction": 0.25}
SCHEMAS = {
    "mlp": {
        "name": "table",
        "features": {f"f{i}": {"type": "number", "bounds": [0, 1]} for i in range(6)},
        "label": {"column": "y", "classes": ["no", "yes"]},
        "split": SPLIT,
    },
    "cnn": {
        "name": "digits",
        "features": {"x": {"type": "image", "shape": [8, 8], "bounds": [0, 16]}},
        "label": {"column": "y", "classes": list("0123456789")},
        "split": SPLIT,
    },
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Command:
    """Run the command with --json, expect an exit code, and return its one document."""

    def run(*arguments: object, code: int = 0) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == code, out + err
        document: dict[str, Any] = json.loads(out)
        return document

    return run


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The options that name the three parties."""
    path = tmp_path_factory.mktemp("keys") / "owner"
    OWNER.save(path)
    return ["--key", path, "--node", NODE.public, "--silo", SILO.public]


def trained(path: Path, name: str) -> Path:
    """A model as a train job leaves it: weights, and what it takes to use them."""
    spec = {"name": name, "hidden": [12], "channels": [4, 6], "activation": "relu"}
    dataset = parse(SCHEMAS[name], Dataset, "schema")
    network = build_model(spec, dataset.input_shape, dataset.n_classes, seed=3)
    target = path / "model.safetensors"
    save_file(network.state_dict(), target)
    describe(target, model=spec, dataset=dataset)
    return target


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_trained_model_is_sealed_used_and_attacked(
    tmp_path: Path, command: Command, keys: list[object], name: str
) -> None:
    model, out = trained(tmp_path, name), tmp_path / "sealed"
    document = command("model", "seal", model, *keys, "--out", out)
    assert document["protection"] == document["report"]["label"] == LABEL
    assert {b["at"] for b in document["boundaries"]} >= {"input"}
    files = {kind: Path(path) for kind, path in document["files"].items()}
    assert set(files) == {"node", "silo", "owner", "report"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
    assert json.loads(files["report"].read_bytes())["label"] == LABEL

    # What was written works: node and data silo answer as the model of the job does.
    node = Node(files["node"].read_bytes(), me=NODE.public, owner=OWNER.public)
    silo = Silo(files["silo"].read_bytes(), SILO, owner=OWNER.public)
    described = json.loads(model.with_suffix(".json").read_text())
    dataset = Dataset.model_validate(described["dataset"])
    network = build_model(described["model"], dataset.input_shape, dataset.n_classes, seed=3)
    rows = torch.rand(20, *dataset.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(rows)
    answer = silo.open(node.run(silo.seal({"rows": rows})))
    assert torch.allclose(answer, expected, atol=1e-4)

    np.save(tmp_path / "probes.npy", np.random.default_rng(1).random((400, *dataset.input_shape)))
    again = command("model", "attack", model, out, *keys[:2], "--probes", tmp_path / "probes.npy")
    assert again["protection"] == LABEL and "400 inputs" in again["report"]["probes"]
    value = {(f["attack"], f["knows"]): f["value"] for f in again["report"]["findings"]}
    assert value["weight matching", "public base"] == 1
    if name == "cnn":
        assert value["feature maps", "the states of the input"] == pytest.approx(1, abs=1e-3)


def llama(path: Path, seed: int = 0) -> Path:
    """A small decoder in a directory of the shape of Hugging Face's."""
    sizes = dict(vocabulary=60, width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=24)
    chance = torch.Generator().manual_seed(seed)
    named = {
        "embed": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "attention_norm": "model.layers.0.input_layernorm",
        "mlp_norm": "model.layers.0.post_attention_layernorm",
    }
    named |= {p: f"model.layers.0.self_attn.{p}_proj" for p in "qkvo"}
    named |= {p: f"model.layers.0.mlp.{p}_proj" for p in ("gate", "up", "down")}
    shapes = Decoder(**sizes, positions=32).tensors()
    path.mkdir()
    save_file(
        {
            f"{named[ours.removeprefix('layers.0.')]}.weight": torch.randn(shape, generator=chance)
            for ours, shape in shapes.items()
        },
        path / "model.safetensors",
    )
    config = dict(
        model_type="llama",
        hidden_act="silu",
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=32,
        rms_norm_eps=1e-6,
    )
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_the_command_in_a_process_of_its_own(tmp_path: Path, keys: list[object]) -> None:
    model, out = llama(tmp_path / "llama"), tmp_path / "sealed"
    told = ["model", "seal", model, *keys, "--out", out, "--passphrase"]
    done = subprocess.run(
        [sys.executable, "-c", "from infra.cli.app import main; main()", *map(str, told)],
        input="open sesame\nopen sesame\n",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "obfuscation, not encryption" in done.stdout
    assert "with the base model 100.0% of 60 tokens are known" in done.stdout
    assert "Who can undo it" in done.stdout
    assert "open sesame" not in done.stdout + done.stderr
    assert b"passphrase" in (out / "owner.key").read_bytes()


def test_another_base_is_no_base(tmp_path: Path, command: Command, keys: list[object]) -> None:
    model, other = llama(tmp_path / "llama"), llama(tmp_path / "other", seed=9)
    out = tmp_path / "sealed"
    document = command("model", "seal", model, *keys, "--out", out, "--base", other)
    assert document["report"]["findings"][0]["value"] < 0.2
    report = command("model", "attack", model, out, *keys[:2])["report"]
    assert report["findings"][0]["value"] == 1


def test_bad_input_is_told(tmp_path: Path, command: Command, keys: list[object]) -> None:
    model, out = trained(tmp_path, "mlp"), tmp_path / "sealed"
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "wide.npy", np.zeros((20, 7)))
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "other.json").write_bytes(model.with_suffix(".json").read_bytes())

    def refused(code: int, *arguments: object) -> dict[str, Any]:
        error: dict[str, Any] = command(*arguments, code=code)["error"]
        assert set(error) == PARTS and error["message"]
        assert not out.exists()
        return error

    seal = ("model", "seal", model, *keys, "--out", out)
    error = refused(2, *seal[:2], tmp_path / "none.safetensors", *keys, "--out", out)
    assert error["field"] == "file"
    error = refused(2, *seal[:2], tmp_path / "other.safetensors", *keys, "--out", out)
    assert error["code"] == "SECURE-041" and error["field"] == "model"
    error = refused(2, *seal, "--probes", tmp_path / "bad.npy")
    assert error["field"] == "probes"
    error = refused(2, *seal, "--probes", tmp_path / "wide.npy")
    assert error["field"] == "rows" and error["allowed"] == ["n", 6]
    error = refused(2, *seal, "--days", "0")
    assert error["field"] == "days"
    error = refused(2, *seal, "--node", "nobody")
    assert error["field"] == "node"
    error = refused(3, *seal, "--node", OWNER.public)
    assert error["code"] == "SECURE-044"
    error = refused(5, "model", "seal", model, "--key", tmp_path / "none", *seal[5:])
    assert error["field"] == "key"


def test_what_was_changed_is_noticed(tmp_path: Path, command: Command, keys: list[object]) -> None:
    model, out = trained(tmp_path, "mlp"), tmp_path / "sealed"
    command("model", "seal", model, *keys, "--out", out)
    command("model", "seal", model, *keys, "--out", out, code=2)  # never over another sealing
    attack = ("model", "attack", model, out, *keys[:2])
    kept = {name: (out / name).read_bytes() for name in ("owner.key", "node.sealed")}
    for name, old, new in (
        ("owner.key", b'"kind": "rows"', b'"kind": "Rows"'),
        ("node.sealed", kept["node.sealed"][-9:], bytes(9)),
    ):
        (out / name).write_bytes(kept[name].replace(old, new))
        assert command(*attack, code=4)["error"]["code"] == "SECURE-001"
        (out / name).write_bytes(kept[name])
    (out / "owner.key").chmod(0o644)
    assert command(*attack, code=5)["error"]["code"] == "SECURE-003"
    (out / "owner.key").chmod(0o600)
    other = trained(tmp_path, "cnn")
    assert command("model", "attack", other, out, *keys[:2], code=2)["error"]["field"] == "model"

"""`tacit model commit`, `prove` and `verify` as a person or a script meets them."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from infra.cli.app import main
from secure.keys import SigningKey
from secure.verification.receipts import ReceiptChain

Tacit = Callable[..., dict[str, Any]]
KEY = SigningKey(b"n" * 32)


def said(words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["tacit", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tacit:
    """The command with --json; its exit code must be the one expected."""

    def command(*words: object, code: int = 0) -> dict[str, Any]:
        found = said((*words, "--json"), monkeypatch)
        out = capsys.readouterr()
        assert found == code, out.out + out.err
        document: dict[str, Any] = json.loads(out.out)
        return document

    return command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    rng = np.random.default_rng(1)
    weights = {"0.weight": rng.normal(size=(3, 4)), "0.bias": rng.normal(size=3)}
    save_file({n: w.astype(np.float32) for n, w in weights.items()}, path)
    return path


def tamper(model: Path) -> None:
    tensors = {name: value.copy() for name, value in load_file(model).items()}
    tensors["0.weight"][1, 1] += 1e-3
    save_file(tensors, model)


def test_a_model_is_committed_to_and_verified_and_a_changed_one_exits_4(
    run: Tacit, model: Path
) -> None:
    made = run("model", "commit", model)
    assert made["tensors"] == 2 and made["salted"] is False and made["salts"] is None
    held = run("model", "verify", model, "--commitment", made["commitment"])
    assert held == {
        "checked": "model",
        "ok": True,
        "first_bad": None,
        "root": made["root"],
        "tensors": 2,
    }
    assert run("model", "verify", model, "--commitment", made["commitment"], "--root", made["root"])
    tamper(model)
    found = run("model", "verify", model, "--commitment", made["commitment"], code=4)
    assert found["ok"] is False and found["first_bad"]["what"] == "0.weight"
    other = ("--root", "0" * 64)
    found = run("model", "verify", model, "--commitment", made["commitment"], *other, code=4)
    assert found["first_bad"]["where"] == "root"


def test_a_secret_model_is_proven_tensor_by_tensor(run: Tacit, model: Path, tmp_path: Path) -> None:
    made = run("model", "commit", model, "--secret")
    assert made["salted"] is True
    salts = Path(made["salts"])
    assert stat.S_IMODE(salts.stat().st_mode) == 0o600
    assert salts.read_text().strip() not in Path(made["commitment"]).read_text()
    with_salts = ("--commitment", made["commitment"], "--salts", salts)
    assert run("model", "verify", model, *with_salts)["ok"] is True
    error = run("model", "verify", model, "--commitment", made["commitment"], code=2)["error"]
    assert error["field"] == "salts"
    proof = run("model", "prove", model, "0.bias", *with_salts)["proof"]
    part = tmp_path / "part.safetensors"
    save_file({"0.bias": load_file(model)["0.bias"]}, part)
    opened = ("--proof", proof, "--root", made["root"])
    assert run("model", "verify", part, *opened)["tensor"] == "0.bias"
    save_file({"0.bias": load_file(model)["0.bias"] + 1}, part)
    assert run("model", "verify", part, *opened, code=4)["first_bad"]["what"] == "0.bias"
    save_file({"other": load_file(model)["0.bias"]}, part)
    assert run("model", "verify", part, *opened, code=4)["ok"] is False


def test_nothing_is_overwritten(run: Tacit, model: Path) -> None:
    made = run("model", "commit", model)
    before = Path(made["commitment"]).read_bytes()
    assert run("model", "commit", model, "--secret", code=2)["error"]["code"] == "FILE"
    assert Path(made["commitment"]).read_bytes() == before
    assert not list(model.parent.glob("*.salts"))


def test_a_chain_of_receipts_is_verified_and_what_is_held_must_be_in_it(
    run: Tacit, tmp_path: Path
) -> None:
    path, held = tmp_path / "receipts.jsonl", tmp_path / "held.jsonl"
    with ReceiptChain(path, KEY) as chain:
        made = [
            chain.append(
                model=bytes(32),
                request=os.urandom(32).hex(),
                answer=os.urandom(32).hex(),
                mode="ckks",
            )
            for _ in range(4)
        ]
    held.write_text(made[3].line() + "\n")
    signed = ("--receipts", path, "--signer", KEY.public)
    found = run("model", "verify", *signed, "--holds", held)
    assert (found["receipts"], found["held"], found["head"]) == (4, 1, made[3].hash)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert run("model", "verify", *signed)["receipts"] == 3
    assert run("model", "verify", *signed, "--holds", held, code=4)["first_bad"]["what"] == 4
    path.write_text("".join([lines[0], *lines[2:]]))
    assert run("model", "verify", *signed, code=4)["first_bad"]["what"] == 2
    other = SigningKey.generate().public
    found = run("model", "verify", "--receipts", path, "--signer", other, code=4)
    assert found["first_bad"]["what"] == 1


@pytest.mark.parametrize(
    ("words", "code", "field"),
    [
        (("verify",), 2, "model"),
        (("verify", "{model}"), 2, "model"),
        (("verify", "{model}", "--proof", "{model}"), 2, "model"),
        (("verify", "--receipts", "{model}"), 2, "model"),
        (("verify", "{model}", "--commitment", "no-such-file"), 2, "file"),
        (("verify", "{model}", "--commitment", "{model}"), 4, "file"),
        (("verify", "no-such-file", "--commitment", "{good}"), 2, "file"),
        (("verify", "{good}", "--commitment", "{good}"), 4, "model"),
        (("verify", "{model}", "--commitment", "{good}", "--root", "ab"), 2, "root"),
        (("verify", "{model}", "--proof", "{good}", "--root", "0" * 64), 4, "proof"),
        (("commit", "{good}"), 4, "model"),
        (("prove", "{model}", "no-such-tensor", "--commitment", "{good}"), 2, "tensor"),
    ],
)
def test_what_is_wrong_is_named(
    run: Tacit, model: Path, words: tuple[str, ...], code: int, field: str
) -> None:
    good = run("model", "commit", model)["commitment"]
    told = [word.format(model=model, good=good) for word in words]
    error = run("model", *told, code=code)["error"]
    assert error["field"] == field and error["message"]


def test_a_person_reads_what_was_found(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: object, code: int = 0) -> str:
        assert said(("model", *words), monkeypatch) == code
        return capsys.readouterr().out

    assert "to be kept secret" in told("commit", model, "--secret")
    commitment = model.with_suffix(".commitment.json")
    salts = model.with_suffix(".commitment.salts")
    with_salts = ("--commitment", commitment, "--salts", salts)
    assert "is the one committed to" in told("verify", model, *with_salts)
    tamper(model)
    assert "NOT VERIFIED: tensor '0.weight'" in told("verify", model, *with_salts, code=4)

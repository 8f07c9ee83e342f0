"""A commitment binds everything about a model's tensors, and salts hide their values."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from secure.errors import BadMessage, BadParameters, KeyFileError, NotVerified
from secure.verification.commitment import (
    Commitment,
    Proof,
    Salts,
    Tensor,
    check_model,
    check_tensor,
    commit,
    load,
    prove,
)

BIAS = Tensor("bias", "F32", (2,), struct.pack("<2f", 1.0, -2.0))
SCALE = Tensor("scale", "F64", (1,), struct.pack("<d", 0.5))
WEIGHT = Tensor("weight", "F32", (2, 2), struct.pack("<4f", 1, 2, 3, 4))
MODEL = [BIAS, SCALE, WEIGHT]

CHANGES = {
    "a value": [BIAS, SCALE, replace(WEIGHT, data=struct.pack("<4f", 1, 2, 3, 4.0001))],
    "a shape": [BIAS, SCALE, replace(WEIGHT, shape=(4,))],
    "a type": [BIAS, SCALE, replace(WEIGHT, dtype="I32")],
    "a name": [BIAS, SCALE, replace(WEIGHT, name="weights")],
    "one less": [BIAS, WEIGHT],
    "one more": [*MODEL, replace(BIAS, name="extra")],
    "values exchanged": [
        replace(BIAS, data=SCALE.data),
        replace(SCALE, data=BIAS.data),
        WEIGHT,
    ],
}


@pytest.mark.parametrize("salts", [None, Salts(b"s" * 32)], ids=["open", "salted"])
@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_any_change_gives_another_root_and_is_found(
    changed: list[Tensor], salts: Salts | None
) -> None:
    commitment = commit(MODEL, salts)
    assert commit(changed, salts).root != commitment.root
    check_model(commitment, MODEL, salts)
    with pytest.raises(NotVerified) as caught:
        check_model(commitment, changed, salts)
    assert caught.value.exit_code == 4
    assert caught.value.value in {"weight", "weights", "scale", "extra", "bias"}


def test_the_order_in_which_tensors_come_does_not_count() -> None:
    assert commit(MODEL[::-1]).root == commit(MODEL).root


def test_salted_and_open_have_other_roots_and_every_seed_another() -> None:
    roots = {commit(MODEL).root, *(commit(MODEL, Salts.generate()).root for _ in range(3))}
    assert len(roots) == 4


@pytest.mark.parametrize("salts", [None, Salts(b"s" * 32)], ids=["open", "salted"])
@pytest.mark.parametrize("tensor", MODEL, ids=lambda t: t.name)
def test_a_proof_holds_for_its_tensor_alone(tensor: Tensor, salts: Salts | None) -> None:
    commitment = commit(MODEL, salts)
    proof = Proof.read(
        json.loads(json.dumps(prove(commitment, MODEL, tensor.name, salts).document()))
    )
    check_tensor(commitment.root, proof, tensor.data)
    with pytest.raises(NotVerified):
        check_tensor(commitment.root, proof, tensor.data[:-1] + b"\x7f")
    with pytest.raises(NotVerified):
        check_tensor(commit(CHANGES["one more"], salts).root, proof, tensor.data)


PROOF = prove(commit(MODEL, Salts(b"s" * 32)), MODEL, "scale", Salts(b"s" * 32))


@pytest.mark.parametrize(
    "changed",
    [
        replace(PROOF, index=0),
        replace(PROOF, count=4),
        replace(PROOF, salted=False),
        replace(PROOF, salt=b"t" * 32),
        replace(PROOF, listing=b"l" * 32),
        replace(PROOF, path=PROOF.path[::-1]),
        replace(PROOF, path=PROOF.path[:-1]),
        replace(PROOF, facts=replace(PROOF.facts, shape=(1, 1))),
        replace(PROOF, facts=replace(PROOF.facts, name="scales")),
    ],
    ids=lambda p: str(p.salted),
)
def test_a_changed_proof_fails(changed: Proof) -> None:
    root = commit(MODEL, Salts(b"s" * 32)).root
    check_tensor(root, PROOF, SCALE.data)
    with pytest.raises(NotVerified):
        check_tensor(root, changed, SCALE.data)


def test_a_guess_can_be_checked_against_an_open_commitment_and_not_against_a_salted_one() -> None:
    secret = Tensor("flag", "U8", (1,), b"\x07")
    guesses = [replace(secret, data=bytes([value])) for value in range(256)]
    open_leaf = commit([secret]).leaves[0]
    assert [g.data for g in guesses if commit([g]).leaves[0] == open_leaf] == [secret.data]
    salted = commit([secret], Salts.generate())
    assert all(commit([g]).leaves[0] not in salted.leaves for g in guesses)
    assert all(commit([g], Salts.generate()).leaves != salted.leaves for g in guesses)


def test_no_salt_is_in_a_commitment_and_a_proof_opens_its_own_only() -> None:
    salts = Salts.generate()
    commitment = commit(MODEL, salts)
    published = json.dumps(commitment.document())
    opened = json.dumps(prove(commitment, MODEL, "scale", salts).document())
    for tensor in MODEL:
        assert salts.of(tensor.name).hex() not in published
        assert (salts.of(tensor.name).hex() in opened) == (tensor.name == "scale")


def test_no_proof_is_made_for_another_model() -> None:
    with pytest.raises(NotVerified):
        prove(commit(MODEL), CHANGES["a value"], "bias")
    with pytest.raises(BadParameters) as caught:
        prove(commit(MODEL), MODEL, "no such")
    assert caught.value.allowed == ["bias", "scale", "weight"]


@pytest.mark.parametrize("salts", [None, Salts(b"s" * 32)])
def test_salts_that_are_missing_or_too_many_are_bad_input(salts: Salts | None) -> None:
    other = Salts(b"s" * 32) if salts is None else None
    with pytest.raises(BadParameters):
        check_model(commit(MODEL, other), MODEL, salts)


def test_no_tensors_or_a_name_twice_is_no_model() -> None:
    for tensors in ([], [BIAS, BIAS]):
        with pytest.raises(BadParameters):
            commit(tensors)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_changed_document_is_refused_or_leads_elsewhere(data: st.DataObject) -> None:
    root = commit(MODEL, Salts(b"s" * 32)).root
    for kind, made in ((Commitment, commit(MODEL)), (Proof, PROOF)):
        document = made.document()
        name = data.draw(st.sampled_from(sorted(document)))
        changed = document | {name: data.draw(documents)}
        try:
            read = kind.read(changed)
        except BadMessage as error:
            assert error.exit_code == 4
        else:
            # A commitment leads to its own root or is refused; a proof is checked against one.
            assert read.document() == changed
            if changed != document:
                assert isinstance(read, Proof)
                with pytest.raises(NotVerified):
                    check_tensor(root, read, SCALE.data)
        with pytest.raises(BadMessage):
            kind.read({n: v for n, v in document.items() if n != name})
        with pytest.raises(BadMessage):
            kind.read(document | {"more": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [2**63]),
        ("shape", [1, 2**70]),
        ("shape", [-1]),
        ("shape", [True]),
        ("shape", "1"),
        ("name", "\ud800"),
        ("name", 1),
        ("dtype", "\ud800"),
        ("dtype", None),
    ],
)
def test_facts_that_no_tensor_has_are_refused(field: str, value: object) -> None:
    facts = SCALE.facts.document() | {field: value}
    with pytest.raises(BadMessage, match="proof"):
        Proof.read(PROOF.document() | {"tensor": facts})
    document = commit([SCALE]).document()
    with pytest.raises(BadMessage, match="commitment"):
        Commitment.read(document | {"tensors": [document["tensors"][0] | facts]})


@pytest.mark.parametrize("field", ["index", "count"])
@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 2**70])
def test_a_place_that_no_tensor_has_is_refused(field: str, number: int) -> None:
    with pytest.raises(BadMessage, match="integers from 0"):
        Proof.read(PROOF.document() | {field: number, "path": ["00" * 32] * 64})


def test_the_largest_numbers_that_are_read_can_be_checked() -> None:
    facts = SCALE.facts.document() | {"shape": [2**63 - 1]}
    read = Proof.read(
        PROOF.document() | {"tensor": facts, "count": 2**63 - 1, "path": ["00" * 32] * 63}
    )
    with pytest.raises(NotVerified):
        check_tensor(bytes(32), read, SCALE.data)


def test_tensors_out_of_order_or_twice_are_no_commitment() -> None:
    made = commit(MODEL)
    for places in ([1, 0, 2], [0, 0, 1]):
        other = replace(
            made,
            tensors=tuple(made.tensors[place] for place in places),
            leaves=tuple(made.leaves[place] for place in places),
        )
        with pytest.raises(BadMessage, match="order"):
            Commitment.read(other.document())


def test_a_file_is_read_as_safetensors_lays_it_out(tmp_path: Path) -> None:
    values = {
        "b": np.array([1.5, -2.0], np.float32),
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
    }
    path = tmp_path / "m.safetensors"
    save_file(values, path, metadata={"note": "free text"})
    first, second = load(path)
    assert (first.name, first.dtype, first.shape) == ("a", "I64", (2, 3))
    assert first.data == values["a"].tobytes() and second.data == values["b"].tobytes()
    root = commit(load(path)).root
    save_file(values, path)
    assert commit(load(path)).root == root


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff" * 64], ids=["empty", "text", "size"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadMessage):
        load(path)


def test_a_file_of_salts_is_secret(tmp_path: Path) -> None:
    salts, path = Salts.generate(), tmp_path / "m.salts"
    salts.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Salts.load(path).of("x") == salts.of("x") != salts.of("y")
    with pytest.raises(FileExistsError):
        salts.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Salts.load(path)
    path.chmod(0o600)
    path.write_text("no salts\n")
    with pytest.raises(KeyFileError):
        Salts.load(path)

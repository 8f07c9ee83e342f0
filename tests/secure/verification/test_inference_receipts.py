"""Receipts: every change, cut and exchange of a chain is found, at the receipt where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from secure.errors import BadMessage, NotVerified
from secure.keys import SigningKey
from secure.verification.receipts import (
    Receipt,
    ReceiptChain,
    answer_digest,
    check_chain,
    request_digest,
)

KEY = SigningKey(b"k" * 32)
ROOT = b"r" * 32
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def fill(path: Path, count: int, key: SigningKey = KEY) -> list[Receipt]:
    with ReceiptChain(path, key) as chain:
        return [
            chain.append(
                model=ROOT,
                request=request_digest(os.urandom(32), ROWS),
                answer=answer_digest(os.urandom(32), ROWS * 2),
                mode="plain",
            )
            for _ in range(count)
        ]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("receipts") / "r.jsonl"
    fill(path, 5)
    return path.read_text().splitlines()


def first_bad(lines: list[str], public: str = KEY.public, **held: object) -> object:
    with pytest.raises(NotVerified) as caught:
        check_chain(lines, public, **held)
    assert caught.value.exit_code == 4 and caught.value.field == "receipt"
    return caught.value.value


def test_a_chain_verifies_and_its_signatures_are_ed25519_for_another_library(
    lines: list[str],
) -> None:
    head = check_chain(lines, KEY.public)
    assert head.number == 5 and head.hash == Receipt.read(lines[-1]).hash
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public))
    for line in lines:
        receipt = Receipt.read(line)
        statement = b"tacit inference receipt 1\0" + bytes.fromhex(receipt.hash)
        public.verify(bytes.fromhex(receipt.signature), statement)


def test_a_receipt_says_which_model_answered_which_request(tmp_path: Path) -> None:
    nonce = os.urandom(32)
    request, answer = request_digest(nonce, ROWS), answer_digest(nonce, ROWS)
    with ReceiptChain(tmp_path / "r", KEY) as chain:
        receipt = chain.append(model=ROOT, request=request, answer=answer, mode="equivariant")
    data = receipt.data
    assert (data["model"], data["request"], data["answer"]) == (ROOT.hex(), request, answer)
    assert data["mode"] == "equivariant" and data["number"] == 1


def test_digests_cover_nonce_type_shape_and_values_and_differ_for_request_and_answer() -> None:
    nonce = b"n" * 32
    same = request_digest(nonce, np.asfortranarray(ROWS.astype(">f4")))
    assert same == request_digest(nonce, ROWS)
    changed = ROWS.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    others = [
        request_digest(b"m" * 32, ROWS),
        request_digest(nonce, ROWS.astype(np.float64)),
        request_digest(nonce, ROWS.reshape(3, 2)),
        request_digest(nonce, changed),
        answer_digest(nonce, ROWS),
    ]
    assert len({same, *others}) == 6
    with pytest.raises(BadMessage):
        request_digest(b"short", ROWS)


@pytest.mark.parametrize("field", ["chain", "number", "time", "model", "request", "answer", "mode"])
def test_a_changed_field_is_found_where_it_is(lines: list[str], field: str) -> None:
    outer = json.loads(lines[2])
    body = json.loads(outer["body"])
    changed = {"number": 4, "mode": "ckks"}.get(field, "0" * len(str(body[field])))
    body[field] = changed
    outer["body"] = json.dumps(body, separators=(",", ":"), sort_keys=True)
    assert first_bad([*lines[:2], json.dumps(outer), *lines[3:]]) == 3


def test_exchanged_repeated_and_missing_receipts_are_found(lines: list[str]) -> None:
    assert first_bad([lines[1], *lines[1:]]) == 1
    assert first_bad([lines[0], lines[2], lines[1], *lines[3:]]) == 2
    assert first_bad([*lines[:3], *lines[2:]]) == 4
    assert first_bad([*lines[:3], *lines[4:]]) == 4
    assert first_bad(lines[1:]) == 1


def test_a_receipt_of_another_chain_or_by_another_key_is_found(
    lines: list[str], tmp_path: Path
) -> None:
    fill(tmp_path / "other", 5)
    other = (tmp_path / "other").read_text().splitlines()
    assert first_bad([*lines[:3], *other[3:]]) == 4
    assert first_bad(lines, SigningKey.generate().public) == 1


def test_a_receipt_that_its_own_signer_exchanged_is_found(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text("".join(line + "\n" for line in lines[:2]))
    fill(path, 1)  # another third receipt of the same chain
    third = path.read_text().splitlines()[2]
    assert check_chain([*lines[:2], third], KEY.public).number == 3
    assert first_bad([*lines[:2], third, *lines[3:]]) == 4


def test_only_who_holds_a_receipt_finds_a_chain_cut_short_or_replaced(
    lines: list[str], tmp_path: Path
) -> None:
    held = {5: Receipt.read(lines[4]).hash}
    assert check_chain(lines, KEY.public, held=held).number == 5
    assert check_chain(lines[:3], KEY.public).number == 3  # nobody holds what was cut off
    assert first_bad(lines[:3], held=held) == 5
    fill(tmp_path / "other", 6)
    other = (tmp_path / "other").read_text().splitlines()
    assert check_chain(other, KEY.public).number == 6
    assert first_bad(other, held=held) == 5


def test_a_chain_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "r"
    first = fill(path, 2)
    later = fill(path, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [r.number for r in first + later] == [1, 2, 3, 4]
    assert check_chain(path.read_text().splitlines(), KEY.public).number == 4


@pytest.mark.parametrize("kind", ["half a line", "a block of zeros"])
def test_what_a_crash_left_at_the_end_is_cut_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "r"
    fill(path, 2)
    whole = path.read_bytes()
    half = whole.splitlines(keepends=True)[-1][:-40]
    path.write_bytes(whole + (half if kind == "half a line" else bytes(4096)))
    fill(path, 1)
    assert check_chain(path.read_text().splitlines(), KEY.public).number == 3


def test_a_chain_that_was_changed_or_is_anothers_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "r"
    fill(path, 2)
    with pytest.raises(NotVerified):
        ReceiptChain(path, SigningKey.generate())
    path.write_bytes(path.read_bytes().replace(b'\\"plain\\"', b'\\"ckks\\"', 1))
    with pytest.raises(NotVerified):
        ReceiptChain(path, KEY)
    assert fill(tmp_path / "free", 1)


def test_two_processes_do_not_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "r"
    program = (
        "import sys; from pathlib import Path; from secure.keys import SigningKey\n"
        "from secure.verification.receipts import ReceiptChain\n"
        "ReceiptChain(Path(sys.argv[1]), SigningKey(b'k' * 32))\n"
    )
    with ReceiptChain(path, KEY):
        done = subprocess.run(
            [sys.executable, "-c", program, path],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
        )
    assert done.returncode == 1 and "another process writes these receipts" in done.stderr


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{}", '{"body": 1, "signature": ""}', '{"body": "{}", "signature": "00"}', "\ufffd"],
)
def test_what_is_no_receipt_is_refused(line: str) -> None:
    with pytest.raises(BadMessage):
        Receipt.read(line)


def test_a_body_that_could_be_read_in_two_ways_is_refused(lines: list[str]) -> None:
    outer = json.loads(lines[0])
    for body in (
        outer["body"].replace('"number":1', '"number":2,"number":1'),
        outer["body"].replace('"number":1', '"number": 1'),
    ):
        assert json.loads(body) == json.loads(outer["body"])
        with pytest.raises(BadMessage):
            Receipt.read(json.dumps(outer | {"body": body}))


@settings(max_examples=100)
@given(st.data())
def test_any_changed_byte_is_found(lines: list[str], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 4))
    line = lines[number]
    place = data.draw(st.integers(0, len(line) - 1))
    changed = line[:place] + chr(ord(line[place]) ^ 1) + line[place + 1 :]
    assert first_bad([*lines[:number], changed, *lines[number + 1 :]]) == number + 1

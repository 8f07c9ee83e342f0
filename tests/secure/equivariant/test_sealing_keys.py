"""Keys at rest: locked, signed, private, and one for each node."""

from __future__ import annotations

import json
import pickle
import stat

import pytest
from nacl import pwhash

from secure.equivariant import keys
from secure.equivariant.errors import WrongPassphrase
from secure.equivariant.keys import SealingKey, lock, read_private, unlock, write_private
from secure.errors import BadMessage, BadSignature, KeyFileError, SecureError
from secure.keys import SigningKey

OWNER, OTHER = SigningKey(b"o" * 32), SigningKey(b"x" * 32)
KEY = SealingKey(b"k" * 32)
MANIFEST = {"scheme": "tacit equivariant 1", "boundaries": [{"at": "input", "size": 3}]}


def test_under_the_owners_key():
    data = lock(KEY, MANIFEST, OWNER)
    key, manifest = unlock(data, OWNER)
    assert key.secret == KEY.secret and manifest == MANIFEST
    assert KEY.secret.hex() not in data.decode()
    with pytest.raises(BadSignature, match="another owner"):
        unlock(data, OTHER)


def test_under_a_passphrase(monkeypatch):
    assert keys.COST["memlimit"] >= 2**28 and keys.COST["opslimit"] >= 3
    cheap = {"opslimit": pwhash.argon2id.OPSLIMIT_MIN, "memlimit": pwhash.argon2id.MEMLIMIT_MIN}
    monkeypatch.setattr(keys, "COST", cheap)
    data = lock(KEY, MANIFEST, OWNER, "correct horse")
    assert KEY.secret.hex() not in data.decode()
    assert unlock(data, OWNER, "correct horse")[0].secret == KEY.secret
    for said in ("Correct horse", "", None):
        with pytest.raises(WrongPassphrase) as caught:
            unlock(data, OWNER, said)
        assert (caught.value.exit_code, caught.value.field) == (2, "passphrase")
    # Two locks of one key have nothing in common.
    again = json.loads(lock(KEY, MANIFEST, OWNER, "correct horse"))
    assert again["seed"]["box"] != json.loads(data)["seed"]["box"]


def test_whatever_is_changed_is_noticed():
    document = json.loads(lock(KEY, MANIFEST, OWNER))

    def changed(part, value):
        copy = json.loads(json.dumps(document))
        target = copy
        for name in part[:-1]:
            target = target[name]
        target[part[-1]] = value
        return json.dumps(copy).encode()

    for part, value in (
        (("manifest", "scheme"), "other"),
        (("manifest", "boundaries"), []),
        (("seed", "by"), "passphrase"),
        (("seed", "box"), document["seed"]["box"][:-2] + "00"),
        (("signature",), "00" * 64),
        (("more",), 1),
    ):
        with pytest.raises(BadSignature):
            unlock(changed(part, value), OWNER)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"signature": "xy"}', b"\xff"])
def test_another_file_is_no_key(data):
    with pytest.raises(BadMessage):
        unlock(data, OWNER)


def test_a_key_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "owner.key"
    write_private(path, b"data")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private(path) == b"data"
    with pytest.raises(FileExistsError):
        write_private(path, b"other")
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_private(path)


def test_every_node_and_model_has_a_key_of_its_own():
    derived = [
        KEY.for_node("a", "m"),
        KEY.for_node("b", "m"),
        KEY.for_node("a", "n"),
        SealingKey(b"l" * 32).for_node("a", "m"),
    ]
    assert len({key.secret for key in (*derived, KEY)}) == 5
    assert KEY.for_node("a", "m").secret == derived[0].secret
    assert len({SealingKey.generate().secret for _ in range(4)}) == 4


def test_a_key_shows_itself_nowhere():
    assert "k" * 4 not in repr(KEY) and "6b6b" not in repr(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    with pytest.raises(SecureError):
        SealingKey(b"short")

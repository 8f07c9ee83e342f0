"""Identity keys: files that others cannot read, signatures that an independent library checks."""

import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secure.errors import BadSignature, KeyFileError
from secure.keys import SigningKey, fingerprint, verify


def test_a_signature_is_ed25519_for_another_library():
    key = SigningKey.generate()
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public))
    public.verify(key.sign(b"message"), b"message")


def test_rfc_8032_vector():
    # RFC 8032, section 7.1, test 2.
    seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    key = SigningKey(bytes.fromhex(seed))
    assert key.public == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8f")


def test_a_changed_message_is_refused():
    key = SigningKey.generate()
    with pytest.raises(BadSignature):
        verify(key.public, b"other", key.sign(b"message"))
    with pytest.raises(BadSignature):
        verify("not a key", b"message", key.sign(b"message"))


def test_a_key_file_is_private_and_never_overwritten(tmp_path):
    path = tmp_path / "key"
    key = SigningKey.generate()
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public
    with pytest.raises(FileExistsError):
        key.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        SigningKey.load(path)
    with pytest.raises(KeyFileError, match="no key file"):
        SigningKey.load(tmp_path / "absent")


def test_a_key_shows_itself_nowhere():
    key = SigningKey(b"\x07" * 32)
    assert "07" * 8 not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_fingerprints_differ_and_are_in_groups():
    a, b = SigningKey.generate(), SigningKey.generate()
    assert fingerprint(a.public) != fingerprint(b.public)
    assert len(a.fingerprint.split("-")) == 8

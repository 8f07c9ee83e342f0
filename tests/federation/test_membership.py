from __future__ import annotations

import json
from pathlib import Path

import pytest

from federation import statements
from federation.errors import BadInput, IntegrityError, NotFound
from federation.home import Home
from federation.init import init_example
from federation.membership import Membership
from federation.silo import Silo
from secure.keys import SigningKey


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return init_example(tmp_path / "fed", "digits", silos=2)


def _edit(home: Home, old: str, new: str) -> None:
    text = home.federation_file.read_text()
    assert old in text
    home.federation_file.write_text(text.replace(old, new, 1))


def test_every_silo_of_a_new_federation_has_signed(home: Home) -> None:
    membership = Membership.load(home)
    membership.check(home)
    assert membership.version == 1
    assert sorted(membership.signatures) == ["silo-1", "silo-2"]
    assert membership.key("silo-1") == SigningKey.load(home.silo("silo-1").key).public
    with pytest.raises(NotFound):
        membership.key("silo-3")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("bounds: [0, 16]", "bounds: [0, 15]", "datasets.digits"),
        ("train: 1020", "train: 1030", "federation"),
        ("# max_silos_per_subject: 1", "max_silos_per_subject: 1", "federation"),
    ],
)
def test_what_changed_since_it_was_signed_is_named(
    home: Home, old: str, new: str, field: str
) -> None:
    _edit(home, old, new)
    with pytest.raises(BadInput, match="tacit silo countersign") as caught:
        Membership.load(home).check(home)
    assert caught.value.field == field
    assert caught.value.exit_code == 2


def test_comments_and_layout_are_not_signed(home: Home) -> None:
    _edit(home, "# Sizes are public", "# Sizes are, of course, public")
    Membership.load(home).check(home)


def test_a_change_takes_every_signature_again(home: Home) -> None:
    _edit(home, "train: 1020", "train: 1030")
    first = Membership.countersign(home, "silo-2")
    assert first.version == 2
    assert sorted(first.signatures) == ["silo-2"]
    with pytest.raises(BadInput, match="lacks the signature of silo-1"):
        Membership.load(home).check(home)
    assert Membership.countersign(home, "silo-1").version == 2
    Membership.load(home).check(home)


@pytest.mark.parametrize("place", ["digest", "key", "version", "schema", "signature"])
def test_a_changed_membership_is_found(home: Home, place: str) -> None:
    document = json.loads(home.membership_file.read_text())
    terms = document["terms"]
    other = SigningKey.generate().public
    if place == "digest":
        terms["digest"] = other
    elif place == "key":
        terms["silos"]["silo-1"] = other
    elif place == "version":
        terms["version"] = 7
    elif place == "schema":
        terms["schemas"]["digits"] = other
    else:
        signatures = document["signatures"]
        signatures["silo-1"] = signatures["silo-2"]
    home.membership_file.write_text(json.dumps(document))
    with pytest.raises(IntegrityError) as caught:
        Membership.load(home)
    assert caught.value.exit_code == 4


def _swapped(home: Home, name: str, key: SigningKey) -> None:
    """Put another key for a silo into the terms, under the digest that was signed before."""
    document = json.loads(home.membership_file.read_text())
    document["terms"]["silos"][name] = key.public
    document["signatures"] = {}
    home.membership_file.write_text(json.dumps(document))


def test_a_silo_signs_what_its_federation_says_whatever_the_membership_at_hand_says(
    home: Home,
) -> None:
    _swapped(home, "silo-2", SigningKey.generate())
    signed = Membership.countersign(home, "silo-1")
    assert signed.key("silo-2") == home.federation().silos["silo-2"].public_key
    assert signed.version == 2 and sorted(signed.signatures) == ["silo-1"]


def test_terms_that_bear_the_digest_and_say_otherwise_are_found(home: Home) -> None:
    evil = SigningKey.generate()
    _swapped(home, "silo-2", evil)
    document = json.loads(home.membership_file.read_text())
    keys = {"silo-1": SigningKey.load(home.silo("silo-1").key), "silo-2": evil}
    for name, key in keys.items():  # every signature agrees with the terms as they stand
        signature = statements.sign(document["terms"], key)["signature"]
        document["signatures"][name] = signature
    home.membership_file.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="though it bears its digest") as caught:
        Membership.load(home).check(home)
    assert caught.value.field == "silos"
    with pytest.raises(IntegrityError):
        Silo(home, "silo-1")


def test_a_silo_prices_nothing_by_a_federation_that_nobody_signed(home: Home) -> None:
    _edit(home, "train: 1020", "train: 10300")
    with pytest.raises(BadInput, match="has changed since the silos signed"):
        Silo(home, "silo-1")


def test_a_silo_works_under_its_own_signature_by_its_own_key_only(home: Home) -> None:
    document = json.loads(home.membership_file.read_text())
    signature = document["signatures"].pop("silo-1")
    home.membership_file.write_text(json.dumps(document))
    with pytest.raises(BadInput, match="lacks the signature of silo-1"):
        Silo(home, "silo-1")
    document["signatures"]["silo-1"] = signature
    home.membership_file.write_text(json.dumps(document))
    Silo(home, "silo-1").close()
    home.silo("silo-1").key.unlink()
    SigningKey.generate().save(home.silo("silo-1").key)
    with pytest.raises(IntegrityError, match="another key than this silo's own"):
        Silo(home, "silo-1")


def test_two_memberships_of_one_version_have_two_digests(home: Home) -> None:
    first = Membership.load(home)
    _edit(home, "train: 1020", "train: 1030")
    home.membership_file.unlink()
    second = Membership.countersign(home, "silo-1")
    assert first.version == second.version and first.digest != second.digest


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"terms": 3, "signatures": {}}'])
def test_a_membership_that_is_none(home: Home, text: str) -> None:
    home.membership_file.write_text(text)
    with pytest.raises(IntegrityError):
        Membership.load(home)
    home.membership_file.unlink()
    with pytest.raises(NotFound, match="countersign"):
        Membership.load(home)


def test_a_silo_signs_for_its_own_key_only(home: Home) -> None:
    home.silo("silo-1").key.unlink()
    SigningKey.generate().save(home.silo("silo-1").key)
    with pytest.raises(IntegrityError, match="another key"):
        Membership.countersign(home, "silo-1")

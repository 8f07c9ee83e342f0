"""Silos of several organisations enrol by documents alone; whatever was tampered with is refused.

Every party has a home of its own, and nothing but the documents goes from one to another.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from typer.testing import CliRunner

from federation import engines, lifecycle, statements
from federation.access import connect
from federation.books import open_mirror
from federation.documents import parse
from federation.errors import BadInput, IntegrityError, NotFound
from federation.home import Home
from federation.membership import Membership
from federation.record import Job
from federation.serving import Session, SiloServer
from federation.silo import Silo
from federation.training.specs import Spec
from infra import certificates, exchange, nats
from infra.cli.app import app
from infra.enrolment import at_coordinator, documents
from infra.process import free_port, start, stop
from privacy.ledger import State
from privacy.ledger.mirror import Mirror
from secure.errors import ExchangeClosed, KeyFileError
from secure.exchange import transport
from secure.keys import SigningKey, verify

NAMES = ("east", "north", "south")
SCHEMA: dict[str, Any] = {
    "name": "heart",
    "features": {
        "x": {"type": "number", "bounds": [-1, 1]},
        "y": {"type": "number", "bounds": [-1, 1]},
    },
    "label": {"column": "sick", "classes": ["no", "yes"]},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "apart",
    "dataset": "heart",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 8, "learning_rate": 0.5},
    "aggregation": {"name": "masked"},
    "privacy": {"noise_multiplier": 8.0},
}


def tacit(*words: object, code: int = 0) -> dict[str, Any]:
    """Run a command in this process, expect an exit code, and return its one document."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document["error"] if code else document


class World:
    """A coordinator and silos, each with a home of its own below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def home(self, party: str) -> Home:
        return Home(self.root / party)

    @property
    def fed(self) -> Home:
        return self.home("coordinator")

    def found(self) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "heart.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
        where = ("--dataset", self.root / "heart.yaml", "--exchange", f"127.0.0.1:{free_port()}")
        assert "tacit silo enrol" in tacit("init", self.fed.root, *where)["next"]

    def enrol(self, name: str) -> dict[str, Any]:
        rows = self.root / f"{name}.csv"
        lines = [f"{(i % 7) / 7},{(i % 5) / 5},{'no' if i % 2 else 'yes'}" for i in range(60)]
        parts = ["train" if i % 3 else "test" for i in range(60)]
        rows.write_text(
            "\n".join(["x,y,sick,part", *(f"{a},{b}" for a, b in zip(lines, parts, strict=True))])
        )
        invitation = self.root / f"{name}.invitation.yaml"
        shutil.copy(self.fed.federation_file, invitation)
        given = ("--source", f"heart={rows}", "--size", "heart=40/20", "--federation", invitation)
        return tacit("silo", "enrol", name, *given, "--home", self.home(name).root)

    def enrol_without_rows(self, name: str) -> dict[str, Any]:
        given = ("--source", "heart=none", "--federation", self.fed.federation_file)
        return tacit("silo", "enrol", name, *given, "--home", self.home(name).root)

    def carried(self, path: object) -> Path:
        """A document as it arrives: a copy, somewhere else."""
        target = self.root / "carried" / Path(str(path)).name
        target.parent.mkdir(exist_ok=True)
        return Path(shutil.copy(str(path), target))

    def request(self, name: str) -> Path:
        return self.carried(self.home(name).silo(name).directory / f"{name}.request.json")

    def admit(self, name: str, mark: str | None = None, code: int = 0) -> dict[str, Any]:
        words = ("--fingerprint", mark or self.mark(name))
        return tacit(
            "silo", "admit", self.request(name), *words, "--home", self.fed.root, code=code
        )

    def mark(self, name: str) -> str:
        return SigningKey.load(self.home(name).silo(name).key).fingerprint

    def bundle(self, name: str) -> Path:
        return self.carried(self.fed.coordinator / "bundles" / f"{name}.bundle.json")

    def take(self, name: str, *words: object, code: int = 0) -> dict[str, Any]:
        where = ("--home", self.home(name).root)
        return tacit("silo", "gather", self.bundle(name), *words, *where, code=code)

    def sign(self, name: str, mark: str, code: int = 0) -> dict[str, Any]:
        where = ("--home", self.home(name).root)
        return tacit("silo", "countersign", name, "--fingerprint", mark, *where, code=code)

    def all_sign(self, *names: str) -> None:
        """Take in the newest bundles, sign, gather, and take in the last ones."""
        marks = {self.take(name)["fingerprint"] for name in names}
        assert len(marks) == 1
        signed = [self.carried(self.sign(name, *marks)["signature"]) for name in names]
        done = tacit("silo", "gather", *signed, "--home", self.fed.root)
        assert done["unsigned"] == [] and set(done["bundles"]) == set(names)
        for name in names:
            assert "tacit silo serve" in self.take(name)["next"]


@pytest.fixture(scope="module")
def _asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation with an exchange, and three silos that have asked to join."""
    world = World(tmp_path_factory.mktemp("asked"))
    world.found()
    for name in NAMES:
        world.enrol(name)
    return world.root


@pytest.fixture(scope="module")
def _joined(_asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same when all three were admitted and have signed."""
    world = World(tmp_path_factory.mktemp("joined") / "world")
    shutil.copytree(_asked, world.root)
    for name in NAMES:
        world.admit(name)
    world.all_sign(*NAMES)
    return world.root


@pytest.fixture
def asked(_asked: Path, tmp_path: Path) -> World:
    shutil.copytree(_asked, tmp_path / "asked")
    return World(tmp_path / "asked")


@pytest.fixture
def joined(_joined: Path, tmp_path: Path) -> World:
    shutil.copytree(_joined, tmp_path / "world")
    return World(tmp_path / "world")


def changed(path: Path, change: Callable[[dict[str, Any]], object], key: SigningKey | None) -> Path:
    """A document with another body, signed by a key, or as if nothing had happened."""
    document = json.loads(path.read_text())
    change(document["body"])
    if key is not None:
        document = statements.sign(document["body"], key)
    path.write_text(json.dumps(document))
    return path


def key_of(world: World, party: str) -> SigningKey:
    home = world.home(party)
    return SigningKey.load(home.coordinator_key if party == "coordinator" else home.silo(party).key)


# The path


def test_every_home_ends_with_what_it_needs_and_with_nothing_that_is_anothers(
    joined: World,
) -> None:
    known = Membership.load(joined.fed)
    known.check(joined.fed)
    assert known.version == 3 and known.unsigned == ()
    for name in NAMES:
        home = joined.home(name)
        own = Membership.load(home)
        own.check(home)
        assert own == known and home.silo_names() == (name,)
        assert not home.coordinator.exists()
        for secret in (home.seed(name), home.transport(name), home.silo(name).key):
            assert secret.stat().st_mode & 0o777 == 0o600
        assert not home.asked_key(name).exists()
        Silo(home, name).close()
    secrets = [
        path.read_bytes().strip()
        for name in NAMES
        for path in (joined.home(name).silo(name).key, joined.home(name).seed(name))
    ]
    at_coordinator_ = [path for path in joined.fed.root.rglob("*") if path.is_file()]
    carried = list((joined.root / "carried").iterdir())
    for path in at_coordinator_ + carried:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in carried)


def test_a_silos_certificate_is_for_its_name_and_for_a_client_only(joined: World) -> None:
    path = joined.home("north").transport("north")
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=north"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    life = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=364) < life < timedelta(days=366)


def test_what_people_see_says_what_comes_next(asked: World) -> None:
    def told(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    own = ("--home", asked.home("north").root)
    mark = asked.mark("north")
    again = told("silo", "renew", "north", *own)
    assert mark in again and "tacit silo admit north.request.json --fingerprint" in again
    admitted = told(
        *("silo", "admit", asked.request("north"), "--fingerprint", mark.upper().replace("-", " ")),
        *("--home", asked.fed.root),
    )
    assert "north is admitted" in admitted and "tacit silo gather NAME.bundle.json" in admitted
    taken = told("silo", "gather", asked.bundle("north"), *own)
    coordinators = key_of(asked, "coordinator").fingerprint
    assert "tacit silo countersign north" in taken and mark in taken and coordinators in taken
    shown = told("silo", "countersign", "north", *own)
    assert "not signed" in shown and Membership.load(asked.fed).fingerprint in shown


# Enrolling


def test_a_silo_without_rows_joins_to_serve_and_not_to_train(joined: World) -> None:
    joined.enrol_without_rows("vendor")
    joined.admit("vendor")
    joined.all_sign(*NAMES, "vendor")
    federation = joined.home("north").federation()
    assert federation.silos_with("heart") == NAMES
    assert federation.silos_of("heart") == (*NAMES, "vendor")
    assert joined.home("vendor").silo_config("vendor").policy.kinds == ("infer",)
    silo = Silo(joined.home("vendor"), "vendor")
    silo.check_source("heart")
    with pytest.raises(BadInput, match="declares no rows"):
        silo.quote(parse(SPEC, Spec, "job"))
    silo.close()


@pytest.mark.parametrize(
    ("name", "words", "field", "said"),
    [
        ("coordinator", (), "name", "is taken"),
        ("north", (), "name", "lives here already"),
        ("No", (), "name", "lower-case letters"),
        ("west", ("--source", "lung=rows.csv"), "dataset", "no data set 'lung'"),
        ("west", ("--size", "lung=1/1"), "size", "none of the data sets"),
        ("west", ("--source", "heart"), "source", "DATASET=SOURCE"),
        ("west", ("--source", "heart=gone.csv"), "path", "no such file"),
        ("west", ("--size", "heart=40"), "size", "TRAIN/TEST"),
        ("west", ("--delta", "0.1"), "delta", "1/40"),
        ("west", ("--federation", "other.yaml"), "federation", "another federation"),
    ],
)
def test_a_silo_that_cannot_be_made(
    asked: World,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: tuple[str, ...],
    field: str,
    said: str,
) -> None:
    home = asked.home("north")
    monkeypatch.chdir(asked.root)
    other = yaml.safe_load(home.federation_file.read_text()) | {"name": "other"}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    given = {"--source": "heart=north.csv", "--size": "heart=40/20"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    flat = [word for pair in given.items() for word in pair]
    before = sorted(home.root.rglob("*"))
    code = 5 if field == "path" else 2  # a file that is not there may come
    error = tacit("silo", "enrol", name, *flat, "--home", home.root, code=code)
    assert error["field"] == field and said in error["message"]
    assert sorted(home.root.rglob("*")) == before


def test_a_home_without_a_federation_needs_one(asked: World) -> None:
    error = tacit("silo", "enrol", "west", "--home", asked.home("west").root, code=2)
    assert error["field"] == "federation" and "--federation FILE" in error["message"]


# Admitting


def test_a_new_silo_needs_its_fingerprint_and_no_other_will_do(asked: World) -> None:
    before = asked.fed.federation_file.read_bytes()
    bare = ("silo", "admit", asked.request("north"), "--home", asked.fed.root)
    assert tacit(*bare, code=2)["field"] == "fingerprint"
    error = asked.admit("north", asked.mark("south"), code=4)
    assert error["field"] == "fingerprint" and "somebody else" in error["message"]
    assert asked.fed.federation_file.read_bytes() == before
    assert set(exchange.users(asked.fed)) == {"coordinator"}


def _sizes(body: dict[str, Any]) -> None:
    body["sizes"]["heart"]["train"] = 4000


@pytest.mark.parametrize(
    ("change", "own", "code", "field"),
    [
        (_sizes, False, 4, "enrolment request"),  # altered on the way
        (lambda body: body.update(federation="lungs"), True, 4, "federation"),
        (lambda body: body.update(coordinator="ab" * 32), True, 4, "federation"),
        (lambda body: body["schemas"].update(heart="ab" * 32), True, 4, "schemas.heart"),
        (lambda body: body.update(schemas={}), True, 4, "sizes"),
        (lambda body: body.update(nkey="U" * 56), True, 2, "nkey"),
        (lambda body: body.update(certificate_request="none"), True, 2, "certificate_request"),
        (lambda body: body.update(silo="coordinator"), True, 2, None),
        (lambda body: body.update(silo="../x"), True, 2, "silo"),
        (lambda body: body.update(more=1), True, 2, "more"),
    ],
)
def test_a_request_that_was_altered_or_is_not_for_here(
    asked: World, change: Any, own: bool, code: int, field: str | None
) -> None:
    path = changed(asked.request("north"), change, key_of(asked, "north") if own else None)
    before = asked.fed.federation_file.read_bytes()
    words = ("--fingerprint", asked.mark("north"), "--home", asked.fed.root)
    error = tacit("silo", "admit", path, *words, code=code)
    assert field is None or error["field"] == field, error
    assert asked.fed.federation_file.read_bytes() == before
    assert set(exchange.users(asked.fed)) == {"coordinator"}


def test_a_certificate_request_must_be_signed_by_its_own_key(asked: World, tmp_path: Path) -> None:
    mine = certificates.make_request(tmp_path / "a.key", "north")
    der = bytearray(x509.load_pem_x509_csr(mine.encode()).public_bytes(_der()))
    der[-1] ^= 1
    from base64 import encodebytes

    body = encodebytes(bytes(der)).decode()
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(BadInput, match="none that its own key signed"):
        certificates.issue_client(asked.fed.exchange, "north", forged)


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def test_a_request_from_the_future_names_both_clocks(asked: World) -> None:
    ahead = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    key = key_of(asked, "north")
    changed(asked.request("north"), lambda body: body.update(issued=ahead), key)
    path = asked.root / "carried" / "north.request.json"
    words = ("--fingerprint", key.fingerprint, "--home", asked.fed.root)
    error = tacit("silo", "admit", path, *words, code=4)
    assert error["field"] == "issued" and "compare the clocks" in error["message"]


def test_the_same_request_again_changes_nothing_and_an_older_one_is_a_replay(
    asked: World,
) -> None:
    first = asked.request("north").rename(asked.root / "first.json")
    asked.admit("north")
    before = exchange.users(asked.fed)
    assert asked.admit("north")["membership"] == 1 and exchange.users(asked.fed) == before
    tacit("silo", "renew", "north", "--home", asked.home("north").root)
    asked.admit("north")
    renewed = exchange.users(asked.fed)
    assert renewed["north"].certificate != before["north"].certificate
    assert renewed["north"].nkey == before["north"].nkey
    words = ("--fingerprint", asked.mark("north"), "--home", asked.fed.root)
    error = tacit("silo", "admit", first, *words, code=4)
    assert error["field"] == "issued" and "replay" in error["message"]
    assert exchange.users(asked.fed) == renewed


def test_a_name_stays_with_its_key(asked: World) -> None:
    asked.admit("north")
    other = SigningKey.generate()
    later = datetime.now(UTC).isoformat()
    path = changed(asked.request("north"), lambda body: body.update(issued=later), other)
    words = ("--fingerprint", other.fingerprint, "--home", asked.fed.root)
    error = tacit("silo", "admit", path, *words, code=2)
    assert error["field"] == "silo" and asked.mark("north") in error["message"]


def test_the_nkey_of_another_is_refused(asked: World) -> None:
    asked.admit("north")
    nkey = nats.public_key(asked.home("north").seed("north"))
    key = key_of(asked, "south")
    path = changed(asked.request("south"), lambda body: body.update(nkey=nkey), key)
    words = ("--fingerprint", key.fingerprint, "--home", asked.fed.root)
    error = tacit("silo", "admit", path, *words, code=2)
    assert error["field"] == "nkey" and "NKEY of north" in error["message"]
    assert set(asked.fed.federation().silos) == {"north"}


def test_a_limit_on_a_subjects_silos_survives_an_admission(asked: World) -> None:
    asked.admit("north")
    facts = yaml.safe_load(asked.fed.federation_file.read_text())
    facts["max_silos_per_subject"] = 1
    asked.fed.federation_file.write_text(yaml.safe_dump(facts, sort_keys=False))
    asked.admit("south")
    assert asked.fed.federation().max_silos_per_subject == 1
    facts["max_silos_per_subject"] = 2
    facts["silos"] = asked.fed.federation().model_dump(mode="json", exclude_none=True)["silos"]
    asked.fed.federation_file.write_text(yaml.safe_dump(facts, sort_keys=False))
    at_coordinator.revoke(asked.fed, "south")  # two of one would be no federation at all
    assert asked.fed.federation().max_silos_per_subject is None


@pytest.mark.parametrize(
    "words", [("admit", "carried/north.request.json"), ("gather",), ("revoke", "north")]
)
def test_a_coordinators_command_at_a_silo(
    asked: World, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.request("north")
    monkeypatch.chdir(asked.root)
    error = tacit("silo", *words, "--home", asked.home("north").root, code=2)
    assert "coordinator does not live here" in error["message"]


def test_a_federation_without_an_exchange_admits_nobody(asked: World, tmp_path: Path) -> None:
    tacit("init", tmp_path / "fed", "--example", "breast-cancer", "--silos", 1)
    words = ("--fingerprint", asked.mark("north"), "--home", tmp_path / "fed")
    error = tacit("silo", "admit", asked.request("north"), *words, code=2)
    assert error["field"] == "exchange" and "--exchange HOST:PORT" in error["message"]


# Taking in a bundle


@pytest.fixture
def admitted(asked: World) -> World:
    for name in NAMES:
        asked.admit(name)
    return asked


def _facts(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """Another federation.yaml in a bundle, with the membership that belongs to it."""

    def edit(body: dict[str, Any]) -> None:
        facts = yaml.safe_load(body["federation"])
        change(facts)
        body["federation"] = yaml.safe_dump(facts, sort_keys=False)

    return edit


@pytest.mark.parametrize(
    ("change", "signer", "code", "field"),
    [
        (_facts(lambda f: f.update(name="x")), None, 4, "enrolment bundle"),
        (lambda body: body.update(silo="south"), "coordinator", 2, "silo"),
        (lambda body: body.update(more=1), "coordinator", 2, "more"),
        (lambda body: body.update(federation="a: [1"), "coordinator", 2, "federation"),
        (_facts(lambda f: f.update(name="lungs")), "coordinator", 4, "name"),
        (_facts(lambda f: f.update(coordinator="ab" * 32)), "coordinator", 4, "coordinator"),
        (_facts(lambda f: f["silos"].pop("north")), "coordinator", 4, "public_key"),
        (
            _facts(lambda f: f["silos"]["north"].update(public_key="ab" * 32)),
            "coordinator",
            4,
            "public_key",
        ),
        (
            _facts(lambda f: f["silos"]["north"]["sizes"]["heart"].update(train=4000)),
            "coordinator",
            4,
            "sizes",
        ),
        (
            _facts(lambda f: f["silos"]["south"].update(public_key="ab" * 32)),
            "coordinator",
            4,
            "membership",
        ),
        (lambda body: body.update(certificate=body["authority"]), "coordinator", 4, "certificate"),
        (lambda body: None, "south", 4, "coordinator"),
    ],
)
def test_a_bundle_that_does_not_agree_installs_nothing(
    admitted: World, change: Any, signer: str | None, code: int, field: str
) -> None:
    key = None if signer is None else key_of(admitted, signer)
    path = changed(admitted.bundle("north"), change, key)
    home = admitted.home("north")
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    error = tacit("silo", "gather", path, "--home", home.root, code=code)
    assert error["field"] == field, error
    assert {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()} == before


def test_a_certificate_for_another_key_or_another_silo(admitted: World) -> None:
    home = admitted.home("north")
    users = exchange.users(admitted.fed)
    south = users["south"].certificate
    path = changed(
        admitted.bundle("north"),
        lambda body: body.update(certificate=south),
        key_of(admitted, "coordinator"),
    )
    error = tacit("silo", "gather", path, "--home", home.root, code=4)
    assert "not that of north" in error["message"]
    home.asked_key("north").unlink()
    tacit("silo", "renew", "north", "--home", home.root)
    error = admitted.take("north", code=4)
    assert "another key" in error["message"] and "tacit silo renew north" in error["message"]


def test_an_old_bundle_does_not_bring_an_old_membership_back(joined: World) -> None:
    old = joined.bundle("north").rename(joined.root / "old.json")
    at_coordinator.revoke(joined.fed, "south")
    joined.all_sign("east", "north")
    assert Membership.load(joined.home("north")).version == 4
    error = tacit("silo", "gather", old, "--home", joined.home("north").root, code=4)
    assert error["field"] == "membership" and "an old bundle" in error["message"]
    # Nor does a coordinator get two memberships of one version past a silo.
    facts = joined.fed.federation_file.read_text()
    joined.fed.federation_file.write_text(facts.replace("bounds: [-1, 1]", "bounds: [-2, 1]", 1))
    membership = Membership.load(joined.fed)
    joined.fed.membership_file.unlink()
    proposed = Membership.proposed(joined.fed)
    terms = proposed.terms.model_copy(update={"version": membership.version})
    Membership(terms=terms, signatures={}).save(joined.fed)
    at_coordinator.gather(joined.fed, [])
    error = joined.take("north", code=4)
    assert "two memberships of one version" in error["message"]


# Comparing and signing


def test_a_coordinator_who_shows_each_silo_other_keys_is_seen_in_the_fingerprint(
    admitted: World,
) -> None:
    """It puts a key of its own for south into north's bundle, membership and all."""
    false = SigningKey.generate()
    coordinator = key_of(admitted, "coordinator")

    def swap(body: dict[str, Any]) -> None:
        facts = yaml.safe_load(body["federation"])
        facts["silos"]["south"]["public_key"] = false.public
        body["federation"] = yaml.safe_dump(facts, sort_keys=False)
        fake = Home(admitted.root / "fake")
        fake.root.mkdir()
        fake.federation_file.write_text(body["federation"])
        terms = Membership.proposed(fake).terms.model_copy(
            update={"version": body["membership"]["terms"]["version"]}
        )
        body["membership"]["terms"] = terms.model_dump(mode="json")

    path = changed(admitted.bundle("north"), swap, coordinator)
    north = tacit("silo", "gather", path, "--home", admitted.home("north").root)
    south = admitted.take("south")
    assert north["parties"]["north"] == admitted.mark("north")  # its own key is right
    assert north["fingerprint"] != south["fingerprint"]
    error = admitted.sign("north", south["fingerprint"], code=4)
    assert error["field"] == "fingerprint" and "sign nothing" in error["message"]
    assert Membership.load(admitted.home("north")).signatures == {}


def test_nothing_is_signed_without_the_fingerprint(admitted: World) -> None:
    admitted.take("north")
    home = admitted.home("north")
    shown = tacit("silo", "countersign", "north", "--home", home.root)
    assert shown["signed"] is False and set(shown["parties"]) == {"coordinator", *NAMES}
    assert shown["parties"]["south"] == admitted.mark("south")
    assert Membership.load(home).signatures == {}
    signed = admitted.sign("north", shown["fingerprint"])
    assert signed["signed"] and Path(signed["signature"]).exists()


def test_a_signature_of_another_version_or_by_another_key_is_not_gathered(
    admitted: World,
) -> None:
    mark = admitted.take("north")["fingerprint"]
    path = admitted.carried(admitted.sign("north", mark)["signature"])
    said = json.loads(path.read_text())
    where = ("--home", admitted.fed.root)
    for field, value in (("silo", "south"), ("silo", "west"), ("signature", "0" * 128)):
        path.write_text(json.dumps(said | {field: value}))
        assert tacit("silo", "gather", path, *where, code=4)["field"] == "signatures"
    path.write_text(json.dumps(said | {"version": 2}))
    assert tacit("silo", "gather", path, *where, code=2)["field"] == "version"
    path.write_text(json.dumps(said))
    done = tacit("silo", "gather", path, *where)
    assert done["unsigned"] == ["east", "south"]
    at_coordinator.revoke(admitted.fed, "south")
    error = tacit("silo", "gather", path, *where, code=2)
    assert error["field"] == "version" and "signs again" in error["message"]


def test_what_is_no_document_or_the_wrong_one_is_told(asked: World) -> None:
    where = ("--home", asked.fed.root)
    path = asked.root / "odd.json"
    for text in ("", "[1]", '{"kind": {}}', "[" * 100_000, "x" * (documents.LARGEST + 1)):
        path.write_text(text)
        tacit("silo", "gather", path, *where, code=2)
        tacit("silo", "admit", path, *where, code=4 if text.startswith("{") else 2)
    error = tacit("silo", "gather", asked.request("north"), *where, code=2)
    assert "tacit silo admit" in error["message"]
    assert tacit("silo", "gather", asked.root / "no.json", *where, code=2)["field"] == "file"


# Renewing, revoking, new keys


def test_a_certificate_is_renewed_after_it_has_ended(
    joined: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = joined.home("north")
    before = home.transport("north").read_bytes()
    tacit("silo", "renew", "north", "--home", home.root)
    joined.admit("north")
    old = exchange.users(joined.fed)["north"]
    ended = certificates.issue_client(
        joined.fed.exchange,
        "north",
        certificates.make_request(home.asked_key("north"), "north"),
        life=timedelta(minutes=-1),
    )
    exchange.put_user(joined.fed, "north", exchange.User(old.nkey, ended))
    at_coordinator.gather(joined.fed, [])
    error = joined.take("north", code=5)
    assert "expired on" in error["message"] and "tacit silo renew north" in error["message"]
    assert home.transport("north").read_bytes() == before
    tacit("silo", "renew", "north", "--home", home.root)
    request = joined.request("north")
    tacit("silo", "admit", request, "--home", joined.fed.root)  # a member needs no fingerprint
    done = joined.take("north")
    assert done["membership"] == 3 and done["unsigned"] == []  # nobody has to sign again
    assert home.transport("north").read_bytes() != before


def test_a_silo_can_declare_other_sizes_which_all_sign(joined: World) -> None:
    where = ("--home", joined.home("north").root)
    tacit("silo", "renew", "north", "--size", "heart=50/20", *where)
    joined.admit("north")
    assert joined.fed.federation().silos["north"].sizes["heart"].train == 50
    joined.all_sign(*NAMES)
    assert Membership.load(joined.home("south")).version == 4


def test_a_revoked_silo_is_out_and_its_old_request_does_not_bring_it_back(
    joined: World,
) -> None:
    done = tacit("silo", "revoke", "south", "--home", joined.fed.root)
    assert done["membership"] == 4 and done["unsigned"] == ["east", "north"]
    assert set(done["bundles"]) == {"east", "north"} and not done["reloaded"]
    assert "south" not in exchange.users(joined.fed)
    users = json.loads((joined.fed.exchange / "nats.json").read_text())["accounts"]["federation"]
    assert len(users["users"]) == 3
    with pytest.raises(BadInput, match="lacks the signature"):
        Membership.load(joined.fed).check(joined.fed)
    error = joined.admit("south", code=4)
    assert "before the silo was revoked" in error["message"]
    tacit("silo", "revoke", "south", "--home", joined.fed.root, code=2)
    # With a new request and its fingerprint compared again, it can come back.
    tacit("silo", "renew", "south", "--home", joined.home("south").root)
    bare = ("silo", "admit", joined.request("south"), "--home", joined.fed.root)
    assert tacit(*bare, code=2)["field"] == "fingerprint"
    assert joined.admit("south")["membership"] == 5


def test_a_name_whose_receipts_another_key_signed_is_not_given_away(
    joined: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror keeps a revoked silo's receipts, which verify under its old key for ever."""
    ledger = Silo(joined.home("south"), "south").ledger
    with Mirror.open(f"sqlite:///{joined.fed.mirror}", verify=verify) as mirror:
        for entry in ledger.entries():
            mirror.accept(entry)
    ledger.close()
    at_coordinator.revoke(joined.fed, "south")
    shutil.rmtree(joined.home("south").root)
    joined.enrol("south")
    error = joined.admit("south", code=2)
    assert error["field"] == "silo" and "its ledger's for life" in error["message"]
    with Mirror.open(f"sqlite:///{joined.fed.mirror}", verify=verify) as mirror:
        mirror.verify()


def test_the_coordinators_key_is_rotated_and_every_silo_compares_it(joined: World) -> None:
    old = key_of(joined, "coordinator")
    where = ("--home", joined.fed.root)
    done = tacit("silo", "renew", "coordinator", "--new-key", *where)
    new = key_of(joined, "coordinator")
    assert new.public != old.public and done["membership"] == 4
    assert done["parties"]["coordinator"] == new.fingerprint
    assert joined.fed.federation().coordinator == new.public
    error = joined.take("north", code=4)
    assert error["value"] == new.fingerprint and "--fingerprint" in error["message"]
    joined.take("north", "--fingerprint", old.fingerprint, code=4)
    for name in NAMES:
        joined.take(name, "--fingerprint", new.fingerprint)
    joined.all_sign(*NAMES)
    # What the old key signs is worth nothing any more.
    path = changed(joined.bundle("north"), lambda body: None, old)
    tacit("silo", "gather", path, "--home", joined.home("north").root, code=4)


def test_the_exchange_moves_and_nobody_signs_again(joined: World) -> None:
    joined.fed.exchange_file.write_text("url: tls://moved.example:4333\n")
    done = tacit("silo", "renew", "coordinator", "--home", joined.fed.root)
    assert done["membership"] == 3 and done["unsigned"] == []
    joined.take("north")
    assert exchange.url(joined.home("north")) == "tls://moved.example:4333"
    server = x509.load_pem_x509_certificate((joined.fed.exchange / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "moved.example" in names.get_values_for_type(x509.DNSName)
    assert json.loads((joined.fed.exchange / "nats.json").read_text())["listen"] == "0.0.0.0:4333"


def test_after_a_new_coordinators_key_an_open_job_can_only_be_ended(tmp_path: Path) -> None:
    """Its manifest is of the old key; the reservation comes back, and its receipts still verify."""
    home = Home(tmp_path / "fed")
    tacit("init", home.root, "--example", "breast-cancer", "--silos", 2)
    changes = {"dataset": "breast-cancer", "aggregation": {"name": "plain"}}
    jobs = [Job.create(home, parse(SPEC | changes, Spec, "job")) for _ in range(2)]
    for job in jobs:
        with engines.opened(home, "embedded") as parties, open_mirror(home) as mirror:
            lifecycle.reserve(job, parties, mirror)
    done = tacit("silo", "renew", "coordinator", "--new-key", "--home", home.root)
    assert done["bundles"] == {} and "tacit silo countersign" in done["next"]
    for name in home.silo_names():
        tacit("silo", "countersign", name, "--home", home.root)
    with engines.opened(home, "embedded") as parties, open_mirror(home) as mirror:
        with pytest.raises(IntegrityError):
            lifecycle.start(jobs[0], parties, mirror)
        lifecycle.cancel(jobs[1], parties, mirror)
        mirror.verify()
        assert {receipt.kind for receipt in mirror.receipts()} == {"reserve", "release"}
        for job in jobs:
            for name in home.silo_names():
                charge = parties._silos[name].ledger.charge(job.id)
                assert charge is not None and charge.state is State.RELEASED


def test_a_rotation_that_was_cut_short_is_finished(joined: World) -> None:
    """The new key is written, federation.yaml names it, and then the machine dies."""
    path = joined.fed.coordinator_key
    SigningKey.generate().save(path.with_name("key.new"))
    public = SigningKey.load(path.with_name("key.new")).public
    facts = joined.fed.federation_file.read_text()
    old = key_of(joined, "coordinator").public
    joined.fed.federation_file.write_text(facts.replace(old, public))
    with pytest.raises(IntegrityError, match="another coordinator's key"):
        at_coordinator.gather(joined.fed, [])
    at_coordinator.renew(joined.fed, new_key=True)
    assert key_of(joined, "coordinator").public == public
    assert not path.with_name("key.new").exists()


def test_a_silos_identity_key_cannot_be_changed(joined: World) -> None:
    where = ("--home", joined.home("north").root)
    error = tacit("silo", "renew", "north", "--new-key", *where, code=2)
    assert error["field"] == "new_key" and "every entry is signed by it" in error["message"]


def test_a_lost_seed_is_made_anew(joined: World) -> None:
    home = joined.home("north")
    home.seed("north").unlink()
    tacit("silo", "renew", "north", "--home", home.root)
    joined.admit("north")
    assert exchange.users(joined.fed)["north"].nkey == nats.public_key(home.seed("north"))


# One machine


def test_on_one_machine_nothing_is_carried_and_nothing_compared(tmp_path: Path) -> None:
    home = Home(tmp_path / "fed")
    tacit("init", home.root, "--example", "breast-cancer", "--silos", 2)
    signed = tacit("silo", "countersign", "silo-1", "--home", home.root)
    assert signed["signed"] and signed["membership"] == 1
    exchange.make_exchange(home)
    assert set(exchange.users(home)) == {"coordinator", "silo-1", "silo-2"}
    before = {party: home.transport(party).read_bytes() for party in exchange.users(home)}
    exchange.make_exchange(home)
    assert {party: home.transport(party).read_bytes() for party in before} == before
    done = tacit("silo", "renew", "silo-1", "--home", home.root)
    assert done["bundles"] == {} and done["unsigned"] == []
    assert home.transport("silo-1").read_bytes() != before["silo-1"]
    assert not home.asked_key("silo-1").exists()


def test_on_one_machine_what_ends_soon_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "fed")
    tacit("init", home.root, "--example", "breast-cancer", "--silos", 1)
    exchange.make_exchange(home)
    server = (home.exchange / "server.pem").read_bytes()
    own = home.transport("silo-1").read_bytes()
    monkeypatch.setattr(transport, "SOON", timedelta(days=366))
    exchange.make_exchange(home)
    assert (home.exchange / "server.pem").read_bytes() != server
    assert home.transport("silo-1").read_bytes() != own


def test_on_one_machine_a_seed_that_was_lost_and_a_silo_that_left_are_seen(tmp_path: Path) -> None:
    home = Home(tmp_path / "fed")
    tacit("init", home.root, "--example", "breast-cancer", "--silos", 2)
    exchange.make_exchange(home)
    home.seed("silo-1").unlink()
    facts = yaml.safe_load(home.federation_file.read_text())
    del facts["silos"]["silo-2"]
    home.federation_file.write_text(yaml.safe_dump(facts, sort_keys=False))
    exchange.make_exchange(home)
    said = json.loads((home.exchange / "nats.json").read_text())["accounts"]["federation"]
    known = {user["nkey"] for user in said["users"]}
    assert known == {nats.public_key(home.seed(party)) for party in ("coordinator", "silo-1")}


def test_a_silos_home_makes_no_exchange(joined: World, asked: World) -> None:
    for world in (joined, asked):
        with pytest.raises(NotFound, match="coordinator's home is elsewhere"):
            exchange.make_exchange(world.home("north"))
        assert not world.home("north").coordinator.exists()


def test_a_silo_joins_under_the_coordinators_own_home(joined: World) -> None:
    home = joined.fed
    given = ("--source", f"heart={joined.root / 'west.csv'}", "--size", "heart=40/20")
    shutil.copy(joined.root / "north.csv", joined.root / "west.csv")
    asked = tacit("silo", "enrol", "west", *given, "--home", home.root)
    mark = ("--fingerprint", asked["fingerprint"])
    done = tacit("silo", "admit", asked["request"], *mark, "--home", home.root)
    assert set(done["bundles"]) == set(NAMES)
    assert home.transport("west").exists()
    shown = tacit("silo", "countersign", "west", "--home", home.root)
    assert not shown["signed"]  # there are others to compare with
    mark = ("--fingerprint", shown["fingerprint"])
    assert tacit("silo", "countersign", "west", *mark, "--home", home.root)["signed"]
    assert Membership.load(home).unsigned == NAMES


def test_an_exchange_is_at_a_host_and_a_port(tmp_path: Path) -> None:
    (tmp_path / "heart.yaml").write_text(yaml.safe_dump(SCHEMA))
    words = ("init", tmp_path / "fed", "--dataset", tmp_path / "heart.yaml")
    for said in ("host", "host:", ":1", "a b:1", "host:123456", "tls://host:1"):
        assert tacit(*words, "--exchange", said, code=2)["field"] == "exchange"
    assert not (tmp_path / "fed").exists()
    assert "--exchange HOST:PORT" in tacit(*words, code=2)["message"]
    tacit(*words, "--exchange", "exchange.example:4222")
    home = Home(tmp_path / "fed")
    assert exchange.url(home) == "tls://exchange.example:4222"
    assert json.loads((home.exchange / "nats.json").read_text())["listen"] == "0.0.0.0:4222"
    server = x509.load_pem_x509_certificate((home.exchange / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "exchange.example" in names.get_values_for_type(x509.DNSName)


def test_a_certificate_is_installed_by_its_own_key_and_authority_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        certificates.make_authority(tmp_path / name, "f" * 63)
    asked, target = tmp_path / "asked.key", tmp_path / "own.pem"
    request = certificates.make_request(asked, "north")
    issued = certificates.issue_client(tmp_path / "a", "north", request)
    authority = (tmp_path / "a" / "ca.pem").read_text()
    other = (tmp_path / "b" / "ca.pem").read_text()
    for wrong in ((issued, other, "north"), (issued, authority, "south"), ("x", "y", "north")):
        with pytest.raises(IntegrityError):
            certificates.install(asked, *wrong, target)
    ended = certificates.issue_client(tmp_path / "a", "north", request, life=timedelta(minutes=-1))
    with pytest.raises(KeyFileError, match="expired"):
        certificates.install(asked, ended, authority, "north", target)
    assert asked.exists() and not target.exists()
    certificates.install(asked, issued, authority, "north", target)
    assert not asked.exists() and target.stat().st_mode & 0o777 == 0o600
    certificates.install(asked, issued, authority, "north", target)  # again, after a crash
    certificates.make_request(asked, "north")
    certificates.install(asked, issued, authority, "north", target)
    assert asked.exists()  # a newer request is still under way


# Over a real exchange


class InThreads:
    """A silo that serves from its own home, over a connection of its own, in threads here."""

    def __init__(self, home: Home, name: str) -> None:
        self._home, self._name = home, name
        self._running = True
        self._sessions: dict[str, threading.Thread] = {}
        self._said = ""
        self._desk = threading.Thread(target=self._serve, daemon=True)
        self._desk.start()

    def _serve(self) -> None:
        silo = Silo(self._home, self._name)
        try:
            with connect(self._home, self._name, silo.key) as connection:
                SiloServer(silo, connection, self).serve(lambda: self._running)
        except ExchangeClosed as error:
            self._said = error.message
        finally:
            silo.close()

    def _take_part(self, job: str) -> None:
        silo = Silo(self._home, self._name)
        with connect(self._home, self._name, silo.key) as connection:
            silo.participate(job, Session(connection.endpoint(job)), deadline=60)
        silo.close()

    def join(self, job: str) -> None:
        if job not in self._sessions:
            self._sessions[job] = threading.Thread(target=self._take_part, args=(job,), daemon=True)
            self._sessions[job].start()

    def leave(self, job: str) -> None:
        self._sessions.pop(job).join(60)

    def last_words(self) -> str:
        """Wait until it has ended by itself; what it said then."""
        self._desk.join(30)
        assert not self._desk.is_alive()
        return self._said

    def stop(self) -> None:
        self._running = False
        self._desk.join(30)


class InProcesses:
    """The same as `tacit silo serve`, with its sessions in children."""

    def __init__(self, home: Home, name: str) -> None:
        self._log = home.root / "out"
        command = [str(Path(sys.executable).with_name("tacit")), "silo", "serve", name]
        self._child = start(
            [*command, "--home", str(home.root)], environment=dict(os.environ), log=self._log
        )

    def last_words(self) -> str:
        assert self._child.wait(30) != 0
        return self._log.read_text()

    def stop(self) -> None:
        stop(self._child)


def drive(fed: Home, job: Job) -> None:
    with job.working(), engines.over_exchange(fed) as parties, open_mirror(fed) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
        lifecycle.settle(job, parties, mirror)


@pytest.mark.parametrize("serve", [InThreads, pytest.param(InProcesses, marks=pytest.mark.large)])
def test_three_organisations_train_over_a_real_exchange_until_one_is_revoked(
    asked: World, serve: Any
) -> None:
    fed, silos = asked.fed, {}
    at_coordinator.gather(fed, [])  # the paths of this copy
    server = nats.Server(fed.exchange / "nats.json", fed.exchange / "nats.log")
    try:
        for name in NAMES:
            assert asked.admit(name)["reloaded"]
        asked.all_sign(*NAMES)
        for name in NAMES:
            silos[name] = serve(asked.home(name), name)
        job = Job.create(fed, parse(SPEC, Spec, "job"))
        drive(fed, job)
        assert job.status == "settled"
        # A member gets a new certificate, and a member is cut off, while the others stay.
        tacit("silo", "renew", "north", "--home", asked.home("north").root)
        assert asked.admit("north")["reloaded"]
        with engines.over_exchange(fed) as parties:
            assert tacit("silo", "revoke", "south", "--home", fed.root)["reloaded"]
            assert "no such user any more" in silos["south"].last_words()
            assert parties.hello("east")["serves"] and parties.hello("north")["serves"]
        with (
            pytest.raises(ExchangeClosed, match="revoked"),
            connect(asked.home("south"), "south", key_of(asked, "south")),
        ):
            pass
        # The rest sign version 4; a silo that still works under version 3 takes no job of it.
        plain = parse(SPEC | {"aggregation": {"name": "plain"}}, Spec, "job")
        with pytest.raises(BadInput, match="lacks the signature of east, north"):
            drive(fed, Job.create(fed, plain))
        asked.all_sign("east", "north")
        with pytest.raises(IntegrityError, match="silo east answered with FED-004"):
            drive(fed, Job.create(fed, plain))
        for name in ("east", "north"):
            silos[name].stop()
            silos[name] = serve(asked.home(name), name)
        late = Job.create(fed, plain)
        drive(fed, late)
        assert late.status == "settled"
    finally:
        for silo in silos.values():
            silo.stop()
        server.stop()

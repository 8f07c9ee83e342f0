"""Manifests and goes as a coordinator may send them: read strictly, refused for good."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests_jobs_here import allow, run, spec

from federation import lifecycle, statements
from federation.books import open_ledger, open_mirror
from federation.embedded import Embedded
from federation.errors import BadInput, IntegrityError, PolicyRefused
from federation.home import Home
from federation.manifest import MANIFEST_LIFE, SKEW
from federation.record import Job
from federation.spec import canonical, digest
from privacy.errors import KeyConflict, Refused, WrongState
from privacy.events import Unit
from secure.keys import SigningKey

TYPED = (BadInput, IntegrityError, PolicyRefused, Refused)


@pytest.fixture
def parties(home: Home) -> Iterator[Embedded]:
    with Embedded(home) as opened:
        yield opened


def manifest(parties: Embedded, asked: Any = None) -> dict[str, Any]:
    """The signed manifest of a new job."""
    return lifecycle._manifest(Job.create(parties.home, asked or spec()), parties, {})


def resigned(parties: Embedded, document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return statements.sign(document["body"] | changes, parties.key)


def hostile(parties: Embedded, kind: str, body: Any) -> dict[str, Any]:
    """A body of any shape, truly signed by the coordinator as a statement of this kind."""
    message = b"tacit/" + kind.encode() + b"\x00" + canonical(body)
    return {"body": body, "key": parties.key.public, "signature": parties.key.sign(message).hex()}


def nothing_reserved(parties: Embedded) -> bool:
    return all(a.used == 0 for s in parties._silos.values() for a in s.ledger.accounts())


@pytest.mark.parametrize(
    "job",
    [
        "/tmp/x",
        "../../../../escaped",
        "..",
        ".",
        "",
        "a/b",
        "a\n",
        "A",
        "a" * 65,
        "-a",
        7,
        None,
        ["a"],
    ],
)
def test_the_id_of_a_job_never_leads_out_of_the_home(
    home: Home, parties: Embedded, job: Any
) -> None:
    before = sorted(home.root.parent.rglob("*"))
    signed = resigned(parties, manifest(parties), job=job)
    made = sorted(home.root.parent.rglob("*"))
    silo = parties._silos["silo-1"]
    with pytest.raises(BadInput) as caught:
        silo.reserve(signed)
    assert caught.value.field == "job"
    for verb in (
        lambda: silo.end(job),
        lambda: silo.start(job, {}),
        lambda: silo.settle(job),
        lambda: silo.epsilons(job),
    ):
        with pytest.raises(BadInput):
            verb()
    assert sorted(home.root.parent.rglob("*")) == made != before
    assert nothing_reserved(parties)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"federation": "another"}, "federation"),
        ({"issued": "2026-11-23T12:00:00"}, "issued"),
        ({"issued": 5}, "issued"),
        ({"expires": 5}, "expires"),
        ({"expires": "9999-12-31T23:59:59+00:00"}, "manifest"),
        ({"issued": "0001-01-01T00:00:00+23:59"}, "manifest"),
        ({"quotes": {}}, "quotes"),
        ({"quotes": None}, "quotes"),
        ({"spec": {}}, "kind"),
        ({"spec": None}, "spec"),
        ({"membership": 2}, "membership"),
        ({"membership": "1"}, "membership"),
        ({"membership_digest": "0" * 64}, "membership"),
        ({"code": "0" * 64}, "code"),
        ({"nonce": ""}, "nonce"),
        ({"other": 1}, "other"),
    ],
)
def test_every_field_of_a_manifest_is_checked(
    parties: Embedded, changes: dict[str, Any], field: str
) -> None:
    signed = resigned(parties, manifest(parties), **changes)
    with pytest.raises((BadInput, IntegrityError)) as caught:
        parties.reserve("silo-1", signed)
    assert caught.value.field == field
    assert nothing_reserved(parties)


def test_quotes_name_this_silo_and_members_only(parties: Embedded) -> None:
    whole = manifest(parties)
    quotes = whole["body"]["quotes"]
    without = {name: quote for name, quote in quotes.items() if name != "silo-1"}
    with pytest.raises(IntegrityError) as caught:
        parties.reserve("silo-1", resigned(parties, whole, quotes=without, nonce="1" * 32))
    assert caught.value.field == "quote"
    stranger = quotes | {"silo-9": quotes["silo-1"] | {"silo": "silo-9"}}
    with pytest.raises(IntegrityError) as caught:
        parties.reserve("silo-1", resigned(parties, whole, quotes=stranger, nonce="2" * 32))
    assert caught.value.field == "quotes" and caught.value.value == ["silo-9"]


def test_a_spec_is_told_whole(parties: Embedded) -> None:
    whole = manifest(parties)
    short = {k: v for k, v in whole["body"]["spec"].items() if k != "seed"}
    with pytest.raises(IntegrityError, match="canonical form"):
        parties.reserve("silo-1", resigned(parties, whole, spec=short))


def test_a_manifest_lives_ten_minutes_by_the_silos_own_clock(parties: Embedded) -> None:
    now = datetime.now(UTC)
    whole = manifest(parties)
    for number, (issued, life) in enumerate(
        [
            (now + SKEW + timedelta(seconds=30), MANIFEST_LIFE),
            (now - SKEW - MANIFEST_LIFE - timedelta(seconds=1), MANIFEST_LIFE),
            (now, MANIFEST_LIFE + timedelta(seconds=1)),
            (now, timedelta(0)),
        ]
    ):
        times = {"issued": issued.isoformat(), "expires": (issued + life).isoformat()}
        with pytest.raises(IntegrityError, match="clocks"):
            parties.reserve("silo-1", resigned(parties, whole, **times, nonce=f"{number:032x}"))
    assert nothing_reserved(parties)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abckind_.", max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    if path:
        yield path
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield from places(document[key], (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    here = changed
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return changed


@pytest.fixture(scope="module")
def arena(_founded: Path) -> Iterator[tuple[Embedded, dict[str, Any], dict[str, Any]]]:
    """A federation, a manifest at which its silos are fuzzed, and a go; all three stay unused."""
    root = Path(tempfile.mkdtemp(prefix="tacit-fuzz-"))
    shutil.copytree(_founded, root / "fed")
    home = Home(root / "fed")
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = Job.create(home, spec())
        lifecycle.reserve(job, parties, mirror)
        body = {
            "kind": "go",
            "job": job.id,
            "manifest": digest(job.document("manifest")["body"]),
            "receipts": job.document("receipts"),
        }
        yield parties, manifest(parties)["body"], body
    shutil.rmtree(root)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(data=st.data(), value=JSON)
def test_a_manifest_changed_anywhere_is_refused_and_leaves_nothing(
    arena: Any, data: st.DataObject, value: Any
) -> None:
    parties, body, _ = arena
    path = data.draw(st.sampled_from(sorted(places(body), key=str)))
    changed = put(body, path, value)
    silo = parties._silos["silo-1"]
    seen = {p for p in parties.home.root.parent.rglob("*") if "silos" not in p.parts}
    entries = silo.ledger.head().seq
    try:
        silo.reserve(hostile(parties, "manifest", changed))
    except TYPED:
        assert silo.ledger.head().seq == entries
    except (KeyConflict, WrongState):  # the nonce, or the job's id, stands for another manifest
        assert silo.ledger.head().seq == entries
    else:  # the same manifest in other words, or another silo's quote, which is that one's to check
        assert path[0] in ("nonce", "job", "issued", "expires", "quotes") or changed == body
        silo.end(changed["job"])
    assert {p for p in parties.home.root.parent.rglob("*") if "silos" not in p.parts} == seen
    assert {p.parent for p in silo._paths.jobs.rglob("*")} <= {
        silo._paths.jobs,
        *silo._paths.jobs.iterdir(),
    }


@FUZZ
@given(data=st.data(), value=JSON)
def test_a_go_changed_anywhere_starts_nothing(arena: Any, data: st.DataObject, value: Any) -> None:
    parties, _, body = arena
    path = data.draw(st.sampled_from(sorted(places(body), key=str)))
    changed = put(body, path, value)
    if changed == body:
        return
    silo = parties._silos["silo-1"]
    with pytest.raises((BadInput, IntegrityError)):
        silo.start(body["job"], hostile(parties, "go", changed))
    assert silo.ledger.charge(body["job"]).state == "reserved"


@FUZZ
@given(statement=JSON | st.fixed_dictionaries({"body": JSON, "key": JSON, "signature": JSON}))
@example(statement={"body": {"kind": "manifest"}, "key": None, "signature": "00"})
def test_what_nobody_signed_is_no_statement(arena: Any, statement: Any) -> None:
    parties, _, go = arena
    silo = parties._silos["silo-1"]
    for kind in ("manifest", "go"):
        with pytest.raises(IntegrityError):
            statements.read(statement, parties.key.public, kind=kind)
    with pytest.raises(IntegrityError):
        silo.reserve(statement)
    with pytest.raises(IntegrityError):
        silo.start(go["job"], statement)


def test_a_body_without_bottom_is_no_statement() -> None:
    key = SigningKey.generate()
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    statement = {"body": {"kind": "go", "of": deep}, "key": key.public, "signature": "00" * 64}
    with pytest.raises(IntegrityError):
        statements.read(statement, key.public, kind="go")


# Replays


def test_redelivery_of_a_manifest_gets_the_same_receipt(home: Home, parties: Embedded) -> None:
    asked = spec(privacy={"epsilon": 1.0}, evaluation={"release": "exact"})
    allow(home, exact_evaluation=True)
    signed = manifest(parties, asked)
    first = parties.reserve("silo-1", signed)
    allow(home, exact_evaluation=False)  # what is reserved is; it will not start
    again = parties.reserve("silo-1", json.loads(json.dumps(signed)))
    assert again.document() == first.document()


def test_a_manifest_that_was_refused_stays_refused(home: Home, parties: Embedded) -> None:
    first, second = (
        manifest(parties, spec(privacy={"epsilon": 10.0, "fit": "account"})) for _ in range(2)
    )
    parties.reserve("silo-1", first)
    with pytest.raises(Refused) as refused:
        parties.reserve("silo-1", second)
    parties.end("silo-1", first["body"]["job"])
    assert nothing_reserved(parties)
    with pytest.raises(Refused) as again:
        parties.reserve("silo-1", second)
    assert (again.value.message, again.value.field) == (refused.value.message, refused.value.field)
    assert nothing_reserved(parties)


def test_a_manifest_that_policy_refused_stays_refused(home: Home, parties: Embedded) -> None:
    asked = spec(privacy={"none": True}, evaluation={"release": "none"})
    signed = manifest(parties, asked)
    for _ in range(2):
        with pytest.raises(PolicyRefused, match="without privacy"):
            parties.reserve("silo-1", signed)
        allow(home, no_privacy=True)
    assert parties.reserve("silo-1", manifest(parties, asked)).kind == "reserve"


def test_a_nonce_stands_for_one_manifest(parties: Embedded) -> None:
    first, second = manifest(parties), manifest(parties)
    parties.reserve("silo-1", first)
    with pytest.raises(KeyConflict):
        parties.reserve("silo-1", resigned(parties, second, nonce=first["body"]["nonce"]))


def test_nonces_that_were_deleted_lower_no_charge(home: Home, parties: Embedded) -> None:
    whole = {"epsilon": 10.0, "fit": "account"}
    reserved, refused = (
        manifest(parties, spec(privacy=whole)),
        manifest(parties, spec(privacy=whole)),
    )
    first = parties.reserve("silo-1", reserved)
    with pytest.raises(Refused):
        parties.reserve("silo-1", refused)

    def forget() -> None:
        with sqlite3.connect(home.silo("silo-1").directory / "ledger.db") as raw:
            assert raw.execute("delete from nonces").rowcount > 0
        raw.close()

    used = parties.balance("silo-1", "breast-cancer", Unit.RECORD)["used"]
    forget()
    assert parties.reserve("silo-1", reserved).document() == first.document()
    assert parties.balance("silo-1", "breast-cancer", Unit.RECORD)["used"] == used
    parties.end("silo-1", reserved["body"]["job"])
    forget()
    with pytest.raises(WrongState, match="released"):
        parties.reserve("silo-1", reserved)
    with pytest.raises(Refused):  # though the account has room for it by now
        parties.reserve("silo-1", refused)
    other = resigned(parties, reserved, nonce="0" * 32)
    with pytest.raises(KeyConflict):
        parties.reserve("silo-1", other)
    assert nothing_reserved(parties)


def test_a_manifest_given_back_is_not_reserved_again(parties: Embedded) -> None:
    signed = manifest(parties)
    parties.reserve("silo-1", signed)
    parties.end("silo-1", signed["body"]["job"])
    for _ in range(2):
        with pytest.raises((WrongState, IntegrityError), match="released"):
            parties.reserve("silo-1", signed)


# The go


def receipts_of(parties: Embedded, signed: dict[str, Any]) -> dict[str, Any]:
    silos = sorted(signed["body"]["quotes"])
    return {silo: parties.reserve(silo, signed).document() for silo in silos}


def go_of(parties: Embedded, signed: dict[str, Any], receipts: dict[str, Any]) -> dict[str, Any]:
    body = {"kind": "go", "job": signed["body"]["job"], "manifest": digest(signed["body"])}
    return statements.sign(body | {"receipts": receipts}, parties.key)


def test_a_go_carries_the_reservations_of_its_own_manifest(parties: Embedded) -> None:
    """Another manifest under the same job, reserved by another silo, is none of them."""
    signed = manifest(parties)
    job = signed["body"]["job"]
    other = spec(strategy={"rounds": 1, "local_steps": 1, "batch_size": 32, "learning_rate": 0.1})
    quotes = lifecycle.quotes_of(other, parties.facts(other.dataset))
    changes = {
        "spec": other.model_dump(mode="json"),
        "quotes": {silo: quote.document() for silo, quote in quotes.items()},
        "nonce": "f" * 32,
    }
    receipts = {silo: parties.reserve(silo, signed).document() for silo in ("silo-1", "silo-3")}
    cheap = parties.reserve("silo-2", resigned(parties, signed, **changes)).document()
    go = go_of(parties, signed, receipts | {"silo-2": cheap})
    with pytest.raises(IntegrityError, match="lacks the reservation of silo-2"):
        parties.start("silo-1", job, go)
    assert parties._silos["silo-1"].ledger.charge(job).state == "reserved"


def test_a_go_names_exactly_the_silos_of_its_manifest(parties: Embedded) -> None:
    signed = manifest(parties)
    job, receipts = signed["body"]["job"], receipts_of(parties, signed)
    fewer = {silo: receipt for silo, receipt in receipts.items() if silo != "silo-3"}
    for wrong in (fewer, receipts | {"silo-4": receipts["silo-3"]}, {}):
        with pytest.raises(IntegrityError, match="exactly the silos"):
            parties.start("silo-1", job, go_of(parties, signed, wrong))
    swapped = receipts | {"silo-2": receipts["silo-3"], "silo-3": receipts["silo-2"]}
    with pytest.raises(IntegrityError, match="lacks the reservation"):
        parties.start("silo-1", job, go_of(parties, signed, swapped))
    assert parties.start("silo-1", job, go_of(parties, signed, receipts)).kind == "start"


def test_a_receipt_that_is_no_reservation_starts_nothing(parties: Embedded) -> None:
    signed = manifest(parties)
    job, receipts = signed["body"]["job"], receipts_of(parties, signed)
    released = parties.end("silo-2", job)
    assert released is not None
    with pytest.raises(IntegrityError, match="lacks the reservation of silo-2"):
        go = go_of(parties, signed, receipts | {"silo-2": released.document()})
        parties.start("silo-1", job, go)


def test_a_job_does_not_start_once_the_policy_has_closed(home: Home, parties: Embedded) -> None:
    allow(home, exact_evaluation=True)
    signed = manifest(parties, spec(evaluation={"release": "exact"}))
    receipts = receipts_of(parties, signed)
    allow(home, exact_evaluation=False)
    with pytest.raises(PolicyRefused):
        parties.start("silo-1", signed["body"]["job"], go_of(parties, signed, receipts))


def test_a_restored_backup_is_found_before_anything_is_reserved_on_it(home: Home) -> None:
    """The head file goes back with the database, so only the coordinator's receipts tell."""
    paths = home.silo("silo-1")
    head = paths.head.read_bytes()
    with closing(sqlite3.connect(paths.ledger)) as source:
        source.execute("VACUUM INTO ?", (str(home.root / "backup.db"),))
    ledger = open_ledger(home, "silo-1")
    for epsilon in (11.0, 12.0, 13.0):  # entries that the coordinator never sees
        ledger.set_capacity("breast-cancer/record", epsilon, "a test")
    ledger.close()
    assert run(home)["status"] == "completed"
    for leftover in paths.directory.glob("ledger.db-*"):
        leftover.unlink()
    shutil.copy(home.root / "backup.db", paths.ledger)
    paths.head.write_bytes(head)
    with pytest.raises(IntegrityError, match="tacit ledger recover silo-1") as caught:
        run(home)
    assert caught.value.exit_code == 4
    ledger = open_ledger(home, "silo-1")
    assert ledger.account("breast-cancer", Unit.RECORD).used == 0
    ledger.close()

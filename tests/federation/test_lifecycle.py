"""The life of a job at four silos: what is charged, what is refused, what comes back."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests_jobs_here import allow, drive, run, spec

from federation import lifecycle
from federation.attendance import Attendance
from federation.books import account_lines, open_ledger, open_mirror, opened, verification
from federation.embedded import Embedded
from federation.errors import (
    BadInput,
    BudgetRefused,
    IntegrityError,
    Missing,
    NotFound,
    PolicyRefused,
)
from federation.home import Home
from federation.membership import Membership
from federation.predict import predict_file
from federation.record import Job
from privacy.errors import (
    LedgerError,
    LedgerMissing,
    LedgerTampered,
    UnsafeModel,
    WrongState,
)
from privacy.events import Relation, Unit
from privacy.ledger import AccountTerms, State

ACCOUNT = "breast-cancer"


def account(home: Home, silo: str) -> Any:
    ledger = open_ledger(home, silo)
    try:
        return ledger.account(ACCOUNT, Unit.RECORD)
    finally:
        ledger.close()


def charge(home: Home, silo: str, job: str) -> Any:
    ledger = open_ledger(home, silo)
    try:
        return ledger.charge(job)
    finally:
        ledger.close()


def egress(home: Home, silo: str) -> list[dict[str, Any]]:
    ledger = open_ledger(home, silo)
    try:
        return [json.loads(e.body) for e in ledger.entries() if e.kind == "egress"]
    finally:
        ledger.close()


def test_a_job_costs_what_its_quote_said_and_leaves_everything_a_person_needs(home: Home) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(), parties)
    assert quoted["admissible"]
    result = run(home)
    assert result["status"] == "completed" and result["rounds"] == 4
    for silo, line in quoted["silos"].items():
        assert result["silos"][silo]["epsilon"] == pytest.approx(line["epsilon"], abs=1e-9)
        assert account(home, silo).remaining_epsilon == pytest.approx(line["remaining_epsilon"])
        assert account(home, silo).used == pytest.approx(line["charge"], rel=1e-6)
        assert charge(home, silo, result["job_id"]).state is State.SETTLED
        # Four updates and one histogram left each silo, all of them priced.
        lines = egress(home, silo)
        assert [line["protection"] for line in lines] == ["dp"] * 5
    assert set(result["metrics"]) >= {"accuracy", "auc", "log_loss", "silos", "intervals"}
    report = Path(result["report"]).read_text()
    assert all(silo in report for silo in quoted["silos"])
    card = Path(result["model"]).with_name("card.md").read_text()
    assert "changes by at most a factor e^" in card and "add/remove" in card
    check = verification(home, None)
    assert check["ok"] and all(line["vouched_to"] for line in check["ledgers"])


def test_the_secret_and_the_stored_releases_are_gone_after_settlement(home: Home) -> None:
    job = run(home)["job_id"]
    for silo in home.silo_names():
        paths = home.silo(silo)
        assert not (paths.jobs / job / "secret").exists()
        assert list((paths.releases / job).glob("*")) == []


def test_a_model_predicts_where_the_rows_are(home: Home, tmp_path: Path) -> None:
    result = run(home, privacy={"epsilon": 6.0})
    source = next((home.root / "silos" / "silo-1").rglob("rows.*"))
    written = predict_file(Path(result["model"]), source, tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert written == len(lines) - 1 > 100
    assert lines[0] == "row,predicted,p_benign,p_malignant"
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o600


def test_what_does_not_fit_is_refused_at_every_silo_and_charges_nothing(home: Home) -> None:
    job = Job.create(home, spec(privacy={"epsilon": 60.0}))
    with pytest.raises(BudgetRefused, match="would fit at every silo") as caught:
        drive(home, job)
    assert caught.value.exit_code == 3 and ACCOUNT in caught.value.message
    assert job.status == "refused"
    assert all(account(home, silo).used == 0 for silo in home.silo_names())


def test_a_refusal_tells_what_was_asked_what_is_left_and_what_would_fit(home: Home) -> None:
    run(home, privacy={"epsilon": 6.0})
    left = account(home, "silo-1").remaining_epsilon
    asked = spec(privacy={"epsilon": 8.0})
    with Embedded(home) as parties:
        quoted = lifecycle.quote(asked, parties)
    with pytest.raises(BudgetRefused) as caught:
        drive(home, Job.create(home, asked))
    error = caught.value
    assert error.field == f"silo-1/{ACCOUNT}/record"
    assert error.value == quoted["silos"]["silo-1"]["epsilon"] == pytest.approx(8.0, abs=0.05)
    assert error.allowed == {"remaining_epsilon": left, "delta": 1e-5} | quoted["fits"]
    for said in (
        f"silo silo-1: account {ACCOUNT}/record: the job asks for epsilon",
        f"epsilon {left:.2f} of 10 is left at delta 1e-05",
        f"the job costs epsilon {error.value:.2f} per record",
        f"would fit at every silo: epsilon {quoted['fits']['epsilon']:.3g} with these rounds",
    ):
        assert said in error.message


@pytest.mark.parametrize(
    ("fits", "said"),
    [
        ({}, "nothing of this kind fits"),
        ({"epsilon": 0.0, "rounds": 0}, "nothing of this kind fits"),
        ({"epsilon": 0.0123, "rounds": 0}, "epsilon 0.0123 with these rounds, but not one round"),
        ({"epsilon": 8.7, "rounds": 1}, "epsilon 8.7 with these rounds, or one round with"),
        ({"epsilon": 8.7, "rounds": 1200}, "or 1,200 rounds with this noise"),
    ],
)
def test_what_fits_reads_well(fits: dict[str, float | int], said: str) -> None:
    assert said in lifecycle.fits_text(fits)


def test_one_refusal_gives_the_others_back(home: Home) -> None:
    ledger = open_ledger(home, "silo-3")
    ledger.set_capacity(f"{ACCOUNT}/record", 1.5, "a test")
    ledger.close()
    job = Job.create(home, spec())
    with pytest.raises(BudgetRefused):
        drive(home, job)
    assert charge(home, "silo-1", job.id).state is State.RELEASED
    assert charge(home, "silo-2", job.id).state is State.RELEASED
    assert charge(home, "silo-3", job.id) is None
    assert all(account(home, silo).used == 0 for silo in ("silo-1", "silo-2"))


def test_an_error_of_a_ledger_names_its_silo(home: Home) -> None:
    database = home.silo("silo-2").directory / "ledger.db"
    with Embedded(home) as parties, open_mirror(home) as mirror:
        job = Job.create(home, spec())
        lifecycle.reserve(job, parties, mirror)
        lifecycle.cancel(job, parties, mirror)
        with pytest.raises(WrongState, match=f"^silo silo-2: key '{job.id}' is released") as state:
            parties.reserve("silo-2", job.document("manifest") or {})
        assert (state.value.exit_code, state.value.field) == (2, "key")
        with sqlite3.connect(database) as raw:
            raw.execute("update accounts set balance = '{}'")
        raw.close()
        with pytest.raises(LedgerTampered, match=r"^silo silo-2: accounts: ") as tampered:
            lifecycle.quote(spec(), parties)
        assert (tampered.value.exit_code, tampered.value.field) == (4, "accounts")
    with opened(home, "silo-2") as ledgers, pytest.raises(LedgerTampered, match=r"^silo silo-2: "):
        account_lines("silo-2", ledgers["silo-2"])
    database.unlink()
    for opening in (Embedded, lambda home: opened(home, None).__enter__()):
        with pytest.raises(LedgerMissing, match=r"^silo silo-2: ") as missing:
            opening(home)
        assert (missing.value.exit_code, missing.value.field) == (5, "ledger")
        assert missing.value.message == str(missing.value)


def test_what_a_quote_says_would_fit_is_admitted(home: Home) -> None:
    with Embedded(home) as parties:
        fits = lifecycle.quote(spec(privacy={"epsilon": 60.0}), parties)["fits"]
        assert 5 < fits["epsilon"] < 10
        epsilon = {"epsilon": fits["epsilon"]}
        assert lifecycle.quote(spec(privacy=epsilon), parties)["admissible"]
        few = lifecycle.quote(spec(), parties)["fits"]["rounds"]
        for rounds, admissible in ((few, True), (few * 6 // 5 + 1, False)):
            strategy = {"rounds": rounds, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5}
            assert lifecycle.quote(spec(strategy=strategy), parties)["admissible"] is admissible


def test_fit_account_takes_the_whole_account_and_no_more(home: Home) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(privacy={"epsilon": 10.0, "fit": "account"}), parties)
    assert quoted["admissible"]
    for line in quoted["silos"].values():
        assert 0.97 < line["charge"] <= 1.0
        assert line["epsilon"] < 10.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"privacy": {"epsilon": 1.0, "delta": 1e-4}}, "privacy.delta"),
        ({"privacy": {"epsilon": 1.0, "unit": "subject"}}, "privacy.unit"),
        ({"model": {"name": "cnn"}}, "model.name"),
        ({"model": {"name": "resnet"}}, "model.name"),
        ({"dataset": "hearts"}, "dataset"),
    ],
)
def test_bad_input_is_refused_before_anything_is_charged(
    home: Home, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises((BadInput, NotFound)) as caught:
        run(home, **changes)
    assert caught.value.field == field and caught.value.exit_code == 2
    assert all(account(home, silo).used == 0 for silo in home.silo_names())


@pytest.mark.parametrize("changes", [{"privacy": {"none": True}}, {"evaluation": {"bins": 3}}])
def test_a_spec_that_contradicts_itself_is_bad_input(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        spec(**changes)


def test_a_delta_that_could_publish_a_row_is_refused(home: Home) -> None:
    with Embedded(home) as parties:
        facts = parties.facts("breast-cancer")
    large = {
        silo: replace(f, sizes=f.sizes.model_copy(update={"train": 100_000}))
        for silo, f in facts.items()
    }
    with pytest.raises(BadInput, match=r"not below 1 / 1000.. units"):
        lifecycle.quotes_of(spec(), large)


def test_no_privacy_needs_every_owners_policy_and_marks_everything(home: Home) -> None:
    asked = {"privacy": {"none": True}, "evaluation": {"release": "exact"}}
    with pytest.raises(PolicyRefused) as caught:
        run(home, **asked)
    assert caught.value.exit_code == 3
    allow(home, no_privacy=True, exact_evaluation=True)
    result = run(home, **asked)
    assert result["status"] == "completed"
    assert all(line["epsilon"] == 0 for line in result["silos"].values())
    assert result["metrics"]["accuracy"] > 0.8
    assert all(account(home, silo).unprotected == 5 for silo in home.silo_names())
    assert "guarantee excludes" in Path(result["report"]).read_text()
    assert "None. This model was trained without" in (
        Path(result["model"]).with_name("card.md").read_text()
    )


def test_rounds_never_begun_come_back_after_a_stop_on_released_metrics(home: Home) -> None:
    strategy = {"rounds": 10, "local_steps": 1, "batch_size": 32, "learning_rate": 1e-9}
    # Two bins and most of the price: noise hides hardly any of the losses that patience counts.
    evaluation = {"every": 1, "patience": 1, "share": 0.95, "bins": 2}
    result = run(home, strategy=strategy, evaluation=evaluation, privacy={"epsilon": 2.0})
    assert result["status"] == "completed" and result["rounds"] < 10
    with Embedded(home) as parties:
        whole = lifecycle.quote(
            spec(strategy=strategy, evaluation=evaluation, privacy={"epsilon": 2.0}), parties
        )
    for silo, line in result["silos"].items():
        assert 0 < line["epsilon"] < whole["silos"][silo]["epsilon"]
        # The filter adds round to round, so what stays is the share of the rounds that were run.
        share = result["rounds"] / 10 * whole["silos"][silo]["charge"]
        assert account(home, silo).used == pytest.approx(share, rel=0.01)
    # A plan that its own results cut short is claimed whole.
    card = Path(result["model"]).with_name("card.md").read_text()
    assert card.count("a factor e^2.000") + card.count("a factor e^1.99") == len(result["silos"])


def test_a_fault_of_one_silo_ends_the_job_and_forfeits_there_only(home: Home) -> None:
    job = Job.create(home, spec())
    source = next((home.root / "silos" / "silo-2").rglob("rows.*"))
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
    source.unlink()
    result = drive(home, job)
    assert result["status"] == "failed"
    assert "silo-2" in result["error"]["message"]
    assert str(source) not in json.dumps(result)
    whole = account(home, "silo-2").used
    assert whole > 0
    for silo in ("silo-1", "silo-3"):
        assert account(home, silo).used < whole  # at most the one round that was begun


def test_a_source_that_is_not_there_is_found_before_anything_is_reserved(home: Home) -> None:
    next((home.root / "silos" / "silo-2").rglob("rows.*")).unlink()
    with pytest.raises(Missing):
        run(home)
    assert all(account(home, silo).used == 0 for silo in home.silo_names())


def test_the_same_mark_finds_the_job_that_it_made(home: Home) -> None:
    job = Job.create(home, spec(), mark="0a1b2c3d")
    assert job.id.endswith("-0a1b2c3d")
    assert Job.create(home, spec(), mark="0a1b2c3d").id == job.id
    assert Job.create(home, spec(), mark="ffffffff").id != job.id != Job.create(home, spec()).id


def test_cancel_gives_a_reservation_back(home: Home) -> None:
    job = Job.create(home, spec())
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        assert account(home, "silo-1").reserved_epsilon > 0
        lifecycle.cancel(job, parties, mirror)
        assert job.status == "cancelled"
        assert account(home, "silo-1").reserved_epsilon == 0
        with pytest.raises(BadInput, match="already cancelled"):
            lifecycle.cancel(job, parties, mirror)


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Install a package of models on the path as a distribution of its own: name, code."""
    site = tmp_path / "site"
    names = []

    def install(name: str, code: str) -> None:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        builders = re.findall(r"^def (\w+)\(shape, classes\)", code, re.MULTILINE)
        points = "".join(f"{builder} = {name}:{builder}\n" for builder in builders)
        (info / "entry_points.txt").write_text(f"[tacit.models]\n{points}")
        (site / f"{name}.py").write_text(code)
        names.append(name)

    sys.path.insert(0, str(site))
    yield install
    sys.path.remove(str(site))
    for name in names:
        sys.modules.pop(name, None)


def test_an_unsafe_model_is_named_before_anything_is_charged(
    home: Home, installed: Callable[[str, str], None]
) -> None:
    installed(
        "normed",
        "from math import prod\n"
        "from torch import nn\n"
        "def normed(shape, classes):\n"
        "    n = prod(shape)\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(n), nn.Linear(n, classes))\n"
        "def plain(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))\n",
    )
    with pytest.raises(UnsafeModel, match="module 1 is a BatchNorm1d") as caught:
        run(home, model={"name": "normed"})
    assert caught.value.exit_code == 2
    with pytest.raises(PolicyRefused, match="model_packages"):
        run(home, model={"name": "plain"})
    assert all(account(home, silo).used == 0 for silo in home.silo_names())
    allow(home, model_packages=["normed"])
    assert run(home, model={"name": "plain"})["status"] == "completed"


def test_a_model_whose_backward_pass_is_wrong_stops_before_a_row_is_read(
    home: Home, installed: Callable[[str, str], None]
) -> None:
    """It leaves out a row of every batch, which no look at the model shows: the self-test does."""
    installed(
        "forgets",
        "from math import prod\n"
        "import torch\n"
        "from torch import nn\n"
        "class Forgetting(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, rows):\n"
        "        return rows.clone()\n"
        "    @staticmethod\n"
        "    def backward(ctx, gradient):\n"
        "        gradient = gradient.clone()\n"
        "        if len(gradient) > 4:\n"
        "            gradient[4] = 0.0\n"
        "        return gradient\n"
        "class Layer(nn.Module):\n"
        "    def forward(self, rows):\n"
        "        return Forgetting.apply(rows)\n"
        "def forgets(shape, classes):\n"
        "    n = prod(shape)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(n, 4), Layer(), nn.Linear(4, classes))\n",
    )
    allow(home, model_packages=["forgets"])
    result = run(home, model={"name": "forgets"})
    assert result["status"] == "failed" and "PRIVACY" in result["error"]["message"]
    assert all(account(home, silo).used == 0 for silo in home.silo_names())


def test_a_model_that_diverges_ends_the_job_and_says_so(home: Home) -> None:
    strategy = {"rounds": 4, "local_steps": 2, "batch_size": 32, "learning_rate": 1e38}
    result = run(home, strategy=strategy, privacy={"noise_multiplier": 1.5, "clip": 1e4})
    assert result["status"] == "failed" and "diverged" in result["error"]["message"]
    for silo in home.silo_names():
        assert charge(home, silo, result["job_id"]).state is State.SETTLED
        assert account(home, silo).used > 0


@pytest.mark.parametrize("answer", [b"garbage", b"\xc1", b""])
def test_an_answer_that_makes_no_sense_ends_the_job(
    home: Home, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    from federation.training.trainer import Trainer

    verb = "evaluate" if answer == b"\xc1" else "train"
    honest = getattr(Trainer, verb)
    monkeypatch.setattr(Trainer, verb, lambda *args: honest(*args) and answer)
    result = run(home)
    assert result["status"] == "failed" and result["error"]["code"] == "SECURE-002"
    assert Job(home, result["job_id"]).shown_status() == "failed"


# What changes under a job that has started


def begun(home: Home, **changes: Any) -> Job:
    """A job that every silo started, of which one round was run before its coordinator went."""
    job = Job.create(home, spec(**changes))
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        with pytest.raises(KeyboardInterrupt):
            lifecycle.coordinate(job, parties, progress=_after_one_round)
    return job


def _after_one_round(done: int, total: int) -> None:
    if done == 1:
        raise KeyboardInterrupt


def resize(home: Home, silo: str, size: int) -> None:
    """Declare another size for a silo, and let every silo countersign it."""
    said = yaml.safe_load(home.federation_file.read_text())
    said["silos"][silo]["sizes"]["breast-cancer"]["train"] = size
    home.federation_file.write_text(yaml.safe_dump(said, sort_keys=False))
    for name in home.silo_names():
        Membership.countersign(home, name)


def whole(home: Home, **changes: Any) -> dict[str, float]:
    with Embedded(home) as parties:
        lines = lifecycle.quote(spec(**changes), parties)["silos"]
    return {silo: line["charge"] for silo, line in lines.items()}


def test_a_job_reserved_under_another_membership_runs_no_more_and_is_settled_as_it_was(
    home: Home,
) -> None:
    quoted = whole(home)
    job = begun(home)
    resize(home, "silo-1", 60)  # a rate four times as high
    before = {silo: len(egress(home, silo)) for silo in home.silo_names()}
    with Embedded(home) as parties, open_mirror(home) as mirror:
        with pytest.raises(IntegrityError, match="cancel it") as caught:
            lifecycle.coordinate(job, parties)
        assert caught.value.field == "membership"
        # The silos say no too, to a coordinator that does not care, and so does a start.
        with parties.serve(
            job.id, Attendance(job.directory / "attendance.jsonl", ["silo-1"])
        ) as endpoint:
            message = endpoint.receive(deadline=30)
            assert message.header.name == "fault" and b"FED-004" in message.body
        with pytest.raises(IntegrityError):
            parties.start("silo-1", job.id, job.document("go") or {})
        assert before == {silo: len(egress(home, silo)) for silo in home.silo_names()}
        lifecycle.cancel(job, parties, mirror)
    assert job.status == "cancelled"
    for silo, share in quoted.items():
        assert charge(home, silo, job.id).state is State.SETTLED
        assert account(home, silo).status == "healthy"
        # silo-1 was asked to go on and did not, of its own; at the others one round of four ran.
        used = account(home, silo).used
        assert used == pytest.approx(share) if silo == "silo-1" else 0 < used < 0.6 * share


def test_other_code_runs_no_job_that_was_reserved_and_settles_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(home)
    monkeypatch.setattr("federation.manifest.code_version", lambda: "0" * 64)
    with Embedded(home) as parties, open_mirror(home) as mirror:
        with pytest.raises(IntegrityError, match="other code"):
            lifecycle.coordinate(job, parties)
        lifecycle.cancel(job, parties, mirror)
    assert all(charge(home, silo, job.id).state is State.SETTLED for silo in home.silo_names())


def test_a_settlement_costs_what_was_reserved_whatever_was_declared_since(home: Home) -> None:
    """Run to its end, then resized before anybody settled."""
    quoted = whole(home)
    job = Job.create(home, spec())
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
    resize(home, "silo-1", 60)
    assert drive(home, job)["status"] == "completed"
    for silo, share in quoted.items():
        assert account(home, silo).used == pytest.approx(share, rel=1e-6)
        assert account(home, silo).status == "healthy"


def test_an_account_opened_under_a_job_neither_joins_it_nor_stops_its_end(home: Home) -> None:
    job = begun(home)
    ledger = open_ledger(home, "silo-1")
    terms = AccountTerms(
        source=ACCOUNT, unit=Unit.SILO, relation=Relation.ADD_REMOVE, epsilon=5.0, delta=1e-5
    )
    with suppress(LedgerError):  # the ledger may refuse it by itself
        ledger.open_account(terms)
    opened = len(ledger.accounts()) > 1
    ledger.close()
    with Embedded(home) as parties, open_mirror(home) as mirror:
        if opened:
            with parties.serve(
                job.id, Attendance(job.directory / "attendance.jsonl", ["silo-1"])
            ) as endpoint:
                assert endpoint.receive(deadline=30).header.name == "fault"
        lifecycle.cancel(job, parties, mirror)
    assert charge(home, "silo-1", job.id).state is State.SETTLED


@pytest.mark.parametrize("lost", ["manifest.json", "facts.json"])
@pytest.mark.parametrize("how", ["gone", "garbage", "another's"])
def test_a_job_whose_files_are_lost_is_settled_whole(home: Home, lost: str, how: str) -> None:
    quoted = whole(home)
    job = begun(home)
    path = home.silo("silo-1").jobs / job.id / lost
    if how == "gone":
        path.unlink()
    else:
        path.write_text("garbage" if how == "garbage" else '{"body": {}}')
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.cancel(job, parties, mirror)
    assert charge(home, "silo-1", job.id).state is State.SETTLED
    assert account(home, "silo-1").used == pytest.approx(quoted["silo-1"], rel=1e-6)
    assert account(home, "silo-2").used < 0.6 * quoted["silo-2"]


def test_settling_twice_answers_the_same_receipt(home: Home) -> None:
    job = begun(home)
    with Embedded(home) as parties:
        first = parties.end("silo-1", job.id)
        again = [parties.settle("silo-1", job.id), parties.end("silo-1", job.id)]
        assert first is not None
        assert [r.document() for r in again if r] == [first.document()] * 2
        assert min(parties.epsilons("silo-1", job.id)) > 0

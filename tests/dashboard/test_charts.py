"""Charts, tables and files say what the rows say, in words as well as in colours."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from dashboard import charts, exports, queries, statuses, subjects, tables
from dashboard.statuses import Judged
from federation.init import init_dataset

NOW = datetime.now(UTC)


def values(spec, layer):
    """The rows of a layer; Altair keeps them once per chart, or at the top where all share them."""
    data = spec["layer"][layer].get("data") or spec["data"]
    return spec["datasets"][data["name"]]


@pytest.fixture
def judged(full):
    overview = queries.overview(full.home)
    return [Judged(a, a.standing, "") for a in overview.accounts]


def test_a_bar_is_the_used_share_with_its_status_in_words(judged):
    spec = charts.budget_bars(judged, ["lost"]).to_dict()
    rows = {row["account"]: row for row in values(spec, 1)}
    assert rows["north · heart · one record"]["used"] == pytest.approx(0.4, abs=1e-3)
    assert rows["north · heart · one record"]["said"] == "40.0%   ✓ healthy"
    assert rows["east · heart · one record"]["said"] == "85.0%   ▲ at risk"
    assert rows["south · heart · one record"]["said"] == "100.0%   ■ exhausted"
    assert rows["lost"] == {"account": "lost", "used": 0, "whole": 1, "said": "? no data"}
    for row in rows.values():
        assert f"{row['account']} {row['said']}" in spec["description"]
    text = next(x for x in spec["layer"] if x["mark"]["type"] == "text")
    assert text["encoding"]["text"]["field"] == "said"
    rule = next(i for i, x in enumerate(spec["layer"]) if x["mark"]["type"] == "rule")
    assert values(spec, rule) == [{"at": 0.8}]


def test_every_status_has_a_colour_and_a_word_of_its_own():
    assert list(charts.COLORS) and set(charts.COLORS) == set(statuses.WORST_FIRST)
    assert set(tables.STATUS) == set(statuses.WORST_FIRST)
    assert len(set(charts.COLORS.values())) == len(set(tables.STATUS.values())) == 5


def test_silos_alone_name_accounts_of_one_kind(judged):
    one = [line.account for line in judged if line.account.silo in ("north", "east")]
    assert charts.labels(one) == ["east", "north"]


def test_the_course_steps_up_with_each_job_and_then_follows_the_pace(judged):
    account = next(line.account for line in judged if line.account.silo == "north")
    spec = charts.course(account, NOW).to_dict()
    steps = [row["used"] for row in values(spec, 0)]
    assert steps == pytest.approx([0, 0.25, 0.4, 0.4], abs=1e-3)
    assert spec["layer"][0]["mark"]["interpolate"] == "step-after"
    assert [(p["job"], p["alone"], p["after"]) for p in values(spec, 1)] == [
        ("job-1", "2.50", "2.50"),
        ("job-2", "1.50", "4.00"),
    ]
    start, end = values(spec, 2)
    assert (start["used"], end["used"]) == (pytest.approx(0.4, abs=1e-3), 1.0)
    assert end["when"][:10] == account.spent_by.date().isoformat()


def test_an_account_without_spends_has_no_forecast(house):
    house.silo("north")
    account = queries.overview(house.home).accounts[0]
    spec = charts.course(account, NOW).to_dict()
    assert len(spec["layer"]) == 2 and values(spec, 1) == []


def test_what_no_order_can_state_is_not_a_number():
    assert charts.epsilon(float("inf")) == "beyond"
    assert tables.finite(float("inf")) is None


def test_the_accounts_table_names_capacity_spent_left_and_claim(judged):
    row = next(r for r in tables.accounts(judged) if r["silo"] == "east")
    assert row["protects"] == "one record" and row["status"] == "▲ at risk"
    assert (row["allows ε"], row["claims ε"], row["unprotected"]) == (10.0, 10.0, 1)
    assert (row["spent ε"], row["left ε"]) == pytest.approx((8.5, 1.5), abs=1e-3)
    assert row["used %"] == pytest.approx(85, abs=0.1)


def test_unprotected_releases_come_first_and_say_what_they_were(full):
    rows = tables.releases(queries.overview(full.home).releases)
    assert rows[0] == {
        "silo": "east",
        "job": "job-1",
        "protection": "▲ unprotected",
        "releases": 1,
        "what": "scores",
    }
    assert {row["protection"] for row in rows[1:]} == {"differential privacy"}


def test_columns_that_say_nothing_are_left_out():
    rows = [{"a": 1, "b": "", "c": ""}, {"a": 0, "b": "x", "c": ""}]
    assert tables.shown(rows) == [{"a": 1, "b": ""}, {"a": 0, "b": "x"}]
    assert tables.shown([]) == []


def test_a_person_in_several_silos_faces_the_largest_claims_added(house):
    for silo, epsilon in (("north", 1.0), ("east", 4.0), ("south", 2.0)):
        house.silo(silo, units=("record", "subject"), epsilon=epsilon)
    house.federate(max_silos_per_subject=2)
    overview = queries.overview(house.home)
    (line,) = subjects.people(overview.accounts, overview.holders, overview.silos_per_subject)
    assert (line.dataset, line.silos, line.claim) == ("heart", 2, 6.0)
    assert line.delta == pytest.approx(2e-5)
    for most in (3, 5, None):
        line = subjects.people(overview.accounts, overview.holders, most)[0]
        assert (line.silos, line.claim) == (3, 7.0)
    records = [a for a in overview.accounts if a.unit == "record"]
    assert subjects.people(records, overview.holders, 2) == ()


def test_nobody_is_in_a_silo_that_declares_no_rows(tmp_path):
    (tmp_path / "visits.yaml").write_text(
        "name: visits\n"
        "features: {a: {type: number, bounds: [0, 1]}}\n"
        "label: {column: y, classes: ['0', '1']}\n"
        "subject: {column: p, max_rows: 3}\n"
        "split: {by: hash, salt: s, test_fraction: 0.25}\n"
    )
    (tmp_path / "v.csv").write_text("a,y,p\n0.1,0,x\n0.2,1,z\n")
    sources = {"clinic": str(tmp_path / "v.csv"), "vendor": "none", "cloud": "none"}
    sizes = {"clinic": "100/40/50"}
    home = init_dataset(tmp_path / "fed", tmp_path / "visits.yaml", sources, sizes, epsilon=4.0)
    overview = queries.overview(home)
    assert sum(account.unit == "subject" for account in overview.accounts) == 3
    (line,) = subjects.people(overview.accounts, overview.holders, overview.silos_per_subject)
    assert (line.dataset, line.silos, line.claim, line.delta) == ("visits", 1, 4.0, 1e-5)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", " =1", "=cmd|' /C'!A0"])
def test_a_cell_that_looks_like_a_formula_is_text(text):
    (header, row) = csv.reader(io.StringIO(exports.to_csv([{"a": text}]).decode(), newline=""))
    assert header == ["a"] and row == [f"'{text}"]


def test_numbers_stay_numbers_in_a_file():
    assert exports.to_csv([{"a": -1.5, "b": None, "c": "x,y"}]) == b'a,b,c\r\n-1.5,,"x,y"\r\n'
    assert exports.to_csv([]) == b""


def test_times_are_utc_whatever_the_machine_thinks():
    east = datetime(2026, 1, 1, 1, 0, tzinfo=UTC).astimezone(tz=None)
    assert tables.moment(east) == "2026-01-01 01:00:00"
    assert tables.day(east + timedelta(hours=1)) == "2026-01-01"

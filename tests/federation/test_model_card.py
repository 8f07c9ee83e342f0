"""The card and the report: sentences that hold, numbers that are those of the ledger."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests_jobs_here import run, spec

from federation.books import open_ledger
from federation.home import Home
from federation.model_card import guarantee, model_card
from federation.plots import draw
from federation.report import _metrics
from privacy.events import Unit


def after(**changes: Any) -> dict[str, Any]:
    base = {
        "remaining_epsilon": 5.0,
        "used": 0.4,
        "unprotected": 0,
        "relation": "add_remove",
        "claim_epsilon": 10.0,
        "delta": 1e-5,
    }
    return {"before": base | {"used": 0.1}, "after": base | changes}


def job(balances: dict[str, Any], *, early: bool = False, **changes: Any) -> Any:
    line = {
        "epsilon": 1.2341,
        "planned_epsilon": 2.0,
        "delta": 1e-5,
        "unit": "record",
        "settled": True,
    }
    documents = {
        "settlement": dict.fromkeys(balances, line),
        "balances": balances,
        "outcome": {"rounds": 4, "stopped_early": early},
    }
    return SimpleNamespace(id="small-1", spec=spec(**changes), document=documents.get)


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [(1.0, "1.000"), (1.0001, "1.001"), (0.9999, "1.000"), (0.00004, "0.001"), (2.5, "2.500")],
)
def test_an_epsilon_in_a_sentence_is_rounded_up_never_down(epsilon: float, told: str) -> None:
    sentence = guarantee("north", {"delta": 1e-5, "unit": "subject"}, "add_remove", epsilon)
    assert re.findall(r"e\^([\d.]+),", sentence) == [told]
    assert f"with epsilon {told} and delta 1e-05" in sentence
    assert "any one subject of silo north" in sentence


def test_every_silo_has_its_sentence_and_its_accounts_claim() -> None:
    card = model_card(job({"north": after(), "south": after(claim_epsilon=3.0, delta=1e-6)}))
    assert card.count("changes by at most a factor e^1.235") == 2
    assert "north: epsilon 10 at delta 1e-05; south: epsilon 3 at delta 1e-06." in card
    assert "present or absent (add/remove)" in card and "exchanged" not in card
    assert "unprotected" not in card


def test_a_job_that_its_own_results_ended_claims_all_that_it_had_planned() -> None:
    assert "a factor e^2.000" in model_card(job({"north": after()}, early=True))


def test_the_relation_is_told_in_words() -> None:
    card = model_card(job({"north": after(relation="replace")}))
    assert "differ by one such unit, exchanged for another" in card
    assert "Whether any one record of silo north is what it is or exchanged for any other" in card
    assert "took part" not in card


def test_unprotected_releases_are_excluded_by_name_and_number() -> None:
    card = model_card(job({"north": after(unprotected=3), "south": after()}))
    assert "**The guarantee excludes unprotected releases: 3 at north.**" in card


def test_exact_metrics_are_left_out_of_what_the_sentences_hold_for() -> None:
    def told(**evaluation: Any) -> str:
        return model_card(job({"north": after(unprotected=1)}, evaluation=evaluation))

    whole = "the model, every released update and every released metric of this job, whatever else"
    assert whole in told(release="dp") and whole in told(release="none")
    exact = told(release="exact")
    assert "every released metric" not in exact
    assert (
        "the model and every released update of this job, but not its metrics, whatever else"
        in exact
    )
    ended = told(release="exact", every=1, patience=2)
    assert "but not its metrics, nor the round in which they ended it, whatever else" in ended


def test_without_privacy_the_card_promises_nothing() -> None:
    card = model_card(
        job(
            {"north": after(unprotected=5)},
            privacy={"none": True},
            evaluation={"release": "none"},
        )
    )
    assert "None. This model was trained without differential privacy" in card
    assert "changes by at most" not in card and "epsilon" not in card


def test_a_metric_that_noise_hides_is_said_to_be_hidden() -> None:
    told = {"accuracy": 0.8, "log_loss": None, "auc": None, "intervals": {"accuracy": [0.7, 0.9]}}
    lines = _metrics(told | {"silos": {"north": told | {"accuracy": None}}})
    assert "| | accuracy | log_loss | auc |" in lines
    assert "| all silos | 0.800 (0.700 to 0.900) | not resolvable | not resolvable |" in lines
    assert "| north | not resolvable | not resolvable | not resolvable |" in lines
    nothing = {"accuracy": None, "log_loss": None, "intervals": {}, "silos": {}}
    assert "| all silos | not resolvable | not resolvable |" in _metrics(nothing)


def test_intervals_are_explained_only_where_there_are_some() -> None:
    assert not any("Intervals" in line for line in _metrics({"accuracy": 0.8, "silos": {}}))
    assert _metrics({}) == ["", "No metric was released."]


def test_plots_are_drawn_of_what_there_is_also_where_a_metric_is_hidden(tmp_path: Path) -> None:
    assert draw(tmp_path, [], {}) == {}
    own = {"accuracy": None, "log_loss": 0.5, "auc": 0.7, "intervals": {"log_loss": [0.4, 0.6]}}
    curve = [{"round": n, **own, "silos": {"north": own, "south": own}} for n in (1, 2)]
    plots = draw(tmp_path, curve, {"north": after()})
    assert {"budget", "curve"} <= set(plots)
    for name in plots.values():
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_report_tells_what_the_ledgers_hold(home: Home) -> None:
    result = run(home, privacy={"noise_multiplier": 30.0})
    report = Path(result["report"]).read_text()
    card = Path(result["model"]).with_name("card.md").read_text()
    for silo, line in result["silos"].items():
        ledger = open_ledger(home, silo)
        try:
            account = ledger.account("breast-cancer", Unit.RECORD)
            receipt = list(ledger.entries())[-1]
        finally:
            ledger.close()
        told = re.search(rf"^\| {silo} \| one record \| (.*) \|$", report, re.MULTILINE)
        assert told is not None
        spent, delta, left, used = (cell.strip() for cell in told.group(1).split("|"))
        assert float(spent) == pytest.approx(line["epsilon"], abs=6e-4)
        assert float(delta) == account.delta
        assert float(left) == pytest.approx(account.remaining_epsilon, abs=6e-3)
        assert float(used.rstrip("%")) == pytest.approx(100 * account.used, abs=0.06)
        assert f"| {silo} | {receipt.seq} |" in report
        assert f"any one record of silo {silo} took part" in card
    assert result["job_id"] in report and result["job_id"] in card

"""`tacit budget open`, `set` and `agree`, as the persons at a silo type them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from federation.home import Home
from federation.init import init_example
from infra.cli.app import app
from privacy.ledger.choices import TYPICAL
from secure.keys import SigningKey

TERMS = ("--epsilon", 4, "--delta", 1e-6)
ACCOUNT = "silo-1/breast-cancer/record"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two silos; ada and bob are enrolled at the first, with keys beside the home."""
    home = init_example(tmp_path_factory.mktemp("raised") / "fed", "breast-cancer", silos=2)
    approvers = {}
    for name in ("ada", "bob"):
        key = SigningKey.generate()
        key.save(home.root / f"{name}.key")
        approvers[name] = key.public
    path = home.silo("silo-1").config
    said = yaml.safe_load(path.read_text())
    said["policy"] |= {"approvers": approvers}
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    return home


def typed(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["budget", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def told(*words: object, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(typed(*words, "--json", code=code).stdout)
    return document


def test_one_proposes_everybody_sees_it_and_another_agrees(home: Home) -> None:
    where = ("--home", home.root)
    ada, bob = (("--key", home.root / f"{name}.key") for name in ("ada", "bob"))
    raise_it = ("set", ACCOUNT, "--epsilon", 12, "--reason", "board, 3 March", *where)

    assert told(*raise_it, code=3)["error"]["code"] == "FED-003"
    proposed = told(*raise_it, *ada)
    (said,) = proposed["proposed"]
    assert {k: said[k] for k in ("account", "was", "epsilon", "reason", "by")} == {
        "account": ACCOUNT,
        "was": 10.0,
        "epsilon": 12.0,
        "reason": "board, 3 March",
        "by": "ada",
    }
    assert proposed["accounts"][0]["capacity"]["epsilon"] == 10.0

    assert told("agree", ACCOUNT, *where) == proposed  # only looks
    assert told("show", *where)["proposed"] == [said]
    text = " ".join(typed("show", *where).stdout.split())
    assert f"Proposed by ada, nothing changed yet: {ACCOUNT} to allow 12 instead of 10" in text
    assert f"tacit budget agree {ACCOUNT} --key FILE" in text

    assert told("agree", ACCOUNT, *where, *ada, code=2)["error"]["field"] == "key"
    agreed = told("agree", ACCOUNT, *where, *bob)
    assert agreed["proposed"] == [] and agreed["accounts"][0]["capacity"]["epsilon"] == 12.0
    assert told("show", *where)["proposed"] == []
    assert told("agree", ACCOUNT, *where, *bob, code=2)["error"]["code"] == "FED-002"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("set", "silo-1", "--epsilon", 3, "--reason", "r"), "account"),
        (("set", "silo-9/breast-cancer/record", "--epsilon", 3, "--reason", "r"), "silo"),
        (("set", "silo-1/heart/record", "--epsilon", 3, "--reason", "r"), "account"),
        (("set", ACCOUNT, "--epsilon", 0, "--reason", "r"), "epsilon"),
        (("set", ACCOUNT, "--epsilon", "nan", "--reason", "r"), "epsilon"),
        (("set", ACCOUNT, "--epsilon", 3, "--reason", " "), "reason"),
        (("set", ACCOUNT, "--epsilon", 13, "--reason", "r" * 1001, "--key", "ada.key"), "reason"),
        (("agree", "silo-1/heart/record"), "account"),
        (("open", "silo-1/heart/record", *TERMS), "account"),
        (("open", "silo-1/breast-cancer/subject", *TERMS), "account"),
        (("open", "silo-1/breast-cancer/rows", *TERMS), "unit"),
        (("open", ACCOUNT, "--epsilon", 4, "--delta", 0.01), "delta"),
        (("open", ACCOUNT, "--epsilon", 0, "--delta", 1e-6), "epsilon"),
        (("open", ACCOUNT, *TERMS, "--filter", "odometer"), "filter"),
        (("open", ACCOUNT, *TERMS, "--relation", "swap"), "relation"),
        (("open", ACCOUNT, *TERMS, "--delta0", 1e-6), "delta0"),
        (("open", ACCOUNT, *TERMS), "account"),  # there, with other terms
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    home: Home, words: tuple[object, ...], field: str
) -> None:
    given = [home.root / "ada.key" if word == "ada.key" else word for word in words]
    before = told("show", "--home", home.root)
    error = told(*given, "--home", home.root, code=2)["error"]
    assert error["field"] == field
    assert told("show", "--home", home.root) == before


def test_an_account_is_opened_on_other_terms_once_its_filters_were_compared(home: Home) -> None:
    path = home.silo("silo-2").config
    said = yaml.safe_load(path.read_text())
    said["sources"] = {"sums": said["sources"]["breast-cancer"]}
    said["accounts"] = [line | {"source": "sums"} for line in said["accounts"]]
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    asked = ("open", "silo-2/sums/record", *TERMS, "--home", home.root)

    looked = told(*asked, "--look")
    assert looked["accounts"] == [] and set(looked["admits"]) == set(TYPICAL)
    opened = told(*asked, "--filter", "gdp", "--relation", "replace")
    (line,) = opened["accounts"]
    assert (line["filter"], line["relation"]) == ("gdp", "replace")
    assert line["capacity"] == {"epsilon": 4.0, "delta": 1e-6}
    again = told(*asked, "--filter", "gdp", "--relation", "replace")
    assert again == opened
    assert told(*asked, code=2)["error"]["code"] == "LEDGER-003"
    # What docs/ledger.md shows is what comes.
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")
    _, _, shown = page.partition(" --look --home fed\n")
    shown, _, _ = shown.partition("$ tacit")
    assert len(shown) > 500
    assert " ".join(shown.split()) in " ".join(typed(*asked, "--look").stdout.split())

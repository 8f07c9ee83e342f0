"""The page itself, run by Streamlit's own test harness on real homes."""

import re

from dashboard import strings


def texts(page):
    return "\n".join(str(x.value) for kind in ("text", "caption", "info") for x in page.get(kind))


def cards(page):
    return {metric.label: metric.value for metric in page.metric}


def test_a_healthy_home_says_so_in_one_line(house, show):
    house.silo("north")
    house.job("north", "job-1", 2.4)
    house.mirror().close()
    page = show(house.root)
    assert [box.value for box in page.success] == [f"**✓ healthy.** {strings.HEADLINE['healthy']}"]
    assert cards(page) == {
        strings.MOST_USED: "24.0%",
        strings.JOBS_LEFT: "3",
        strings.VERIFIED: "1 of 1",
        strings.UNPROTECTED: "0",
    }
    chain = page.dataframe[0].value.iloc[0]
    assert chain["ledger"] == "✓ verifies" and chain["vouched to"] == "5 by coordinator"
    assert "Recomputed from the first entry on, at 20" in texts(page)
    assert strings.ON_THIS_MACHINE in texts(page)


def test_all_four_silos_are_shown_and_the_worst_leads(full, show):
    page = show(full.root)
    assert strings.HEADLINE["exhausted"] in page.error[0].value
    assert cards(page)[strings.VERIFIED] == "4 of 4"
    assert cards(page)[strings.UNPROTECTED] == "1"
    accounts = page.dataframe[1].value
    assert list(accounts["silo"]) == ["east", "north", "south", "west", "west"]
    assert strings.SOME_UNPROTECTED in texts(page)
    assert [box.value for box in page.warning] == [strings.OUTSIDE.format(number=1)]


def test_choosing_an_account_shows_its_spends(full, show):
    page = show(full.root)
    box = page.selectbox[0]
    assert "north/heart/record" in box.options
    page = box.select("north/heart/record").run()
    spends = page.dataframe[2].value
    assert list(spends["job"]) == ["job-2", "job-1"]
    assert not page.exception


def test_a_tampered_ledger_is_shown_as_not_verified(full, show, forge):
    forge(full.home.silo("north").ledger, "UPDATE entries SET job = 'other' WHERE seq = 3")
    page = show(full.root)
    assert cards(page)[strings.VERIFIED] == "3 of 4"
    chains = page.dataframe[0].value.set_index("silo")
    assert chains.loc["north", "ledger"] == "✕ does not verify"
    assert "entry 3" in chains.loc["north", "finding"]
    accounts = page.dataframe[1].value.set_index("silo")
    assert accounts.loc["north", "status"] == "? no data"
    assert "ledger of north: entry 3" in texts(page)


def test_a_ledger_tampered_while_the_page_is_open_is_found(house, show, forge):
    house.silo("north")
    house.job("north", "job-1", 2.5)
    house.close()
    page = show(house.root)
    assert cards(page)[strings.VERIFIED] == "1 of 1"
    forge(house.home.silo("north").ledger, "UPDATE charges SET expires = 'never'")
    page = page.run()
    assert cards(page)[strings.VERIFIED] == "0 of 1"


def test_verify_again_checks_anew(house, show):
    house.silo("north")
    page = show(house.root)
    before = re.search(r"at (\S+ \S+) UTC\.", texts(page)).group(1)
    page.button[0].click().run()
    assert not page.exception
    after = re.search(r"at (\S+ \S+) UTC\.", texts(page)).group(1)
    assert after >= before and cards(page)[strings.VERIFIED] == "1 of 1"


def test_text_from_a_ledger_never_reaches_markdown(house, show):
    hostile = "**bold** <img src=x onerror=alert(1)> [a](http://b) :red[c] $x$"
    house.silo("north")
    house.ledgers["north"].mark_breached(["heart/record"], hostile)
    page = show(house.root)
    assert hostile in texts(page)
    assert hostile in page.dataframe[1].value["note"].iloc[0]
    for kind in ("markdown", "caption", "success", "info", "warning", "error", "metric", "title"):
        assert not any("bold" in str(element) for element in page.get(kind)), kind


def test_a_home_that_has_spent_nothing_says_what_to_do_next(house, show):
    house.silo("north")
    page = show(house.root)
    assert page.code[0].value == strings.NEXT_JOB
    assert cards(page)[strings.MOST_USED] == "0.0%"
    assert strings.NOBODY_VOUCHES in texts(page)


def test_an_empty_place_says_how_to_begin(tmp_path, show):
    page = show(tmp_path)
    assert strings.EMPTY in texts(page)
    assert page.code[0].value == strings.EMPTY_COMMAND
    assert not page.metric


def test_a_federation_whose_silos_are_elsewhere_says_so(house, show):
    house.federate()
    page = show(house.root)
    assert strings.NO_SILO in texts(page) and not page.metric


def test_unreadable_public_facts_are_told_and_nothing_is_guessed(house, show):
    house.silo("north")
    house.home.federation_file.write_text("name: [")
    page = show(house.root)
    assert page.error[0].value == strings.BROKEN_HOME and not page.metric

"""The check of the chains: in a process of its own, kept for the state it was made on."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dashboard import checker, queries, statuses
from dashboard.checker import Check, Checker
from dashboard.verification import Chain, Finding, check
from federation.books import verification as books_verification

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def test_every_ledger_verifies_and_the_coordinator_vouches(full):
    finding = check(full.home)
    assert finding.mirror == ""
    assert all(chain.ok for chain in finding.chains)
    assert {(c.vouched_to == c.entries, c.vouched_by) for c in finding.chains} == {
        (True, "coordinator")
    }


def test_it_agrees_with_the_command_line(full, forge):
    forge(full.home.silo("north").ledger, "UPDATE entries SET job = 'other' WHERE seq = 3")
    ours = {c.silo: (c.ok, c.entries, c.vouched_to) for c in check(full.home).chains}
    theirs = books_verification(full.home, None)
    assert ours == {
        line["silo"]: (line["ok"], line["entries"], line["vouched_to"])
        for line in theirs["ledgers"]
    }
    bad = next(c for c in check(full.home).chains if not c.ok)
    assert theirs["first_bad"] == {"silo": bad.silo, "seq": bad.bad, "reason": bad.reason}
    assert bad.bad == 3


def test_without_a_mirror_nobody_vouches(house):
    house.silo("north")
    (chain,) = check(house.home).chains
    assert (chain.ok, chain.vouched_to, chain.vouched_by) == (True, 0, "")


def test_a_mirror_that_does_not_hold_vouches_for_nobody(full, forge):
    forge(full.home.mirror, "UPDATE receipts SET signature = 'ab' WHERE seq = 1")
    finding = check(full.home)
    assert finding.mirror
    assert [c.vouched_to for c in finding.chains] == [0, 0, 0, 0]


def test_the_process_prints_one_document_that_reads_back(full):
    full.home.silo("east").ledger.write_bytes(b"x" * 4096)
    done = subprocess.run(
        [sys.executable, "-m", "dashboard.verification", str(full.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    finding = Finding.read(done.stdout)
    assert finding == check(full.home)
    assert [c.silo for c in finding.chains if not c.ok] == ["east"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chains": [{}], "mirror": ""}'])
def test_what_is_no_finding_is_refused(text):
    with pytest.raises(ValueError):
        Finding.read(text)


class Fake:
    """The process a checker starts, replaced by one whose end the test decides."""

    def __init__(self, root, seconds=0.0, code=0, said=None):
        said = json.dumps(Finding(()).document()) if said is None else said
        script = (
            f"import sys, time; open({str(root / 'runs')!r}, 'a').write('x'); "
            f"time.sleep({seconds}); print({said!r}); sys.exit({code})"
        )
        self.root, self.now = root, NOW
        self.checker = Checker(root, now=lambda: self.now)
        self.checker._command = [sys.executable, "-S", "-c", script]

    @property
    def runs(self):
        path = self.root / "runs"
        return len(path.read_text()) if path.exists() else 0


def test_one_process_serves_everybody_until_something_changes(tmp_path):
    fake = Fake(tmp_path)
    first = fake.checker.latest("a", 20)
    assert first.finding == Finding(()) and first.at == NOW
    assert all(fake.checker.latest("a", 20) is first for _ in range(5))
    assert fake.runs == 1
    assert fake.checker.latest("b", 20).marks == "b"
    assert fake.runs == 2
    fake.now += checker.RENEW + timedelta(seconds=1)
    assert fake.checker.latest("b", 20).at == fake.now
    assert fake.checker.latest("b", 20, anew=True)
    assert fake.runs == 4


def test_a_page_does_not_wait_for_a_long_check(tmp_path):
    fake = Fake(tmp_path, seconds=1.0)
    begun = time.monotonic()
    assert fake.checker.latest("a", 0.05) is None
    assert fake.checker.latest("a", 0.05) is None
    assert time.monotonic() - begun < 0.9
    assert fake.checker.running
    assert fake.checker.latest("a", 20).marks == "a"
    assert fake.runs == 1 and not fake.checker.running


def test_a_process_that_fails_is_a_failure_and_no_verdict(tmp_path, house):
    house.silo("north")
    found = Fake(tmp_path, code=3, said="").checker.latest("a", 20)
    assert found.finding is None
    overview = queries.overview(house.home)
    (verdict,) = statuses.verdicts(overview, found, NOW)
    assert verdict.verified is None and "code 3" in verdict.finding
    assert statuses.judge(overview, [verdict])[0].status == "no data"


# What an account's status says about the check


@pytest.fixture
def shown(house):
    house.silo("north")
    house.job("north", "job-1", 1.0)
    return queries.overview(house.home)


def chain(**changes):
    return replace(Chain("north", True, 5, None, "", 5, "coordinator"), **changes)


def status(overview, found, now=NOW):
    made = Check(NOW, "a", Finding((found,))) if found else None
    return statuses.judge(overview, statuses.verdicts(overview, made, now))[0].status


def test_only_a_checked_account_is_healthy(shown):
    touched = shown.accounts[0].touched
    assert status(shown, chain()) == "healthy"
    assert status(shown, None) == "no data"
    assert status(shown, chain(entries=touched)) == "healthy"
    assert status(shown, chain(entries=touched - 1)) == "no data"
    assert status(shown, chain(ok=False, bad=2, reason="changed")) == "no data"
    assert status(shown, chain(), NOW + checker.STALE) == "healthy"
    assert status(shown, chain(), NOW + checker.STALE + timedelta(seconds=1)) == "no data"


def test_a_broken_chain_stays_broken_however_old_the_check_is(shown):
    made = Check(NOW, "a", Finding((chain(ok=False, bad=2, reason="changed"),)))
    (verdict,) = statuses.verdicts(shown, made, NOW + 10 * checker.STALE)
    assert verdict.verified is False
    assert (verdict.position, verdict.finding) == (1, "entry 2: changed")


def test_the_worst_wins(house):
    house.silo("north", units=("record", "subject"))
    house.silo("east")
    house.job("north", "job-1", 8.5)
    overview = queries.overview(house.home)
    good = Check(NOW, "a", check(house.home))
    judged = statuses.judge(overview, statuses.verdicts(overview, good, NOW))
    assert {line.account.name: line.status for line in judged} == {
        "east/heart/record": "healthy",
        "north/heart/record": "at risk",
        "north/heart/subject": "at risk",
    }
    assert statuses.whole(judged, overview) == "at risk"
    house.ledgers["north"].mark_breached(["heart/subject"], "a copy was restored")
    overview = queries.overview(house.home)
    broken = Check(NOW, "a", Finding((chain(ok=False, bad=1),)))
    judged = statuses.judge(overview, statuses.verdicts(overview, broken, NOW))
    assert [line.status for line in judged] == ["no data", "no data", "breached"]
    assert statuses.whole(judged, overview) == "breached"


def test_the_order_of_statuses():
    order = list(statuses.WORST_FIRST)
    assert order == ["breached", "exhausted", "no data", "at risk", "healthy"]
    assert [statuses.worst(order[i:]) for i in range(5)] == order
    assert statuses.worst([]) == "no data"


def test_what_needs_attention_is_named_worst_first(full, forge):
    forge(full.home.silo("north").ledger, "UPDATE entries SET job = 'other' WHERE seq = 3")
    overview = queries.overview(full.home)
    made = Check(NOW, "a", check(full.home))
    found = statuses.verdicts(overview, made, NOW)
    lines = statuses.attention(statuses.judge(overview, found), found, overview)
    assert [word for word, _ in lines] == ["exhausted", "no data", "no data", "at risk"]
    assert any("north" in about and "entry 3" in about for _, about in lines)

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests_jobs_here import spec

from federation.documents import parse
from federation.errors import BadInput, PolicyRefused
from federation.hours import Hours
from federation.policy import Current, Policy, check, check_hours, check_units, protections


@pytest.mark.parametrize(
    ("policy", "asked", "field"),
    [
        (Policy(), {"kind": "audit"}, "kind"),
        (Policy(), {"opens": ["no_privacy"]}, "privacy.none"),
        (Policy(), {"opens": ["exact_evaluation"]}, "evaluation.release"),
        (Policy(no_privacy=True), {"opens": ["exact_evaluation"]}, "evaluation.release"),
        (Policy(exact_evaluation=True), {"opens": ["no_privacy"]}, "privacy.none"),
        (Policy(datasets=("lungs",)), {}, "dataset"),
        (Policy(protections=("public",)), {}, "policy.protections"),
        (Policy(), {"leaving": {"masked"}}, "policy.protections"),
        (Policy(), {"leaving": {"unprotected"}}, "policy.protections"),
        (Policy(no_privacy=True), {"opens": ["unencrypted_inference"]}, "mode"),
        (Policy(model_packages=("ours",)), {"packages": ["theirs"]}, "model.name"),
    ],
)
def test_what_is_not_allowed_is_refused(
    policy: Policy, asked: dict[str, object], field: str
) -> None:
    job = {"kind": "train", "dataset": "heart", "leaving": {"dp"}} | asked
    with pytest.raises(PolicyRefused, match="silo north") as caught:
        check(policy, silo="north", **job)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (Policy(datasets=("heart",)), {}),
        (Policy(protections=("dp", "masked")), {"leaving": {"dp", "masked"}}),
        (Policy(no_privacy=True), {"opens": ["no_privacy"], "leaving": {"dp", "unprotected"}}),
        (
            Policy(protections=("dp", "unprotected")),
            {"opens": ["no_privacy", "exact_evaluation"], "leaving": {"unprotected"}},
        ),
    ],
)
def test_what_is_allowed_passes(policy: Policy, asked: dict[str, object]) -> None:
    job = {"kind": "train", "dataset": "heart", "leaving": {"dp"}} | asked
    check(policy, silo="north", **job)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "leaving"),
    [
        ({}, {"dp"}),
        ({"aggregation": {"name": "masked"}}, {"dp"}),
        ({"aggregation": {"name": "ckks"}}, {"dp", "encrypted"}),
        ({"evaluation": {"release": "exact"}}, {"dp", "unprotected"}),
    ],
)
def test_a_train_job_says_as_what_its_releases_leave(
    changes: dict[str, object], leaving: set[str]
) -> None:
    assert spec(**changes).leaving == leaving


def test_a_kind_of_job_that_is_not_installed_is_bad_input() -> None:
    assert parse({"kinds": ["train", "infer"]}, Policy, "policy").kinds == ("train", "infer")
    for wrong in (["training"], ["train", "base"], ["train", ""]):
        with pytest.raises(BadInput, match="is no kind of job; allowed: infer, train") as caught:
            parse({"kinds": wrong}, Policy, "policy")
        assert (caught.value.field, caught.value.value) == ("kinds", wrong[-1])
        assert caught.value.allowed == ["infer", "train"]


def test_a_refused_kind_says_what_its_owner_can_do() -> None:
    with pytest.raises(PolicyRefused, match=r"not 'infer'; its owner can name it in policy\.kinds"):
        check(Policy(), silo="north", kind="infer", dataset="heart", leaving=set())


def test_a_job_on_fewer_declared_units_is_refused() -> None:
    policy = Policy(minimum_units=500)
    check_units(policy, silo="north", units=500)
    with pytest.raises(PolicyRefused, match="at least 500 declared units") as caught:
        check_units(policy, silo="north", units=499)
    assert (caught.value.value, caught.value.exit_code) == (499, 3)


def test_a_job_outside_the_hours_is_told_when_they_begin() -> None:
    policy = Policy(hours=Hours(zone="Europe/Berlin", open=("mon-fri 20:00-06:00",)))
    friday = datetime(2026, 11, 27, 19, 0, tzinfo=UTC)  # 20:00
    check_hours(policy, silo="north", now=friday)
    check_hours(Policy(), silo="north", now=friday - timedelta(hours=8))
    with pytest.raises(PolicyRefused, match=r"next from 2026-11-30 20:00") as caught:
        check_hours(policy, silo="north", now=friday + timedelta(hours=12))
    assert caught.value.field == "policy.hours" and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"approval_above": 1.0}, "approvers"),
        ({"approval_above": 1.0, "approvers": {}}, "approvers"),
        ({"approval_above": -1.0, "approvers": {"ada": "a" * 64}}, "approval_above"),
        ({"approvers": {"ada": "a" * 64, "bob": "a" * 64}}, "same key"),
        ({"approvers": {"ada": "short"}}, "approvers"),
        ({"approvers": {"Ada Lovelace": "a" * 64}}, "approvers"),
        ({"protections": ["dp", "hashed"]}, "protections"),
        ({"datasets": []}, "datasets"),
        ({"minimum_units": 0}, "minimum_units"),
        ({"approval_days": 0}, "approval_days"),
    ],
)
def test_a_policy_that_contradicts_itself_is_bad_input(said: dict[str, object], field: str) -> None:
    with pytest.raises(BadInput, match=field):
        parse(said, Policy, "policy")


def test_settings_written_before_these_fields_existed_mean_what_they_meant() -> None:
    old = parse({"kinds": ["train"], "exact_evaluation": True, "no_privacy": False}, Policy, "old")
    closed = {"dp", "encrypted", "public"}
    assert protections(old, ()) == closed
    assert protections(old, ["exact_evaluation"]) == closed | {"unprotected"}
    assert old.hours is None and old.approval_above is None and old.minimum_units == 1


def test_unprotected_leaves_only_where_both_job_and_policy_say_so() -> None:
    for allow_none in (False, True):
        for allow_exact in (False, True):
            policy = Policy(no_privacy=allow_none, exact_evaluation=allow_exact)
            for asks_none in (False, True):
                for asks_exact in (False, True):
                    asked = {"no_privacy": asks_none, "exact_evaluation": asks_exact}
                    through = protections(policy, [name for name, asks in asked.items() if asks])
                    opened = (allow_none and asks_none) or (allow_exact and asks_exact)
                    assert ("unprotected" in through) == opened
                    assert {"dp", "public"} <= through


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_text("no_privacy: true "),  # as long as what was there
        lambda path: path.chmod(0o644),
        lambda path: (
            path.with_name("new").write_text("exact: true") and path.with_name("new").replace(path)
        ),
        lambda path: path.unlink(),
    ],
    ids=["written", "mode", "replaced", "removed"],
)
def test_a_policy_is_read_again_once_its_file_was_touched(
    tmp_path: Path, touch: Callable[[Path], object]
) -> None:
    path, read = tmp_path / "silo.yaml", []
    path.write_text("no_privacy: false")

    def policy() -> Policy:
        read.append(len(read))
        return Policy(no_privacy=len(read) == 1)

    current = Current(path, policy)
    assert current.now().no_privacy and current.now().no_privacy and read == [0]
    touch(path)
    assert not current.now().no_privacy and read == [0, 1]

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from federation.errors import PolicyRefused
from federation.policy import Current, Policy, check, protections


@pytest.mark.parametrize(
    ("policy", "asked", "field"),
    [
        (Policy(), {"kind": "audit"}, "kind"),
        (Policy(), {"no_privacy": True}, "privacy.none"),
        (Policy(), {"exact_evaluation": True}, "evaluation.release"),
        (Policy(no_privacy=True), {"exact_evaluation": True}, "evaluation.release"),
        (Policy(exact_evaluation=True), {"no_privacy": True}, "privacy.none"),
    ],
)
def test_what_is_not_allowed_is_refused(
    policy: Policy, asked: dict[str, object], field: str
) -> None:
    job = {"kind": "train", "no_privacy": False, "exact_evaluation": False} | asked
    with pytest.raises(PolicyRefused) as caught:
        check(policy, silo="north", **job)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.exit_code == 3


def test_unprotected_leaves_only_where_both_job_and_policy_say_so() -> None:
    for allow_none in (False, True):
        for allow_exact in (False, True):
            policy = Policy(no_privacy=allow_none, exact_evaluation=allow_exact)
            for asks_none in (False, True):
                for asks_exact in (False, True):
                    through = protections(policy, no_privacy=asks_none, exact_evaluation=asks_exact)
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

"""What a silo lets jobs do with its data, beside what its ledger lets them spend.

    >>> policy = Policy()
    >>> check(policy, silo="north", kind="train", dataset="heart", leaving={"dp"})
    >>> sorted(protections(policy, opens=()))
    ['dp', 'encrypted', 'public']

The defaults allow what is priced and nothing else. What a policy opens as `unprotected` is logged
as such, and the account, the receipts and the model card say that the guarantee excludes it.

Every refusal is made of public facts: the policy's own words, the job's spec, declared numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from federation.errors import BadInput, PolicyRefused
from federation.hours import Hours
from federation.limits import Count, Within
from federation.spec import Block, Name, PublicKey


@dataclass(frozen=True)
class _Opening:
    """One thing that leaves without a guarantee, and what its refusal says."""

    what: str
    instead: str
    field: str
    value: object
    allowed: object


_OPENINGS = {
    "no_privacy": _Opening(
        "training without privacy",
        "ask for an epsilon",
        "privacy.none",
        True,
        "an epsilon or a noise_multiplier",
    ),
    "exact_evaluation": _Opening(
        "exact evaluation",
        "ask for release: dp",
        "evaluation.release",
        "exact",
        ["dp", "none"],
    ),
    "unencrypted_inference": _Opening(
        "inference without encryption",
        "ask for mode: ckks",
        "mode",
        "plain or equivariant",
        ["ckks"],
    ),
}
"""By the field of `Policy` that opens it."""

Protection = Literal["dp", "masked", "encrypted", "public", "unprotected"]


class Policy(Block):
    """One silo's rules. `kinds` are the kinds of job that may run here, on `datasets` (None: all).

    `protections` are those under which something may leave. `unprotected` among them opens all of
    what follows, which open one thing each: `exact_evaluation` lets exact counts on the test part
    leave, `no_privacy` lets a job train without differential privacy, `unencrypted_inference` lets
    rows go to another silo that predicts them, as they are or sealed. `model_packages` names the
    installed distributions whose models (entry points of group `tacit.models`) may run on this
    silo's rows. `queries` is how many rows of each other silo the models here predict, over all
    jobs: who may ask often enough rebuilds a model from its answers.

    A job has at least `minimum_units` declared units over all its silos, and begins within `hours`;
    one that has begun goes on after them. One whose epsilon here is greater than `approval_above`
    (0: every job, None: no job) needs the signature of one of the `approvers`, who are persons by
    name and public key; it holds for `approval_days`. An account's capacity is raised by two of
    them; `raised_by` 1 leaves it to whoever holds the ledger, and its entry shows that.
    """

    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = ("train",)
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    protections: Annotated[tuple[Protection, ...], Field(min_length=1)] = (
        "dp",
        "encrypted",
        "public",
    )
    exact_evaluation: bool = False
    no_privacy: bool = False
    unencrypted_inference: bool = False
    queries: Count = 100_000
    model_packages: tuple[str, ...] = ()
    minimum_units: Count = 1
    hours: Hours | None = None
    approval_above: Annotated[float, Within(0, 1000)] | None = None
    approvers: dict[Name, PublicKey] = Field(default_factory=dict)
    approval_days: Annotated[int, Within(1, 365)] = 7
    raised_by: Literal[1, 2] = 2

    @field_validator("kinds")
    @classmethod
    def _installed(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        from federation import jobs  # which reads settings, and they hold a policy

        unknown = sorted(set(kinds) - set(jobs.kinds()))
        if unknown:
            raise BadInput(
                f"{unknown[0]!r} is no kind of job; allowed: {', '.join(jobs.kinds())}",
                value=unknown[0],
                allowed=jobs.kinds(),
            )
        return kinds

    @model_validator(mode="after")
    def _somebody_can_approve(self) -> Self:
        if self.approval_above is not None and not self.approvers:
            raise ValueError("approval_above needs approvers: names, each with a public key")
        if len(set(self.approvers.values())) < len(self.approvers):
            raise ValueError("two approvers have the same key; each makes their own")
        return self


class Current:
    """A silo's policy as it stands now: `read` is asked again once the file at `path` changed."""

    def __init__(self, path: Path, read: Callable[[], Policy]) -> None:
        self._path = path
        self._read = read
        self._known: tuple[tuple[int, ...], Policy] | None = None

    def now(self) -> Policy:
        """The policy; raises what `read` raises."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._read()  # which says what is missing
        seen = (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if self._known is None or self._known[0] != seen:
            self._known = seen, self._read()
        return self._known[1]


def check(
    policy: Policy,
    *,
    silo: str,
    kind: str,
    dataset: str,
    leaving: Collection[str],
    opens: Collection[str] = (),
    packages: Sequence[str] = (),
) -> None:
    """Raise `PolicyRefused` where the silo's policy does not allow what the job asks.

    `leaving`: the protections under which its releases would leave; `opens`: the fields of a
    policy that have to be true for it.
    """
    if kind not in policy.kinds:
        raise PolicyRefused(
            f"silo {silo}: its policy allows jobs of kind {', '.join(policy.kinds)}, not {kind!r}; "
            "its owner can name it in policy.kinds",
            field="kind",
            value=kind,
            allowed=list(policy.kinds),
        )
    if policy.datasets is not None and dataset not in policy.datasets:
        raise PolicyRefused(
            f"silo {silo}: its policy allows jobs on data set {', '.join(policy.datasets)}, not on "
            f"{dataset!r}",
            field="dataset",
            value=dataset,
            allowed=list(policy.datasets),
        )
    for package in packages:
        if package not in policy.model_packages:
            raise PolicyRefused(
                f"silo {silo}: its policy allows no model of package {package!r}; its owner can "
                "name it in policy.model_packages",
                field="model.name",
                value=package,
                allowed=list(policy.model_packages),
            )
    for name in sorted(opens):
        if not _open(policy, name):
            said = _OPENINGS[name]
            raise PolicyRefused(
                f"silo {silo}: its policy does not allow {said.what}; {said.instead}, or let its "
                f"owner set policy.{name}",
                field=said.field,
                value=said.value,
                allowed=said.allowed,
            )
    through = protections(policy, opens)
    closed = sorted(set(leaving) - through)
    if closed:
        raise PolicyRefused(
            f"silo {silo}: its policy lets nothing leave under protection {closed[0]!r}, as the "
            "job would; its owner can name it in policy.protections",
            field="policy.protections",
            value=closed[0],
            allowed=sorted(through),
        )


def check_units(policy: Policy, *, silo: str, units: int) -> None:
    """Refuse a job on fewer declared units, over all its silos, than the policy asks for."""
    if units < policy.minimum_units:
        raise PolicyRefused(
            f"silo {silo}: its policy asks for at least {policy.minimum_units} declared units over "
            f"all silos of a job; this one has {units}",
            field="policy.minimum_units",
            value=units,
            allowed=f">= {policy.minimum_units}",
        )


def check_hours(policy: Policy, *, silo: str, now: datetime) -> None:
    """Refuse a job that would begin outside the policy's hours."""
    if policy.hours is not None and not policy.hours.contains(now):
        opens = policy.hours.opens(now)
        raise PolicyRefused(
            f"silo {silo}: jobs begin here only {', '.join(policy.hours.open)} "
            f"({policy.hours.zone}); next from {opens:%Y-%m-%d %H:%M}",
            field="policy.hours",
            value=now.isoformat(timespec="minutes"),
            allowed=list(policy.hours.open),
        )


def protections(policy: Policy, opens: Collection[str]) -> frozenset[str]:
    """The protections that the gate lets through for one job, by what it asked and may have."""
    opened = any(_open(policy, name) for name in opens)
    priced = set(policy.protections) - {"unprotected"}
    return frozenset(priced | ({"unprotected"} if opened else set()))


def _open(policy: Policy, name: str) -> bool:
    """Whether one kind of unprotected release is open: by its own field, or with all others."""
    return bool(getattr(policy, name)) or "unprotected" in policy.protections

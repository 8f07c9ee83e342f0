"""What a silo lets jobs do with its data, beside what its ledger lets them spend.

    >>> check(Policy(), silo="north", kind="train", no_privacy=False, exact_evaluation=False)
    >>> sorted(protections(Policy(), no_privacy=False, exact_evaluation=False))
    ['dp', 'encrypted', 'public']

The defaults allow what is priced and nothing else. What a policy opens beyond that leaves the
silo `unprotected`: it is logged as such, and the account, the receipts and the model card say
that the guarantee excludes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from federation.errors import PolicyRefused
from federation.spec import Block


class Policy(Block):
    """One silo's rules. `kinds` are the kinds of job that may run here.

    `exact_evaluation` lets exact counts on the test part leave; `no_privacy` lets a job train
    without differential privacy. `model_packages` names the installed distributions whose models
    (entry points of group `tacit.models`) may run on this silo's rows.
    """

    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = ("train",)
    exact_evaluation: bool = False
    no_privacy: bool = False
    model_packages: tuple[str, ...] = ()


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
    no_privacy: bool,
    exact_evaluation: bool,
    packages: Sequence[str] = (),
) -> None:
    """Raise `PolicyRefused` where the silo's policy does not allow what the job asks."""
    if kind not in policy.kinds:
        raise PolicyRefused(
            f"silo {silo}: its policy allows jobs of kind {', '.join(policy.kinds)}, not {kind!r}",
            field="kind",
            value=kind,
            allowed=list(policy.kinds),
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
    if no_privacy and not policy.no_privacy:
        raise PolicyRefused(
            f"silo {silo}: its policy does not allow training without privacy; ask for an epsilon, "
            "or let its owner set policy.no_privacy",
            field="privacy.none",
            value=True,
            allowed="an epsilon or a noise_multiplier",
        )
    if exact_evaluation and not policy.exact_evaluation:
        raise PolicyRefused(
            f"silo {silo}: its policy does not allow exact evaluation; ask for release: dp, or let "
            "its owner set policy.exact_evaluation",
            field="evaluation.release",
            value="exact",
            allowed=["dp", "none"],
        )


def protections(policy: Policy, *, no_privacy: bool, exact_evaluation: bool) -> frozenset[str]:
    """The protections that the gate lets through for one job, by what it asked and may have."""
    opened = (no_privacy and policy.no_privacy) or (exact_evaluation and policy.exact_evaluation)
    return frozenset({"dp", "encrypted", "public"} | ({"unprotected"} if opened else set()))

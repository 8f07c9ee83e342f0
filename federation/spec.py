"""Job specs: what a person asks for, in one YAML document.

Every kind of job adds its own fields to `JobSpec` in its module of `federation.jobs`; the blocks
that several kinds share stand here. A spec holds public facts only and is safe to show, sign and
hash. `digest` is what approvals and charges are bound to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, model_validator

from federation.limits import (
    Clip,
    Count,
    Delta,
    Epsilon,
    NoiseMultiplier,
    Rounds,
    Seed,
    Share,
    Within,
    refuse_other_kinds,
)
from privacy.events import Unit

if TYPE_CHECKING:
    from federation.schema import Dataset

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""Names go into paths and subjects: lower case letters, digits, dot, dash, underscore."""

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 public key in hexadecimal."""


class Block(BaseModel):
    """A part of a spec: frozen, no unknown field, no NaN or infinity.

    A number is a number: neither a truth value nor a text is taken for one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_their_kinds(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name, field in cls.model_fields.items():
                if name in data:
                    refuse_other_kinds(name, data[name], field.annotation)
        return data


class PrivacySpec(Block):
    """The guarantee asked for: exactly one of `epsilon`, `noise_multiplier`, `none`.

    `epsilon` is the price of the whole job, evaluation included, at the account's delta, for one
    `unit`. `fit: account` calibrates the noise so that the account's filter, not the tight
    accountant, prices the job at epsilon. `clip` bounds the L2 norm of one unit's gradient.
    """

    unit: Unit = Unit.RECORD
    epsilon: Epsilon | None = None
    delta: Delta | None = None
    noise_multiplier: NoiseMultiplier | None = None
    none: Literal[True] | None = None
    clip: Clip = 1.0
    fit: Literal["account"] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [f for f in ("epsilon", "noise_multiplier", "none") if getattr(self, f) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of epsilon, noise_multiplier, none; "
                f"here: {', '.join(given) or 'none of them'}"
            )
        if self.fit is not None and self.epsilon is None:
            raise ValueError("fit: account needs an epsilon to fit to")
        return self


_WHO_SEES = {
    "plain": "The coordinator saw every silo's update as it was released.",
    "masked": (
        "The coordinator learned the weighted mean of the silos' updates and no silo's own, unless "
        "a third of the silos or more told it theirs (pairwise masks). The mean itself may tell of "
        "one silo; the masks change no epsilon."
    ),
    "ckks": (
        "The coordinator learned the weighted mean of the silos' updates and no silo's own, "
        "provided that it was honest but curious and worked together with no silo: the silos hold "
        "the key of the encryption (CKKS, 128 bits), and one of them with the coordinator can read "
        "every update. The mean itself may tell of one silo; the encryption changes no epsilon."
    ),
}


_DISTRIBUTED = (
    "The coordinator learned sums of the silos' clipped gradients and no silo's own (pairwise "
    "masks), and the noise was in the sums alone: every silo added a share of it. The epsilon "
    "holds while at most {colluding} of the silos tell anybody what they added, and the others "
    "add what they say; if all others told, a silo's rows would have its own share alone, whose "
    "epsilon stands in the quote."
)


class AggregationSpec(Block):
    """How the coordinator combines what the silos release.

    `plain`: the coordinator sees every silo's release. `masked` and `ckks`: it learns their
    weighted mean and no silo's own (`guarantee` says against whom); a change of a parameter in one
    round is clipped to +-`range`.
    `noise: distributed`, with `masked`: the noise is in the sum alone, every silo adds a share of
    it, and the price holds while at most `colluding` silos (1) tell others what they added.
    `rule` is `mean`, or one that up to `faulty` hostile silos cannot steer (`federation.robust`);
    those give every silo one voice, whatever its size, and see every release.
    """

    name: Literal["plain", "masked", "ckks"] = "plain"
    rule: Literal["mean", "median", "trimmed_mean", "krum", "flag"] = "mean"
    faulty: Annotated[int, Within(1, 10**6)] | None = None
    range: Annotated[float, Within(1e-6, 1e6)] | None = None
    noise: Literal["own", "distributed"] = "own"
    colluding: Annotated[int, Within(1, 62)] | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.distributed and self.name != "masked":
            raise ValueError(f"distributed noise is in a masked sum alone; here: {self.name}")
        if self.distributed and self.range is not None:
            raise ValueError("range cuts updates, and what has its share of noise is never cut")
        if self.colluding is not None and not self.distributed:
            raise ValueError(f"colluding belongs to distributed noise; here: {self.noise}")
        if self.hidden and self.rule != "mean":
            raise ValueError(
                f"{self.name} sums show no single update, which {self.rule} has to see"
            )
        if self.range is not None and not self.hidden:
            raise ValueError(f"range belongs to masked and ckks; here: {self.name}")
        return self

    @model_validator(mode="after")
    def _faulty_where_it_counts(self) -> Self:
        if (self.faulty is not None) != (self.rule in ("trimmed_mean", "krum")):
            raise ValueError(
                "faulty, the number of silos that may be hostile, belongs to trimmed_mean and "
                f"krum, which need it; here: {self.rule}"
            )
        return self

    @property
    def hidden(self) -> bool:
        """Whether the coordinator learns the sum of updates only."""
        return self.name != "plain"

    @property
    def distributed(self) -> bool:
        """Whether the noise is in the sum alone."""
        return self.noise == "distributed"

    @property
    def colluders(self) -> int:
        """How many silos may tell what they added; one that sees a sum knows its own noise."""
        return self.colluding or 1

    @property
    def guarantee(self) -> str:
        """Who sees single updates, and what rests on that, in words for reports and cards."""
        if self.distributed:
            return _DISTRIBUTED.format(colluding=self.colluders)
        return _WHO_SEES[self.name]

    @property
    def least_silos(self) -> int:
        """The fewest silos among which the rule means anything."""
        faulty = self.faulty or 0
        if self.hidden:
            return 3
        return {"mean": 1, "trimmed_mean": 2 * faulty + 1, "krum": 2 * faulty + 3}.get(self.rule, 3)


class EvaluationSpec(Block):
    """What is measured on the held-out part, and how it leaves the silos.

    `dp`: one noisy histogram of binned scores by label, priced; `share` is the part of the job's
    privacy (in Gaussian terms, of 1 / noise^2) that it takes, `bins` how finely scores are told
    apart (every bin has its own noise, so few under noise and more without). `exact`: the counts
    themselves, only where the silo's policy allows, logged as unprotected. `every` rounds, else
    once at the end; `patience` evaluations without a lower released log loss stop the job, those
    not counted whose log loss the noise hides.
    """

    split: Literal["test"] = "test"
    release: Literal["dp", "exact", "none"] = "dp"
    bins: Annotated[int, Field(ge=2, le=200, multiple_of=2)] | None = None
    share: Share = 0.2
    every: Rounds | None = None
    patience: Rounds | None = None

    @property
    def columns(self) -> int:
        """The bins of the histogram: as asked, else 4 under noise and 100 without."""
        return self.bins or (4 if self.release == "dp" else 100)

    @model_validator(mode="after")
    def _patience_needs_every(self) -> Self:
        if self.patience is not None and (self.every is None or self.release == "none"):
            raise ValueError("patience needs every: N and a release, or there is nothing to see")
        return self


class JobSpec(Block):
    """What every job says, whatever its kind. The job's id is the name, a day and a mark.

    A silo that is silent for `deadline` seconds while it is waited for, or stops with a fault, is
    gone; the job goes on while at least `quorum` silos are there, by default all of them.
    """

    kind: str
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,44}$")]
    dataset: Annotated[str, Field(max_length=100)]
    seed: Seed = 42
    quorum: Count | None = None
    deadline: Annotated[float, Within(1, 604_800)] = 3600.0

    @property
    def no_privacy(self) -> bool:
        """Whether the job releases something of its rows without noise."""
        return False

    @property
    def exact_evaluation(self) -> bool:
        """Whether the job releases exact counts of its test rows."""
        return False

    @property
    def unencrypted_inference(self) -> bool:
        """Whether rows go to another silo, to be predicted there, without encryption."""
        return False

    @property
    def opens(self) -> frozenset[str]:
        """The fields of a silo's policy that have to be true for the job."""
        asked = ("no_privacy", "exact_evaluation", "unencrypted_inference")
        return frozenset(name for name in asked if getattr(self, name))

    @property
    def silos(self) -> frozenset[str] | None:
        """The silos that take part; None: all that hold rows of the data set."""
        return None

    def role(self, silo: str) -> str:
        """What a silo does in the job."""
        return "trainer"

    def reads_rows(self, silo: str) -> bool:
        """Whether the job reads rows of a silo that takes part."""
        return True

    def check(self, jobs: Path, dataset: Dataset) -> None:
        """Refuse what the coordinator's own records of `jobs` show to be impossible."""

    @property
    def leaving(self) -> frozenset[str]:
        """The protections under which the job's releases leave a silo."""
        bare = self.no_privacy or self.exact_evaluation
        return frozenset({"dp", "unprotected"} if bare else {"dp"})

    @property
    def least_silos(self) -> int:
        """The fewest silos that the job can run with."""
        return 1

    def least_quorum(self, silos: int) -> int:
        """The fewest of so many silos with which the job can go on."""
        return self.least_silos

    @property
    def packages(self) -> tuple[str, ...]:
        """The installed distributions, beside Tacit, whose code the job runs at a silo."""
        return ()

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the spec, defaults filled in."""
        return digest(self.model_dump(mode="json"))


def canonical(document: Any) -> bytes:
    """Canonical JSON (RFC 8785) of plain data: what digests and signatures are made over."""
    return rfc8785.dumps(document)


def digest(document: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of plain data."""
    return hashlib.sha256(canonical(document)).hexdigest()

"""The spec of a train job and its blocks: plain data, checked before anything is priced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from federation.limits import Count, Decay, Fraction, Rate, Rounds, Within
from federation.spec import AggregationSpec, Block, EvaluationSpec, JobSpec, PrivacySpec
from privacy.events import Unit

if TYPE_CHECKING:
    from federation.settings import Sizes

Widths = Annotated[tuple[Annotated[int, Within(1, 16_384)], ...], Field(max_length=16)]


class ModelSpec(Block):
    """A model by name: logistic, mlp, cnn, or an entry point of an allow-listed package.

    `hidden` are the widths of an mlp's hidden layers, `channels` those of a cnn's convolutions,
    `activation` what stands between layers: `square` and `quadratic` (a x^2 + b x + c, learned) are
    computed exactly by encrypted inference.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    hidden: Widths = (64,)
    channels: Widths = (16, 32)
    activation: Literal["tanh", "relu", "square", "quadratic"] = "tanh"


class StrategySpec(Block):
    """How rounds and steps are made, and how the coordinator turns updates into a model.

    `local_steps` steps of `learning_rate` on Poisson batches of `batch_size` expected units make
    one round at a silo. `weighting` is by declared public sizes or uniform. `proximal` is FedProx'
    mu; `server_learning_rate`, `momentum`, `betas` and `tau` belong to the strategies on the
    server that name them. `average` is the last fraction of rounds whose models are averaged into
    the one that is evaluated and published; averages of released models cost nothing.
    """

    name: Literal["fedavg", "fedprox", "fedadam", "fedavgm"] = "fedavg"
    rounds: Rounds
    local_steps: Count = 1
    batch_size: Count
    learning_rate: Rate
    weighting: Literal["size", "uniform"] = "size"
    proximal: Rate | None = None
    server_learning_rate: Rate | None = None
    momentum: Decay | None = None
    betas: tuple[Decay, Decay] | None = None
    tau: Rate | None = None
    average: Fraction = 0.0

    @model_validator(mode="after")
    def _only_its_own(self) -> Self:
        own = {
            "fedavg": (),
            "fedprox": ("proximal",),
            "fedadam": ("server_learning_rate", "betas", "tau"),
            "fedavgm": ("server_learning_rate", "momentum"),
        }[self.name]
        options = ("proximal", "server_learning_rate", "momentum", "betas", "tau")
        for option in options:
            if option not in own and getattr(self, option) is not None:
                raise ValueError(
                    f"{option} does not belong to {self.name}, which takes: "
                    f"{', '.join(own) or 'no option of its own'}"
                )
        if self.name == "fedprox" and self.proximal is None:
            raise ValueError("fedprox needs proximal, its mu")
        return self


class Spec(JobSpec):
    """A train job."""

    kind: str = "train"
    model: ModelSpec
    strategy: StrategySpec
    privacy: PrivacySpec
    aggregation: AggregationSpec = AggregationSpec()
    evaluation: EvaluationSpec = EvaluationSpec()

    @property
    def no_privacy(self) -> bool:
        """Whether training runs without noise."""
        return self.privacy.none is not None

    @property
    def exact_evaluation(self) -> bool:
        """Whether exact counts of test rows leave."""
        return self.evaluation.release == "exact"

    @property
    def leaving(self) -> frozenset[str]:
        """Ciphertexts too, where the sum is made of them; masked where the noise rests on masks."""
        leaves = set(super().leaving)
        if self.aggregation.name == "ckks":
            leaves.add("encrypted")
        if self.aggregation.distributed:
            leaves.add("masked")
        return frozenset(leaves)

    def expected_batch(self, sizes: Sizes) -> float:
        """How many units a silo's step expects: as asked, or all that it declares."""
        units = sizes.units(self.privacy.unit)
        return min(1.0, self.strategy.batch_size / units) * units

    @property
    def least_silos(self) -> int:
        """What the aggregation needs."""
        return self.aggregation.least_silos

    def least_quorum(self, silos: int) -> int:
        """What the aggregation needs.

        A masked sum opens nothing for fewer than its threshold, an encrypted one is of all silos.
        """
        if self.aggregation.name == "ckks":
            return silos
        if self.aggregation.name != "masked":
            return self.least_silos
        from secure.aggregation.rounds import threshold

        return max(self.least_silos, threshold(silos))

    @property
    def packages(self) -> tuple[str, ...]:
        """The distribution of the model's entry point, where it is not one of ours."""
        from federation.models import package_of

        package = package_of(self.model.name)
        return () if package is None else (package,)

    @model_validator(mode="after")
    def _noise_needs_privacy(self) -> Self:
        if self.privacy.none and self.evaluation.release == "dp":
            raise ValueError(
                "privacy: none has no epsilon from which evaluation could take its share; "
                "give evaluation.release: exact or none"
            )
        return self

    @model_validator(mode="after")
    def _noise_in_the_sum(self) -> Self:
        if not self.aggregation.distributed:
            return self
        from secure.aggregation.rounds import MOST, threshold

        strategy, colluding = self.strategy, self.aggregation.colluders
        rules = (
            (strategy.local_steps == 1, "strategy.local_steps: 1, so that one sum is released"),
            (strategy.weighting == "uniform", "strategy.weighting: uniform, one voice a unit"),
            (self.privacy.unit is Unit.RECORD, "privacy.unit: record"),
            (
                self.privacy.noise_multiplier is not None,
                "privacy.noise_multiplier, which all silos have to share; the quote prices it",
            ),
            (self.quorum is not None, "quorum, the least number of silos in a sum"),
        )
        for holds, asked in rules:
            if not holds:
                raise ValueError(f"distributed noise needs {asked}")
        # With so many hostile silos a list of survivors could find signatures twice.
        silos = range(min(self.quorum or MOST, MOST), MOST + 1)
        most = min(2 * threshold(n) - n - 1 for n in silos)
        if colluding > most:
            raise ValueError(
                f"aggregation.colluding: the masks of a sum of {self.quorum} silos or more hold "
                f"against at most {most} that collude; here: {colluding}"
            )
        return self

    @property
    def evaluations(self) -> int:
        """How many times the job evaluates, if it is not stopped early."""
        if self.evaluation.release == "none":
            return 0
        if self.evaluation.every is None:
            return 1
        return -(-self.strategy.rounds // self.evaluation.every)

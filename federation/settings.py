"""Settings: `federation.yaml` holds the public facts, each `silo.yaml` its silo's private ones.

Public: who takes part, by which key, on which schemas, and how large each silo says its parts
are. Private: where the rows are, what the accounts allow, the policy. The models are frozen and
refuse unknown fields; `federation.home` finds and loads the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from federation.errors import BadInput, NotFound
from federation.limits import Count, CountOrNone, Decay, Delta, Epsilon, Within
from federation.policy import Policy
from federation.schema import Dataset, named
from federation.separate import refuse_shared_rows
from federation.spec import Block, Name, digest
from federation.spec import PublicKey as PublicKey
from privacy.events import Relation, Unit


class Sizes(Block):
    """Public sizes of one silo's parts, typed by its owner; round numbers are fine.

    Sampling rates, denominators and weights are computed from these and never from the rows,
    which is what keeps the true count inside the guarantee. `subjects` counts the training part.
    All are 0 at a silo without rows, which can have the roles that read none.
    """

    train: CountOrNone
    test: CountOrNone
    subjects: CountOrNone | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        said = [n for n in (self.train, self.test, self.subjects) if n is not None]
        if any(said) and not all(said):
            raise ValueError("all sizes are at least 1, or all are 0 for a silo without rows")
        return self

    @property
    def rows(self) -> bool:
        """Whether there are any."""
        return self.train > 0

    def units(self, unit: Unit) -> int:
        """How many units of the training part are declared; `BadInput` where none are."""
        if unit is Unit.SILO:
            return 1
        if unit is Unit.RECORD:
            return self.train
        if self.subjects is None:
            raise BadInput(
                "privacy.unit: no number of subjects is declared for this data set; "
                "it has no subject column",
                field="privacy.unit",
                value=unit.value,
                allowed=[Unit.RECORD.value],
            )
        return self.subjects


class SiloFacts(Block):
    """What everybody knows of a silo: its key and the sizes it declares per data set."""

    public_key: PublicKey
    sizes: dict[Name, Sizes]


class Federation(Block):
    """The public facts that coordinator and silos agree on; silos may still have to be admitted.

    `max_silos_per_subject` is the most silos one subject can be in; None means all of them.
    """

    name: Name
    coordinator: PublicKey
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    silos: dict[Name, SiloFacts]
    max_silos_per_subject: Count | None = None

    @field_validator("datasets", mode="before")
    @classmethod
    def _named(cls, datasets: Any) -> Any:
        return named(datasets)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, dataset in self.datasets.items():
            if dataset.name != name:
                raise ValueError(f"data set {name!r} calls itself {dataset.name!r}")
        if "coordinator" in self.silos:
            raise ValueError("no silo can be called 'coordinator'; that is the coordinator's name")
        for silo, facts in self.silos.items():
            for name, sizes in facts.sizes.items():
                if name not in self.datasets:
                    raise ValueError(
                        f"silo {silo!r} declares sizes of an unknown data set {name!r}"
                    )
                if self.datasets[name].subject is not None and sizes.subjects is None:
                    raise ValueError(
                        f"silo {silo!r} declares no number of subjects for {name!r}, "
                        "which has a subject column"
                    )
        keys = [self.coordinator, *(facts.public_key for facts in self.silos.values())]
        if len(set(keys)) < len(keys):
            raise ValueError("two parties have the same public key; each makes its own")
        if self.max_silos_per_subject is not None and self.max_silos_per_subject > len(self.silos):
            raise ValueError(
                f"max_silos_per_subject exceeds the number of silos, {len(self.silos)}"
            )
        return self

    def dataset(self, name: str) -> Dataset:
        """The schema of this name, or `NotFound`."""
        if name not in self.datasets:
            raise NotFound(
                f"no data set {name!r} in this federation; known: {', '.join(self.datasets)}",
                field="dataset",
                value=name,
                allowed=sorted(self.datasets),
            )
        return self.datasets[name]

    def silos_with(self, dataset: str) -> tuple[str, ...]:
        """The silos that hold rows of a data set, in the order of their names."""
        sizes = {name: facts.sizes.get(dataset) for name, facts in self.silos.items()}
        return tuple(sorted(name for name, of in sizes.items() if of is not None and of.rows))

    def silos_of(self, dataset: str) -> tuple[str, ...]:
        """The silos that take part in jobs on a data set, with rows or without."""
        return tuple(sorted(n for n, facts in self.silos.items() if dataset in facts.sizes))

    def digest(self) -> str:
        """SHA-256 of the public facts; schemas enter by their own digests, order included."""
        facts = self.model_dump(mode="json", exclude={"datasets"})
        return digest({**facts, "datasets": {n: d.digest() for n, d in self.datasets.items()}})


class _Source(Block):
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]


class CsvSource(_Source):
    """A text table with a header line; `test` is the file of the test part, if separate."""

    kind: Literal["csv"] = "csv"
    path: Path
    test: Path | None = None
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","


class ParquetSource(_Source):
    """A Parquet file."""

    kind: Literal["parquet"] = "parquet"
    path: Path
    test: Path | None = None


class SqlSource(_Source):
    """A table or a query of any database that SQLAlchemy reaches; read only, never shown."""

    kind: Literal["sql"] = "sql"
    url: SecretStr
    table: str | None = None
    query: str | None = None
    test_table: str | None = None
    test_query: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give exactly one of table and query")
        if self.test_table is not None and self.test_query is not None:
            raise ValueError("give at most one of test_table and test_query")
        return self


class NpzSource(_Source):
    """A NumPy archive of equally long arrays, one per column; an image is [rows, height, width]."""

    kind: Literal["npz"] = "npz"
    path: Path
    test: Path | None = None


class IdxSource(_Source):
    """A pair of IDX files as MNIST has them, gzip or not, giving columns `image` and `label`."""

    kind: Literal["idx"] = "idx"
    images: Path
    labels: Path
    test_images: Path | None = None
    test_labels: Path | None = None

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.test_images is None) != (self.test_labels is None):
            raise ValueError("test_images and test_labels come together")
        return self


class NoSource(_Source):
    """No rows: this silo takes part with a model, or as a node, and declares sizes of 0."""

    kind: Literal["none"] = "none"


SourceConfig = Annotated[
    CsvSource | ParquetSource | SqlSource | NpzSource | IdxSource | NoSource,
    Field(discriminator="kind"),
]


class AccountConfig(Block):
    """The terms of one account, as its owner wants them opened.

    The ledger holds the terms that count; changing a capacity later is an entry there
    (`tacit budget set`), not an edit here.
    """

    source: Name
    unit: Unit = Unit.RECORD
    relation: Relation = Relation.ADD_REMOVE
    filter: str = "renyi"
    epsilon: Epsilon
    delta: Delta
    delta0: Decay = 0.0


class ProcessIsolation(Block):
    """A session is a child process with limits; a limit that is not named is not set.

    `user`: who the silo and its sessions run as, where it is started by root. Its network is that
    of the machine.
    """

    kind: Literal["process"] = "process"
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    memory_mib: Annotated[int, Within(512, 10**7)] | None = None
    cpu_seconds: Count | None = None
    open_files: Annotated[int, Within(64, 10**6)] | None = None


class DockerIsolation(Block):
    """A session is a container of an image that is named by its digest.

    `network` is one made for this, on which the exchange, and a database where the silo uses one,
    is all there is. `user`: UID:GID of the owner of the silo's directory, else the silo's own.
    """

    kind: Literal["docker"]
    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./:_-]{0,200}@sha256:[0-9a-f]{64}$")]
    network: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")]
    memory_mib: Annotated[int, Within(512, 10**7)]
    cpus: Annotated[float, Within(0.1, 1024)]
    processes: Annotated[int, Within(16, 100_000)] = 256
    user: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}:[1-9][0-9]{0,9}$")] | None = None

    @field_validator("network")
    @classmethod
    def _made_for_this(cls, network: str) -> str:
        if network in ("host", "bridge", "default", "none"):
            raise ValueError(f"{network!r} is no network of its own; make one that is internal")
        return network


class SiloConfig(Block):
    """One silo's private settings. Relative paths are meant from the file that says them."""

    name: Name
    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)]
    accounts: Annotated[tuple[AccountConfig, ...], Field(min_length=1)]
    policy: Policy = Policy()
    isolation: Annotated[ProcessIsolation | DockerIsolation, Field(discriminator="kind")] = (
        ProcessIsolation()
    )
    ledger: SecretStr = SecretStr("ledger.db")
    key: Path = Path("key")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        served: dict[str, str] = {}
        for source, config in self.sources.items():
            for dataset in config.datasets:
                if dataset in served:
                    raise ValueError(
                        f"sources {served[dataset]!r} and {source!r} both serve {dataset!r}"
                    )
                served[dataset] = source
        refuse_shared_rows(self.sources)
        seen: set[tuple[str, Unit]] = set()
        for account in self.accounts:
            if account.source not in self.sources:
                raise ValueError(f"an account belongs to an unknown source {account.source!r}")
            if (account.source, account.unit) in seen:
                raise ValueError(f"two accounts of {account.source!r} in unit {account.unit.value}")
            seen.add((account.source, account.unit))
        without = sorted(set(self.sources) - {account.source for account in self.accounts})
        if without:
            raise ValueError(f"source {without[0]!r} has no account; nothing could run on it")
        return self

    def source_of(self, dataset: str) -> str:
        """The name of the source that serves a data set here, or `NotFound`."""
        for name, source in self.sources.items():
            if dataset in source.datasets:
                return name
        raise NotFound(
            f"silo {self.name}: none of its sources serves data set {dataset!r}",
            field="dataset",
            value=dataset,
            allowed=sorted(d for s in self.sources.values() for d in s.datasets),
        )

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL; a plain path is an SQLite file."""
        said = self.ledger.get_secret_value()
        return said if "://" in said else f"sqlite:///{said}"

    def anchored(self, directory: Path) -> SiloConfig:
        """The same settings with every relative path made absolute from `directory`.

        Raises `BadInput` where two sources turn out to be the same rows on this disk.
        """

        def absolute(path: Path) -> Path:
            try:
                return (directory / path.expanduser()).absolute()
            except RuntimeError:
                raise BadInput(
                    f"{path}: nobody's home is known by this name", field="path", value=str(path)
                ) from None

        sources = {
            name: source.model_copy(
                update={
                    field: absolute(value) for field, value in source if isinstance(value, Path)
                }
            )
            for name, source in self.sources.items()
        }
        refuse_shared_rows(sources, on_disk=True)
        ledger = self.ledger.get_secret_value()
        if "://" not in ledger:
            ledger = str(absolute(Path(ledger)))
        return self.model_copy(
            update={
                "sources": sources,
                "key": absolute(self.key),
                "ledger": SecretStr(ledger),
            }
        )

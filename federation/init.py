"""Make a directory the home of a working federation: keys, settings, ledgers, membership.

`init_example` builds one from public example data, `init_dataset` from a person's own schema and
sources; `plan_silo` and `settle` make a silo on a host of its own, for a federation that is there.
Everything is checked before the first file is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.documents import parse, read_yaml
from federation.errors import BadInput
from federation.home import Home
from federation.membership import Membership
from federation.opening import check_delta
from federation.policy import Policy
from federation.schema import Dataset, FileSplit
from federation.separate import refuse_shared_rows
from federation.settings import (
    AccountConfig,
    Federation,
    NoSource,
    SiloConfig,
    Sizes,
    SourceConfig,
)
from federation.sources.locator import FORMS, locate
from federation.templates import federation_text, silo_text
from privacy.events import Unit
from privacy.ledger.durable import write_durably
from secure.keys import SigningKey, verify


@dataclass(frozen=True)
class _Founder:
    """A silo to be: its source, its declared sizes, and rows to write for an example."""

    source: SourceConfig
    sizes: Sizes


def init_example(
    directory: Path, example: str, *, silos: int = 4, epsilon: float = 10.0, delta: float = 1e-5
) -> Home:
    """Make a federation from example data, with this many silos of unequal size and labels.

    Raises `BadInput` for an unknown example or a directory already in use, `Missing` where
    scikit-learn is not installed.
    """
    from federation.examples import example as find
    from federation.examples.cut import cut, parts_of, round_size
    from federation.examples.write import write_rows

    home = _vacant(directory)
    module = find(example)
    columns, labels = module.rows()
    if not 1 <= silos <= 64:
        raise BadInput(f"silos: {silos} is not between 1 and 64", field="silos", value=silos)
    schema = {"name": example, **module.SCHEMA}
    dataset = parse(schema, Dataset, example)
    parts = cut(labels, silos)
    digits = len(str(silos))
    founders: dict[str, _Founder] = {}
    for number, rows in enumerate(parts, start=1):
        name = f"silo-{number:0{digits}d}"
        part = parts_of(len(rows))
        test = int((part == "test").sum())
        sizes = Sizes(train=round_size(len(rows) - test), test=round_size(test))
        source = locate(f"rows.{module.FORM}", example, Path())
        founders[name] = _Founder(source, sizes)
    accounts = _accounts(dataset, founders, epsilon, delta)
    for (name, founder), rows in zip(founders.items(), parts, strict=True):
        place = home.silo(name).directory
        place.mkdir(parents=True, mode=0o700)
        chosen = {column: values[rows] for column, values in columns.items()}
        write_rows(place, founder.source, chosen | {"part": parts_of(len(rows))})
    _found(home, dataset, schema, founders, accounts, Policy(kinds=("train", "infer")))
    return home


def init_dataset(
    directory: Path,
    schema: Path,
    sources: Mapping[str, str],
    sizes: Mapping[str, str],
    *,
    epsilon: float = 10.0,
    delta: float = 1e-5,
    apart: bool = False,
) -> Home:
    """Make a federation from a schema file and each silo's source.

    `sources` maps silo names to sources in one word (`federation.sources.locator`), `sizes` to
    TRAIN/TEST, or TRAIN/TEST/SUBJECTS where the schema has a subject column: public numbers that
    each owner types, never counted from the rows; a silo without rows needs none. Reads the names
    of columns, but no row. There may be no silo where they come later, from hosts of their own
    (`apart`).
    """
    home = _vacant(directory)
    document = read_yaml(schema)
    dataset = parse(document, Dataset, str(schema))
    if not sources and not apart:
        raise BadInput(
            "silo: no silo is named; give --silo NAME=SOURCE, or --exchange HOST:PORT where silos "
            "join from hosts of their own",
            field="silo",
            allowed=FORMS,
        )
    _refuse_stray(sizes, sources, "silos")
    founders = {
        name: _founder(name, text, sizes.get(name), dataset)
        for name, text in sorted(sources.items())
    }
    sources_of = {name: founder.source for name, founder in founders.items()}
    refuse_shared_rows(sources_of, on_disk=True, holder="silo")
    accounts = _accounts(dataset, founders, epsilon, delta)
    _found(home, dataset, document, founders, accounts)
    return home


def plan_silo(
    federation: Federation,
    name: str,
    sources: Mapping[str, str],
    sizes: Mapping[str, str],
    *,
    epsilon: float = 10.0,
    delta: float = 1e-5,
) -> tuple[SiloConfig, dict[str, Sizes]]:
    """Check what a silo says of itself, and return its settings and declared sizes.

    `sources` and `sizes` are as in `init_dataset`, by the names of data sets. Nothing is written.
    """
    if not sources:
        raise BadInput(
            "source: give --source DATASET=SOURCE, or DATASET=none where this silo has no rows",
            field="source",
            allowed=FORMS,
        )
    datasets = {called: federation.dataset(called) for called in sources}
    _refuse_stray(sizes, sources, "data sets with a source")
    founders: dict[str, _Founder] = {}
    accounts: list[AccountConfig] = []
    for called, dataset in datasets.items():
        founders[called] = _founder(called, sources[called], sizes.get(called), dataset)
        accounts += _accounts(dataset, {name: founders[called]}, epsilon, delta)
    said = {
        "name": name,
        "sources": {called: founder.source for called, founder in founders.items()},
        "accounts": tuple(accounts),
        "policy": _first_policy(founders.values()),
    }
    config = parse(said, SiloConfig, f"silo {name}")
    refuse_shared_rows(config.sources, on_disk=True)
    return config, {called: founder.sizes for called, founder in founders.items()}


def settle(home: Home, config: SiloConfig, key: SigningKey) -> None:
    """Write a silo's settings and key, and open its ledger with its accounts."""
    home.silo(config.name).directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(home.silo(config.name).config, silo_text(config).encode())
    key.save(home.silo(config.name).key)
    _open_ledger(home, config.name)


def declared_sizes(name: str, text: str | None, dataset: Dataset, source: SourceConfig) -> Sizes:
    """The sizes that the owner of a source declares: TRAIN/TEST, or TRAIN/TEST/SUBJECTS.

    `name` is what stands before the `=`. Raises `BadInput` where a source of rows declares none, or
    one without rows, whose sizes need not be said, declares some.
    """
    if isinstance(source, NoSource):
        none = Sizes(train=0, test=0, subjects=None if dataset.subject is None else 0)
        if text is not None and _read_sizes(name, text, dataset) != none:
            raise BadInput(
                f"size: {name}={text} declares rows, and its source is none",
                field="size",
                value=text,
                allowed="no size, for a silo without rows",
            )
        return none
    sizes = _read_sizes(name, text, dataset)
    if not sizes.rows:
        raise BadInput(
            f"size: {name}={text} declares no rows, and its source has some",
            field="size",
            value=text,
            allowed="numbers of at least 1, or source none",
        )
    return sizes


def _read_sizes(name: str, text: str | None, dataset: Dataset) -> Sizes:
    """The numbers of a text in the form that the data set asks for."""
    form = "TRAIN/TEST" if dataset.subject is None else "TRAIN/TEST/SUBJECTS"
    if text is None:
        raise BadInput(
            f"size: none is declared for {name!r}; its owner types public numbers, round ones are "
            f"fine: --size {name}={form}. They are not counted from the rows, because a count "
            "would tell of them",
            field="size",
            value=None,
            allowed=form,
        )
    numbers = text.split("/")
    if len(numbers) != form.count("/") + 1 or not all(
        n.isdecimal() and len(n) < 16 for n in numbers
    ):
        raise BadInput(
            f"size: {name}={text} is not of the form {form}, such as 200/100",
            field="size",
            value=text,
            allowed=form,
        )
    names = ("train", "test", "subjects")
    return parse(dict(zip(names, map(int, numbers), strict=False)), Sizes, f"size of {name}")


def _founder(name: str, text: str, size: str | None, dataset: Dataset) -> _Founder:
    """A silo's source of one data set, whose columns are there, and its sizes."""
    from federation.sources.table import check_columns

    source = locate(text, dataset.name, Path.cwd())
    if not isinstance(source, NoSource):
        check_columns(source, dataset.columns)
        if isinstance(dataset.split, FileSplit):
            check_columns(source, dataset.columns, separate_test=True)
    return _Founder(source, declared_sizes(name, size, dataset, source))


def _first_policy(founders: Iterable[_Founder]) -> Policy:
    """What a silo lets run until its owner says otherwise; without rows there is one thing."""
    return Policy() if any(f.sizes.rows for f in founders) else Policy(kinds=("infer",))


def _refuse_stray(sizes: Mapping[str, str], known: Mapping[str, str], what: str) -> None:
    stray = sorted(set(sizes) - set(known))
    if stray:
        raise BadInput(
            f"size: {stray[0]!r} is none of the {what}",
            field="size",
            value=stray[0],
            allowed=sorted(known),
        )


def _vacant(directory: Path) -> Home:
    home = Home(directory.expanduser().absolute())
    for path in (home.federation_file, home.coordinator, home.root / "silos"):
        if path.exists():
            raise BadInput(
                f"{home.root}: a federation lives here already ({path.name} is there)",
                field="directory",
                value=str(home.root),
                allowed="a new or empty directory",
            )
    return home


def _accounts(
    dataset: Dataset, founders: Mapping[str, _Founder], epsilon: float, delta: float
) -> tuple[AccountConfig, ...]:
    """The accounts of every silo's source: per record, and per subject where there are any."""
    from privacy.ledger import AccountTerms

    units = [Unit.RECORD] if dataset.subject is None else [Unit.RECORD, Unit.SUBJECT]
    for silo, founder in founders.items():
        for unit in units:
            check_delta(delta, unit, silo, founder.sizes)
    said = {"source": dataset.name, "epsilon": epsilon, "delta": delta}
    accounts = tuple(parse(said | {"unit": unit}, AccountConfig, "account") for unit in units)
    for account in accounts:
        AccountTerms(**dict(account))  # the ledger's own limits, before anything is written
    return accounts


def _found(
    home: Home,
    dataset: Dataset,
    schema: Mapping[str, Any],
    founders: Mapping[str, _Founder],
    accounts: tuple[AccountConfig, ...],
    policy: Policy | None = None,
) -> None:
    coordinator = SigningKey.generate()
    silo_keys = {name: SigningKey.generate() for name in founders}
    facts = {
        "name": dataset.name,
        "coordinator": coordinator.public,
        "datasets": {dataset.name: {k: v for k, v in schema.items() if k != "name"}},
        "silos": {
            name: {
                "public_key": silo_keys[name].public,
                "sizes": {dataset.name: founder.sizes.model_dump(exclude_none=True)},
            }
            for name, founder in founders.items()
        },
    }
    parse(facts, Federation, "federation.yaml")
    configs = {
        name: SiloConfig(
            name=name,
            sources={dataset.name: founder.source},
            accounts=accounts,
            policy=policy or _first_policy([founder]),
        )
        for name, founder in founders.items()
    }
    home.coordinator.mkdir(parents=True, mode=0o700)
    write_durably(home.federation_file, federation_text(facts).encode(), 0o644)
    coordinator.save(home.coordinator_key)
    for name, config in configs.items():
        settle(home, config, silo_keys[name])
        Membership.countersign(home, name)
    _open_mirror(home, {name: key.public for name, key in silo_keys.items()})


def _open_ledger(home: Home, silo: str) -> None:
    from privacy.ledger import AccountTerms, Ledger

    config = home.silo_config(silo)
    ledger = Ledger.create(
        config.ledger_url,
        silo=silo,
        head=home.silo(silo).head,
        signer=SigningKey.load(config.key),
        verify=verify,
    )
    try:
        for account in config.accounts:
            ledger.open_account(AccountTerms(**dict(account)))
    finally:
        ledger.close()


def _open_mirror(home: Home, keys: Mapping[str, str]) -> None:
    from privacy.ledger.mirror import Mirror

    Mirror.create(f"sqlite:///{home.mirror}", verify=verify, keys=keys).close()

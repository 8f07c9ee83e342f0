"""Sources in one word, as they are given on a command line.

    >>> locate("rows.csv", "heart", Path("/data")).path
    PosixPath('/data/rows.csv')

    FILE                        .csv, .tsv, .txt, cut as the header line is; .parquet, .pq; .npz
    FILE,TESTFILE               with a separate test part
    IMAGES+LABELS               a pair of IDX files; IMAGES+LABELS,TESTIMAGES+TESTLABELS
    URL#TABLE                   a table of any SQLAlchemy URL; URL#TABLE,TESTTABLE
    none                        no rows: a silo with a model, or a node

Anything else (a query, another delimiter than , ; | and tab) is written in `silo.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from federation.documents import parse
from federation.errors import BadInput
from federation.settings import (
    CsvSource,
    IdxSource,
    NoSource,
    NpzSource,
    ParquetSource,
    SourceConfig,
    SqlSource,
)
from federation.sources.csv import delimiter

FORMS = "FILE.csv, FILE.parquet, FILE.npz, IMAGES+LABELS (IDX), SQLALCHEMY-URL#TABLE or none"

_FILES: dict[str, type[CsvSource] | type[ParquetSource] | type[NpzSource]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".txt": CsvSource,
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
    ".npz": NpzSource,
}


def locate(text: str, dataset: str, directory: Path) -> SourceConfig:
    """Read a source given in one word; relative paths are meant from `directory`."""
    datasets = (dataset,)
    if text == "none":
        return NoSource(datasets=datasets)
    if "://" in text:
        url, mark, tables = text.rpartition("#")
        if not mark or not tables:
            raise BadInput(
                "source: a database needs its table: URL#TABLE",
                field="source",
                allowed="SQLALCHEMY-URL#TABLE",
            )
        table, _, test_table = tables.partition(",")
        said: dict[str, Any] = {"datasets": datasets, "url": url, "table": table}
        return parse(said | {"test_table": test_table or None}, SqlSource, "source")
    train, _, test = text.partition(",")
    if "+" in train:
        images, _, labels = train.partition("+")
        test_images, _, test_labels = test.partition("+")
        return IdxSource(
            datasets=datasets,
            images=directory / images,
            labels=directory / labels,
            test_images=directory / test_images if test_images else None,
            test_labels=directory / test_labels if test_labels else None,
        )
    return file_source(directory / train, dataset, directory / test if test else None)


def file_source(path: Path, dataset: str, test: Path | None = None) -> SourceConfig:
    """The source that a file is by its ending, or `BadInput`."""
    model = _FILES.get(path.suffix.lower())
    if model is None:
        raise BadInput(
            f"source {path}: no known kind of file; a source is {FORMS}",
            field="source",
            value=path.name,
            allowed=FORMS,
        )
    if model is CsvSource:
        cut = delimiter(path)
        return CsvSource(datasets=(dataset,), path=path, test=test, delimiter=cut)
    return model(datasets=(dataset,), path=path, test=test)

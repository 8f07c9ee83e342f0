"""`tacit source check`: what a silo's rows violate, told to its owner and to nobody else.

None of this ever fails a job: at run time every row is mapped by the declared rules. The counts
here are exact and unprotected, so they are printed where the rows are and never sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.home import Home
from federation.schema import Dataset, FileSplit
from federation.settings import SiloConfig, Sizes
from federation.sources.table import PARTS

TOLERANCE = 0.2
"""A declared size that is off by more than this share of the true count is worth a word."""


def check_silo(
    home: Home, silo: str, declared: Mapping[str, Sizes] | None = None
) -> dict[str, Any]:
    """Check every data set of a silo against its rows.

    `declared`: the sizes that it has asked to be known by, where they are others than those in
    `federation.yaml`. A silo that is not admitted yet and has none is checked without sizes.
    Returns `{silo, ok, datasets: {NAME: {rows, left_out, faults, notes, sizes, warnings}}}`,
    exact and private, without the data sets that the silo has no source of rows for. Raises what
    `load_part` raises for a source as a whole.
    """
    federation = home.federation()
    config = home.silo_config(silo)
    sizes: Mapping[str, Sizes | None]
    if declared is not None:
        sizes = declared
    elif silo in federation.silos:
        sizes = federation.silos[silo].sizes
    else:
        sizes = {name: None for source in config.sources.values() for name in source.datasets}
    datasets = {
        name: check_source(config, federation.dataset(name), said)
        for name, said in sizes.items()
        if (said is not None and said.rows) or config.sources[config.source_of(name)].kind != "none"
    }
    ok = not any(found["faults"] or found["warnings"] for found in datasets.values())
    return {"silo": silo, "ok": ok, "datasets": datasets}


def check_source(config: SiloConfig, dataset: Dataset, declared: Sizes | None) -> dict[str, Any]:
    """Check one data set of a silo: rows per rule bent, and declared sizes against true ones."""
    import numpy as np

    from federation.sources.rows import in_part, load_part, map_rows
    from federation.sources.table import read

    source = config.sources[config.source_of(dataset.name)]
    separate = [False, True] if isinstance(dataset.split, FileSplit) else [False]
    faults: dict[tuple[str, str], int] = {}
    notes: dict[str, int] = {}
    warnings: list[str] = []
    rows = left_out = inside = 0
    for test in separate:
        table = read(source, dataset.columns, separate_test=test)
        mapped = map_rows(dataset, table)
        rows += table.rows
        left_out += int((~mapped.keep).sum())
        train, held_out = (in_part(dataset, table, mapped, part) for part in PARTS)
        inside += int((mapped.keep & (train | held_out)).sum())
        _add(notes, "rows of neither part", int((~train & ~held_out).sum()))
        for rule, count in mapped.faults.items():
            faults[rule] = faults.get(rule, 0) + count
        for note, count in table.notes.items():
            _add(notes, note, count)
        warnings += table.warnings
    train_part, test_part = (load_part(config, dataset, part) for part in PARTS)
    if dataset.subject is not None:
        _add(
            notes,
            "rows beyond max_rows of their subject",
            inside - len(train_part) - len(test_part),
        )
    true = {"train": len(train_part), "test": len(test_part)}
    if train_part.subjects is not None:
        true["subjects"] = len(np.unique(train_part.subjects))
    sizes = {
        name: {"declared": getattr(declared, name, None), "true": n} for name, n in true.items()
    }
    counts = np.bincount(train_part.labels, minlength=dataset.n_classes)
    absent = [dataset.class_names[c] for c in np.flatnonzero(counts == 0)]
    return {
        "rows": rows,
        "left_out": left_out,
        "faults": [
            {"column": column, "rule": rule, "rows": count}
            for (column, rule), count in faults.items()
        ],
        "notes": notes,
        "sizes": sizes,
        "warnings": warnings + _warnings(sizes, absent),
    }


def check_text(document: dict[str, Any]) -> str:
    """The findings of `check_silo` in words."""
    lines = [f"Rows of silo {document['silo']}. For its owner only: these counts are exact."]
    if not document["datasets"]:
        lines.append("\nThis silo has no rows.")
    for name, found in document["datasets"].items():
        lines.append(f"\n{name}: {found['rows']} rows, {found['left_out']} left out by the rules")
        for part, size in found["sizes"].items():
            said = "none" if size["declared"] is None else size["declared"]
            lines.append(f"  {part}: {size['true']} ({said} declared)")
        lines += [f"  {f['column']}: {f['rows']} rows {f['rule']}" for f in found["faults"]]
        lines += [f"  {count} {note}" for note, count in found["notes"].items()]
        lines += [f"  warning: {warning}" for warning in found["warnings"]]
        if not found["faults"] and not found["warnings"]:
            lines.append("  every row keeps every rule")
    lines.append("\nNone of this fails a job: rows are mapped by the declared rules, one by one.")
    return "\n".join(lines)


def _add(notes: dict[str, int], note: str, count: int) -> None:
    if count:
        notes[note] = notes.get(note, 0) + count


def _warnings(sizes: dict[str, dict[str, int | None]], absent: list[str]) -> list[str]:
    said = []
    for name, size in sizes.items():
        declared, true = size["declared"], size["true"] or 0
        if declared is not None and abs(declared - true) > TOLERANCE * max(true, 1):
            said.append(
                f"{name}: {declared} declared, {true} true, more than {TOLERANCE:.0%} apart; the "
                "guarantee holds all the same, but batches are not of the size that was planned"
            )
    if absent:
        said.append(f"no row for training of class {', '.join(absent)}")
    return said

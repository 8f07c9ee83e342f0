from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn import datasets
from tests_tabular import FEATURES, HASH, write_csv

from federation.errors import BadInput, FederationError, Missing
from federation.examples.cut import cut, parts_of, round_size
from federation.home import Home
from federation.init import init_dataset, init_example
from federation.membership import Membership
from federation.sources.rows import load_part
from privacy.events import Relation, Unit
from privacy.ledger import Ledger
from secure.keys import SigningKey, verify

HEADER = ["age", "dose", "cp", "sex", "site", "num", "part", "patient"]
ROW = ["50", "0.5", "1", "f", "a", "0", "train", "p"]


def accounts(home: Home, silo: str) -> list[Any]:
    config = home.silo_config(silo)
    ledger = Ledger.open(
        config.ledger_url,
        silo=silo,
        head=home.silo(silo).head,
        signer=SigningKey.load(config.key),
        verify=verify,
    )
    try:
        return ledger.accounts()
    finally:
        ledger.close()


@pytest.mark.parametrize(("example", "silos"), [("breast-cancer", 4), ("digits", 3)])
def test_an_example_is_scikit_learns_data_cut_into_silos(
    tmp_path: Path, example: str, silos: int
) -> None:
    home = init_example(tmp_path / "fed", example, silos=silos)
    federation = home.federation()
    data = federation.dataset(example)
    Membership.load(home).check(home)
    labels, rows, sizes = [], [], []
    shares: Any = []
    for name in home.silo_names():
        for part in ("train", "test"):
            found = load_part(home.silo_config(name), data, part)
            declared = getattr(federation.silos[name].sizes[example], part)
            assert abs(declared - len(found)) <= 0.2 * len(found)
            assert declared % 5 == 0
            labels.append(found.labels)
            rows.append(found.features.reshape(len(found), -1))
            if part == "train":
                sizes.append(len(found))
                shares.append(np.bincount(found.labels, minlength=data.n_classes) / len(found))
    assert max(sizes) >= 3 * min(sizes)  # unequal
    shares = np.array(shares)
    assert (shares.max(axis=0) >= 2 * shares.min(axis=0)).all()  # skewed labels
    # All rows are there, each once, as scikit-learn has them.
    loaded: Any = getattr(datasets, f"load_{example.replace('-', '_')}")()
    expected = 1 - loaded.target if example == "breast-cancer" else loaded.target
    np.testing.assert_array_equal(np.sort(np.concatenate(labels)), np.sort(np.asarray(expected)))
    if example == "digits":
        pixels = np.concatenate(rows) * 16
        np.testing.assert_array_equal(np.sort(pixels.sum(axis=1)), np.sort(loaded.data.sum(axis=1)))


def test_declared_bounds_lose_little_of_the_example(tmp_path: Path) -> None:
    """Clamping to the declared bounds may touch the tails only: at most 5 % of any column."""
    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    part = load_part(
        home.silo_config("silo-1"), home.federation().dataset("breast-cancer"), "train"
    )
    at_bound = np.abs(part.features) == 1
    assert at_bound.mean(axis=0)[np.array([i not in (6, 7) for i in range(30)])].max() <= 0.05
    assert part.features.std(axis=0).min() > 0.15


def test_the_example_is_the_same_on_every_machine(tmp_path: Path) -> None:
    for name in ("a", "b"):
        init_example(tmp_path / name, "breast-cancer", silos=4)
    for silo in ("silo-1", "silo-4"):
        a, b = (tmp_path / n / "silos" / silo / "rows.csv" for n in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("silos", [1, 2, 7, 64])
def test_a_cut_gives_every_row_once(silos: int) -> None:
    labels = np.arange(569) % 2
    parts = cut(labels, silos)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(569))
    assert all("test" in parts_of(len(part)) for part in parts)
    assert all("train" in parts_of(len(part)) for part in parts)


@pytest.mark.parametrize(("rows", "size"), [(1, 5), (13, 15), (49, 50), (182, 180), (1024, 1020)])
def test_declared_sizes_are_round(rows: int, size: int) -> None:
    assert round_size(rows) == size


def test_accounts_are_opened_as_asked(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "digits", silos=2, epsilon=3.0, delta=1e-6)
    for name in home.silo_names():
        (account,) = accounts(home, name)
        assert account.id == "digits/record"
        assert (account.unit, account.relation) == (Unit.RECORD, Relation.ADD_REMOVE)
        assert (account.capacity_epsilon, account.delta) == (3.0, 1e-6)
        assert account.spent_epsilon == 0
    (account, *_) = home.silo_config("silo-1").accounts
    assert (account.epsilon, account.delta) == (3.0, 1e-6)


def test_private_files_are_private(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "digits", silos=2)
    for path in (home.coordinator_key, home.silo("silo-1").key, home.silo("silo-1").config):
        assert path.stat().st_mode & 0o077 == 0
    assert home.silo("silo-1").directory.stat().st_mode & 0o077 == 0


def test_many_silos_are_named_in_order(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "digits", silos=12)
    assert home.silo_names()[:2] == ("silo-01", "silo-02")
    assert len(home.silo_names()) == 12


def _schema(path: Path, **changes: Any) -> Path:
    schema = {
        "name": "study",
        "features": FEATURES,
        "label": {"column": "num", "positive_above": 0},
        "split": HASH,
    }
    path.write_text(yaml.safe_dump(schema | changes, sort_keys=False))
    return path


def test_a_federation_from_ones_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "a.csv", HEADER, [ROW] * 3)
    write_csv(tmp_path / "b.csv", HEADER, [ROW] * 2)
    monkeypatch.chdir(tmp_path)
    home = init_dataset(
        Path("fed"),
        _schema(tmp_path / "s.yaml"),
        {"south": "b.csv", "north": str(tmp_path / "a.csv")},
        {"south": "200/100", "north": "1000/500"},
    )
    monkeypatch.chdir("/")  # what was relative is found from anywhere
    federation = home.federation()
    assert federation.silos_with("study") == ("north", "south")
    assert federation.silos["north"].sizes["study"].train == 1000
    data = federation.dataset("study")
    total = sum(len(load_part(home.silo_config("north"), data, part)) for part in ("train", "test"))
    assert total == 3
    assert list(data.features) == list(FEATURES)  # the order of inputs is the order written
    assert [a.id for a in accounts(home, "south")] == ["study/record"]


def test_subjects_have_an_account_of_their_own(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", HEADER, [ROW])
    schema = _schema(tmp_path / "s.yaml", subject={"column": "patient", "max_rows": 4})
    sources = {"north": str(tmp_path / "a.csv")}
    with pytest.raises(BadInput, match="TRAIN/TEST/SUBJECTS"):
        init_dataset(tmp_path / "fed", schema, sources, {"north": "200/100"})
    home = init_dataset(tmp_path / "fed", schema, sources, {"north": "200/100/60"})
    assert [a.id for a in accounts(home, "north")] == ["study/record", "study/subject"]
    assert home.federation().silos["north"].sizes["study"].subjects == 60


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"sizes": {}}, "size", "never|not counted from the rows"),
    ({"sizes": {"north": "200"}}, "size", "TRAIN/TEST"),
    ({"sizes": {"north": "200/x"}}, "size", "TRAIN/TEST"),
    ({"sizes": {"north": f"200/{'1' * 5000}"}}, "size", "TRAIN/TEST"),
    ({"sizes": {"north": f"200/{10**9 + 1}"}}, "test", "less than or equal to 1000000000"),
    (
        {
            "sources": {"north": "a.csv", "south": "./a.csv"},
            "sizes": {"north": "200/100", "south": "200/100"},
        },
        "silos.south.path",
        "silo 'north' and path of silo 'south' are the same rows",
    ),
    ({"sources": {"north": "a.csv,a.csv"}}, "silos.north.test", "path and test of silo"),
    ({"sizes": {"north": "0/10"}}, "document", "all are 0 for a silo without rows"),
    ({"sizes": {"north": "0/0"}}, "size", "declares no rows, and its source has some"),
    ({"sources": {"north": "none"}}, "size", "declares rows, and its source is none"),
    ({"sizes": {"north": "200/100", "nrth": "1/1"}}, "size", "none of the silos"),
    ({"sources": {}, "sizes": {}}, "silo", "no silo"),
    ({"sources": {"north": "gone.csv"}}, "path", "no such file"),
    ({"sources": {"north": "s.yaml"}}, "source", "no known kind"),
    ({"sources": {"North": "a.csv"}, "sizes": {"North": "2/1"}}, "silos.North", "lower-case"),
    ({"epsilon": -1.0}, "epsilon", "greater than 0"),
    ({"epsilon": float("inf")}, "epsilon", "finite"),
    ({"delta": 0.0}, "delta", "greater than 0"),
    ({"delta": 0.005}, "delta", "1/200"),
]


@pytest.mark.parametrize(("changes", "field", "words"), BAD)
def test_bad_input_leaves_nothing_behind(
    changes: dict[str, Any],
    field: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "a.csv", HEADER, [ROW])
    _schema(tmp_path / "s.yaml")
    given: dict[str, Any] = {"sources": {"north": "a.csv"}, "sizes": {"north": "200/100"}}
    with pytest.raises(FederationError, match=words) as caught:
        init_dataset(tmp_path / "fed", tmp_path / "s.yaml", **given | changes)
    assert caught.value.field == field
    assert not (tmp_path / "fed").exists()


def test_a_source_that_lacks_a_column_is_told_at_once(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["AGE", *HEADER[1:]], [ROW])
    with pytest.raises(BadInput, match="no column 'age'"):
        init_dataset(
            tmp_path / "fed",
            _schema(tmp_path / "s.yaml"),
            {"north": str(tmp_path / "a.csv")},
            {"north": "2/1"},
        )


def test_a_home_is_not_overwritten(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "digits", silos=2)
    before = home.federation_file.read_bytes()
    with pytest.raises(BadInput, match="lives here already"):
        init_example(tmp_path / "fed", "digits", silos=2)
    assert home.federation_file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"example": "iris"}, "example"), ({"silos": 0}, "silos"), ({"silos": 65}, "silos"),
     ({"epsilon": float("nan")}, "epsilon"), ({"delta": 0.01}, "delta")],
)  # fmt: skip
def test_an_example_that_cannot_be_made(
    arguments: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as caught:
        init_example(tmp_path / "fed", **{"example": "digits"} | arguments)
    assert caught.value.field == field
    assert not (tmp_path / "fed").exists()


def test_without_the_extra_the_example_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(Missing, match=r"'\.\[examples\]'") as caught:
        init_example(tmp_path / "fed", "digits")
    assert caught.value.exit_code == 5


def test_ones_own_csv_needs_neither_scikit_learn_nor_pyarrow(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", HEADER, [ROW])
    _schema(tmp_path / "s.yaml")
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from federation.init import init_dataset\n"
        "init_dataset(Path('fed'), Path('s.yaml'), {'north': 'a.csv'}, {'north': '2/1'})\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, check=True
    )
    assert (tmp_path / "fed" / "federation.yaml").is_file()

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from federation.errors import BadInput, NotFound
from federation.home import Home
from secure.errors import KeyFileError


def test_a_home_is_found_by_name_environment_place_and_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TACIT_HOME", raising=False)
    below = tmp_path / "fed" / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Home.find().root == below / ".tacit"
    (tmp_path / "fed" / "federation.yaml").write_text("name: x")
    assert Home.find().root == tmp_path / "fed"
    monkeypatch.setenv("TACIT_HOME", str(tmp_path / "env"))
    assert Home.find().root == tmp_path / "env"
    assert Home.find(Path("rel")).root == below / "rel"


def test_what_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotFound, match="tacit init") as caught:
        home.federation()
    assert caught.value.exit_code == 2
    with pytest.raises(NotFound, match="no silo 'north'"):
        home.silo_config("north")
    assert home.silo_names() == ()


def test_a_silo_bears_the_name_of_its_directory(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.silo("north").directory.mkdir(parents=True)
    home.silo("north").config.write_text(
        "name: south\n"
        "sources: {d: {datasets: [d], kind: csv, path: rows.csv}}\n"
        "accounts: [{source: d, epsilon: 1, delta: 1e-5}]\n"
    )
    home.silo("north").config.chmod(0o600)
    with pytest.raises(BadInput, match="says 'south'"):
        home.silo_config("north")


def test_paths_are_meant_from_the_file_that_says_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.silo("north").directory.mkdir(parents=True)
    text = (
        "name: north\n"
        "sources: {d: {datasets: [d], kind: csv, path: rows.csv, test: /abs/test.csv}}\n"
        "accounts: [{source: d, epsilon: 1, delta: 1e-5}]\n"
    )
    home.silo("north").config.write_text(text)
    home.silo("north").config.chmod(0o600)
    config = home.silo_config("north")
    place = tmp_path / "silos" / "north"
    source = config.sources["d"]
    assert source.kind == "csv"
    assert (source.path, source.test) == (place / "rows.csv", Path("/abs/test.csv"))
    assert config.key == home.silo("north").key
    assert config.ledger_url == f"sqlite:///{home.silo('north').ledger}"
    home.silo("north").config.write_text(text + "ledger: postgresql+psycopg://h/l\n")
    assert home.silo_config("north").ledger_url == "postgresql+psycopg://h/l"
    assert home.silo_names() == ("north",)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620])
def test_private_settings_that_others_can_read_are_refused(mode: int, tmp_path: Path) -> None:
    """Like a key: the file can hold the passwords of databases."""
    home = Home(tmp_path)
    home.silo("north").directory.mkdir(parents=True)
    home.silo("north").config.write_text(
        "name: north\n"
        "sources: {d: {datasets: [d], kind: sql, url: 'x://ann:hunter2@h/d', table: t}}\n"
        "accounts: [{source: d, epsilon: 1, delta: 1e-5}]\n"
    )
    home.silo("north").config.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600") as caught:
        home.silo_config("north")
    assert caught.value.exit_code == 5
    assert caught.value.allowed == "0600"
    assert "hunter2" not in caught.value.message
    for private in (0o600, 0o400):
        home.silo("north").config.chmod(private)
        assert home.silo_config("north").name == "north"


def test_two_sources_over_one_file_are_told_with_their_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.silo("north").directory.mkdir(parents=True)
    (home.silo("north").directory / "r.csv").write_text("x\n")
    (home.silo("north").directory / "s.csv").symlink_to("r.csv")
    home.silo("north").config.write_text(
        "name: north\n"
        "sources:\n"
        "  d: {datasets: [d], kind: csv, path: r.csv}\n"
        "  e: {datasets: [e], kind: csv, path: s.csv}\n"
        "accounts: [{source: d, epsilon: 1, delta: 1e-5}, {source: e, epsilon: 1, delta: 1e-5}]\n"
    )
    home.silo("north").config.chmod(0o600)
    with pytest.raises(BadInput, match=r"silo\.yaml: path of source 'd' and path of source 'e'"):
        home.silo_config("north")


def test_settings_are_light_to_import() -> None:
    """The command line imports these before it knows what it will need."""
    code = (
        "import sys, federation.home, federation.documents, federation.settings\n"
        "heavy = {'numpy', 'pyarrow', 'sklearn', 'sqlalchemy', 'torch', 'prefect', 'nacl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

"""Every package imports with its own extras only, and a missing extra is named.

What an extra alone brings is found from the installed metadata and hidden from a fresh process,
as if it had never been installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name
from tests_requirements import closure

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("examples", "postgres", "dashboard", "dev")
HIDE = """
import sys
hidden = set(%r)
class Hide:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
"""
IMPORT = """
import importlib
for name in %r:
    importlib.import_module(name)
print(sorted(hidden & {name.partition(".")[0] for name in sys.modules}))
"""
COMMAND = """
from infra.cli.app import main
sys.argv = %r
main()
"""


def hidden(*extras: str) -> list[str]:
    """The top-level modules that are not there where only these extras are installed."""
    there, all_ = closure(*extras), closure(*EXTRAS)
    owners = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, names in owners.items()
        if (held := {canonicalize_name(n) for n in names}) & all_ and not held & there
    )


def modules(*packages: str) -> list[str]:
    """Every module of these packages but migrations, which Alembic runs, and Streamlit pages."""
    paths = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    names = (path.relative_to(ROOT).with_suffix("").parts for path in paths)
    return [
        ".".join(name).removesuffix(".__init__")
        for name in names
        if not {"migrations", "pages_"} & set(name) and name != ("dashboard", "app")
    ]


def python(program: str, *, without: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE % without + program], capture_output=True, text=True
    )


def test_what_is_hidden_is_what_the_extras_bring() -> None:
    assert {"sklearn", "psycopg", "streamlit", "altair", "pytest", "pandas"} <= set(hidden())
    assert not {"torch", "prefect", "pydantic", "numpy", "opacus"} & set(hidden())
    assert "sklearn" not in hidden("examples") and "streamlit" in hidden("examples")


@pytest.mark.parametrize(
    ("packages", "extras"),
    [
        (("privacy", "secure", "federation", "flows", "infra"), ()),
        (("dashboard",), ("dashboard",)),
    ],
)
def test_packages_import_with_their_own_extras(
    packages: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    done = python(IMPORT % modules(*packages), without=hidden(*extras))
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from federation.init import init_example

    return init_example(tmp_path_factory.mktemp("extras") / "fed", "breast-cancer", silos=1).root


@pytest.mark.parametrize("extra", ["examples", "dashboard", "postgres"])
def test_a_missing_extra_is_named_and_exits_5(extra: str, fed: Path, tmp_path: Path) -> None:
    if extra == "postgres":
        path = fed / "silos" / "silo-1" / "silo.yaml"
        settings = yaml.safe_load(path.read_text())
        path.write_text(
            yaml.safe_dump(settings | {"ledger": "postgresql+psycopg://u:hush@127.0.0.1/t"})
        )
    words = {
        "examples": ["init", str(tmp_path / "new"), "--example", "breast-cancer"],
        "dashboard": ["dashboard", "--home", str(fed)],
        "postgres": ["budget", "show", "--home", str(fed)],
    }[extra]
    done = python(COMMAND % ["tacit", *words, "--json"], without=hidden())
    assert done.returncode == 5, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert f"pip install -c constraints.txt '.[{extra}]'" in error["message"]
    assert "hush" not in done.stdout
    assert not (tmp_path / "new").exists()

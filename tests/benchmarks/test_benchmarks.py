"""Every benchmark has its section on the page, and one of them prints the promised document."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_page_has_a_section_with_the_command(script: Path) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert f".venv/bin/python benchmarks/{script.name}\n" in page
    assert f"<!-- {script.stem} -->\n| claim | value | limit | holds |" in page


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_claims(script: Path) -> None:
    text = script.read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    assert len(said) > 200 and "`--quick`" in said
    assert f'main("{script.stem}", measure, __doc__)' in text


def test_absent_data_is_no_verdict(tmp_path: Path) -> None:
    done = _run(ROOT / "benchmarks" / "heart.py", "--quick", "--json", TACIT_SHARED=str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"name", "machine", "claims"}
    assert document["name"] == "heart"
    assert len(document["claims"]) == 3
    for claim in document["claims"]:
        assert set(claim) == {"claim", "value", "unit", "limit", "holds"}
        assert claim["value"] is None and claim["holds"] is None


@pytest.mark.parametrize(
    ("value", "limit", "code", "holds"), [(1.0, 2.0, 0, True), (3.0, 2.0, 1, False)]
)
def test_a_measured_claim_decides_the_exit_code(
    tmp_path: Path, value: float, limit: float, code: int, holds: bool
) -> None:
    script = tmp_path / "claim.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from _common import main\n"
        f"main('claim', lambda claims, quick: claims.at_most('a', {value}, 's', {limit}))\n"
    )
    done = _run(script, "--json")
    assert done.returncode == code
    assert json.loads(done.stdout)["claims"] == [
        {"claim": "a", "value": value, "unit": "s", "limit": limit, "holds": holds}
    ]


@pytest.mark.parametrize(
    ("samples", "bounds"),
    [
        ([3.0, 1.0, 5.0, 2.0, 4.0], (1.0, 3.0, 5.0)),  # P(Bin(5, 1/2) = 0) = 1/32
        ([float(i) for i in range(30)], (10.0, 14.5, 19.0)),  # tables of the sign test
    ],
)
def test_bounds_of_a_median(samples: list[float], bounds: tuple[float, float, float]) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("bench_common", ROOT / "benchmarks" / "_common.py")
    assert spec is not None and spec.loader is not None
    common = module_from_spec(spec)
    sys.modules["bench_common"] = common
    spec.loader.exec_module(common)
    assert common.median_bounds(samples) == bounds


def _run(script: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *options],
        env=dict(os.environ) | env,
        capture_output=True,
        text=True,
        timeout=120,
    )

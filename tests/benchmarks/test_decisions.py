"""The decision records name the command of their numbers, and hold what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def record(number: int) -> str:
    (page,) = (ROOT / "docs" / "adr").glob(f"{number:04}-*.md")
    return page.read_text(encoding="utf-8")


def printed(number: int) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "_decisions.py", str(number)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", [*range(1, 7), 21])
def test_a_record_names_the_command_of_its_numbers(number: int) -> None:
    assert f"`.venv/bin/python benchmarks/_decisions.py {number}`" in record(number)


@pytest.mark.parametrize(("number", "rows"), [(1, 7), (3, 5)])
def test_a_table_is_the_one_that_its_command_prints(number: int, rows: int) -> None:
    lines = [line for line in printed(number).splitlines() if line.startswith("| ")][1:]
    if number == 3:  # the last column is the time on some machine
        lines = [line[: line[:-1].rindex("|")] for line in lines]
    assert len(lines) == rows
    assert [line for line in lines if line not in record(number)] == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (2, ["15,900 nats at order 3.18", "9,007"]),
        (
            4,
            [
                "0.0909",
                "0.1056",
                "ImportError: To use secure RNG, you must install the torchcsprng",
            ],
        ),
        (5, ["1.82", "4.29"]),
    ],
)
def test_a_number_in_the_text_is_the_one_that_its_command_prints(
    number: int, said: list[str]
) -> None:
    text, found = record(number), printed(number)
    assert [one for one in said if one not in text or one not in found] == []

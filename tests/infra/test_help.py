"""`tacit --help` is quick because it loads nothing heavy."""

import statistics
import subprocess
import sys
import time

import pytest
import typer

from infra.cli.app import app

HEAVY = ("torch", "prefect", "opacus", "dp_accounting", "scipy", "sqlalchemy", "pyarrow", "numpy")
PROGRAM = """
import sys
from infra.cli.app import main
sys.argv = ["tacit", "--help"]
try:
    main()
finally:
    print(sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)
"""


def test_help_loads_nothing_heavy():
    program = PROGRAM.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "quote" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_is_quick():
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(heavy=HEAVY)], capture_output=True, check=False
        )
        seconds.append(time.monotonic() - begun)
    # 0.3 s on a quiet machine; this bound only catches a heavy import on a loaded one.
    assert statistics.median(seconds) < 1.0


def commands(group, *path):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield pytest.param(command, id=" ".join((*path, name)))


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_every_command_takes_json_and_says_what_it_is(command):
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    assert command.help and command.help.strip().splitlines()[0].endswith((".", ";", "?", ":"))


def test_the_commands_of_the_contract_are_there():
    there = {parameter.id for parameter in commands(typer.main.get_command(app))}
    assert {
        *("init", "quote", "run", "price", "doctor", "dashboard"),
        *("job list", "job show", "job resume", "job cancel"),
        *("dataset draft", "source check", "model predict", "silo countersign"),
        *("budget show", "budget history", "budget forecast"),
        *("budget open", "budget set", "budget agree"),
        *("ledger verify", "ledger export", "ledger anchor"),
    } <= there

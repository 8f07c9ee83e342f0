"""`tacit --help` is quick because it loads nothing heavy."""

import statistics
import subprocess
import sys
import time

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

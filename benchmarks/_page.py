"""Put results into docs/benchmarks.md, so that every number there was printed by a script.

    python benchmarks/rounds.py --json > rounds.json
    python benchmarks/_page.py rounds.json ...

Each document replaces what stands between `<!-- NAME -->` and `<!-- end -->`. `--note TEXT` adds a
sentence below each table, such as that a run was a quick one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HOLDS = {True: "yes", False: "**no**", None: "not measured"}


def table(document: dict[str, Any], note: str) -> str:
    """One script's claims as Markdown, with the machine and what does not hold."""
    lines = ["| claim | value | limit | holds |", "|---|--:|--:|---|"]
    for row in document["claims"]:
        limit, holds = row["limit"], row["holds"]
        shown = "" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        bound = "" if limit is None else f"{limit:.4g} {row['unit']}"
        # A number that is shown and held to no limit has neither limit nor verdict.
        verdict = "" if limit is None and row["value"] is not None else HOLDS[holds]
        lines.append(f"| {row['claim']} | {shown} | {bound} | {verdict} |")
    failed = [row["claim"] for row in document["claims"] if row["holds"] is False]
    said = "Does not hold: " + "; ".join(failed) if failed else "Every measured claim holds"
    last = f"{said}. Machine: {document['machine']}. {note}".strip()
    return "\n".join([*lines, "", last])


def main() -> None:
    """Replace the blocks of the documents in these files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    page = PAGE.read_text()
    for path in options.results:
        document = json.loads(path.read_text())
        block = f"<!-- {document['name']} -->\n{table(document, options.note)}\n<!-- end -->"
        pattern = rf"<!-- {document['name']} -->.*?<!-- end -->"
        page, found = re.subn(pattern, lambda _, block=block: block, page, flags=re.DOTALL)
        if found != 1:
            sys.exit(f"{PAGE}: {found} blocks of {document['name']}")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()

"""Verify the chains of a home, as a process of its own: `python -m dashboard.verification HOME`.

It prints one JSON document and changes nothing. A ledger with a million entries takes minutes to
replay; neither the page nor its other viewers wait for that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dashboard import reading
from federation.home import Home
from federation.settings import Federation
from privacy.ledger import Head


@dataclass(frozen=True, slots=True)
class Chain:
    """What the check of one ledger found.

    `entries`: how many were there, `reason`: what is wrong with entry `bad` (0: the ledger as
    such), empty where `ok`. `vouched_to`: the last entry that `vouched_by`, somebody other than
    the silo, also holds; 0 and nobody where there is none.
    """

    silo: str
    ok: bool
    entries: int
    bad: int | None
    reason: str
    vouched_to: int
    vouched_by: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check of a home found; `mirror` says what is wrong with the coordinator's."""

    chains: tuple[Chain, ...]
    mirror: str = ""

    def document(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)

    @classmethod
    def read(cls, text: str) -> Finding:
        """Read what the process printed; anything else is a `ValueError`."""
        try:
            data = json.loads(text)
            return cls(tuple(Chain(**chain) for chain in data["chains"]), str(data["mirror"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not the finding of a verification") from error


def check(home: Home) -> Finding:
    """Verify every ledger under a home; what cannot be read does not verify."""
    federation = home.federation()
    known, trouble = _heads(home, federation)
    silos = home.silo_names()
    return Finding(tuple(_chain(home, federation, silo, known) for silo in silos), trouble)


def _heads(home: Home, federation: Federation) -> tuple[Mapping[str, Head], str]:
    """The heads that the coordinator holds; none, and why, where its mirror does not hold."""
    try:
        with reading.opened_mirror(home, federation) as mirror:
            if mirror is None:
                return {}, ""
            mirror.verify()
            return mirror.heads(), ""
    except reading.UNREADABLE as error:
        return {}, reading.unreadable(error)


def _chain(home: Home, federation: Federation, silo: str, known: Mapping[str, Head]) -> Chain:
    try:
        with reading.opened(home, silo, federation) as book:
            heads = [known[silo]] if silo in known else []
            result = book.ledger.verify(heads)
    except reading.UNREADABLE as error:
        return Chain(silo, False, 0, 0, reading.unreadable(error), 0, "")
    bad = result.first_bad or {}
    return Chain(
        silo=silo,
        ok=result.ok,
        entries=result.entries,
        bad=bad.get("seq"),
        reason=str(bad.get("reason", "")),
        vouched_to=result.vouched_to,
        vouched_by=result.vouched_by,
    )


def main() -> None:
    """Verify the home that the command line names."""
    print(json.dumps(check(Home(Path(sys.argv[1]))).document()))


if __name__ == "__main__":
    main()

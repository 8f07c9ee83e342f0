"""The books of a home as plain lines: what `tacit budget` and `tacit ledger` show."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from federation.errors import BadInput, Missing, NotFound, at_silo
from federation.home import Home
from federation.spec import JobSpec
from privacy.events import Event
from privacy.ledger import Head, Ledger, Receipt, checkpoint
from privacy.ledger.mirror import Mirror
from secure.keys import SigningKey, verify


def open_ledger(home: Home, silo: str) -> Ledger:
    """Open the ledger of one silo with its own key."""
    config = home.silo_config(silo)
    return Ledger.open(
        config.ledger_url,
        silo=silo,
        head=home.silo(silo).head,
        signer=SigningKey.load(config.key),
        verify=verify,
    )


@contextmanager
def open_mirror(home: Home) -> Iterator[Mirror]:
    """Open the coordinator's mirror; it accepts receipts by the members' keys only."""
    keys = {name: facts.public_key for name, facts in home.federation().silos.items()}
    mirror = Mirror.open(f"sqlite:///{home.mirror}", verify=verify, keys=keys)
    try:
        yield mirror
    finally:
        mirror.close()


@contextmanager
def opened(home: Home, silo: str | None) -> Iterator[dict[str, Ledger]]:
    """Open the ledgers of all silos here, or of one.

    `NotFound` where there is no federation or no such silo, `Missing` where no silo is here at all.
    """
    home.federation()
    names = list(home.silo_names())
    if silo is not None:
        if silo not in names:
            raise NotFound(f"silo {silo!r} is not here", field="silo", value=silo, allowed=names)
        names = [silo]
    if not names:
        raise Missing(
            f"{home.root}: no ledger under this home; run it at each silo",
            field="home",
            value=str(home.root),
            allowed="a home with the directory of a silo",
        )
    with ExitStack() as stack:
        ledgers = {}
        for name in names:
            with at_silo(name):
                ledger = ledgers[name] = open_ledger(home, name)
            stack.callback(ledger.close)
        yield ledgers


def account_lines(silo: str, ledger: Ledger) -> list[dict[str, Any]]:
    """Every account of a silo as one plain line."""
    with at_silo(silo):
        accounts = ledger.accounts()
    return [
        {
            "account": f"{silo}/{a.id}",
            "silo": silo,
            "source": a.source,
            "unit": a.unit.value,
            "relation": a.relation.value,
            "filter": a.filter,
            "capacity": {"epsilon": a.capacity_epsilon, "delta": a.delta},
            "claim": {"epsilon": a.largest_capacity_epsilon, "delta": a.delta},
            "spent": {"epsilon": a.spent_epsilon},
            "reserved": {"epsilon": a.reserved_epsilon},
            "remaining": {"epsilon": a.remaining_epsilon},
            "used": a.used,
            "status": a.status,
            "unprotected": a.unprotected,
        }
        for a in accounts
    ]


def spend_lines(silo: str, ledger: Ledger) -> list[dict[str, Any]]:
    """Every charge of a silo as one plain line, oldest first."""
    return [
        {
            "account": f"{silo}/{account.id}",
            "entry": spend.seq,
            "when": spend.when.isoformat(timespec="seconds"),
            "job": spend.job,
            "state": spend.state,
            "share": spend.share,
        }
        for account in ledger.accounts()
        for spend in ledger.history(account.id)
    ]


def forecast_lines(home: Home, silo: str | None, spec: JobSpec | None) -> list[dict[str, Any]]:
    """For every account: used, the rate of the last 30 days, the day it is spent, jobs that fit.

    A job is priced at each silo that takes part in it, as that silo prices it; of the others'
    accounts it takes nothing, and no number is told.
    """
    from privacy.ledger.forecast import forecast

    taking_part = () if spec is None else _taking_part(home, spec)
    lines = []
    with opened(home, silo) as ledgers:
        for name, ledger in ledgers.items():
            events = _events(home, name, spec) if spec and name in taking_part else {}
            for account in ledger.accounts():
                line = forecast(ledger, account.id, events.get(account.id))
                lines.append(
                    {
                        "account": f"{name}/{account.id}",
                        "used": account.used,
                        "used_per_30_days": line.rate_per_30_days,
                        "spent_by": line.spent_by.date().isoformat() if line.spent_by else None,
                        "jobs_that_fit": line.jobs_that_fit,
                    }
                )
    return lines


def _taking_part(home: Home, spec: JobSpec) -> Collection[str]:
    """The silos that a job is charged to; `NotFound` where its data set is not known."""
    federation = home.federation()
    federation.dataset(spec.dataset)
    return federation.silos_with(spec.dataset) if spec.silos is None else spec.silos


def _events(home: Home, silo: str, spec: JobSpec) -> dict[str, Event]:
    """What a job costs each account of its source at one silo."""
    from federation import pricing
    from federation.silo import Silo

    party = Silo(home, silo)
    try:
        facts, quote = party.quote(spec)
        return pricing.account_events(quote.event, quote.unit, facts)
    finally:
        party.close()


def verification(home: Home, silo: str | None, anchors: Path | None = None) -> dict[str, Any]:
    """Verify the ledgers here against chain, head file, the coordinator's mirror, and anchors.

    The mirror is the coordinator's: at a silo's own home only anchors are known from elsewhere.
    `anchors` is a directory of checkpoints that `tacit ledger anchor` wrote. One that the silo's
    key did not sign, or that the chain does not hold, is an integrity failure.
    Where no silo is here, every receipt in the coordinator's mirror is checked and `mirror` counts
    them; `Missing` where that is not here either.
    """
    if anchors is not None and not anchors.is_dir():
        raise NotFound(f"{anchors}: no such directory", field="against", value=str(anchors))
    heads: Mapping[str, Head] = {}
    if home.coordinator.exists():
        with open_mirror(home) as mirror:
            if silo is None and anchors is None and not home.silo_names():
                return _mirror_alone(mirror)
            heads = mirror.heads()
    lines: list[dict[str, Any]] = []
    first_bad: dict[str, Any] | None = None
    with opened(home, silo) as ledgers:
        for name, ledger in ledgers.items():
            known = [heads[name]] if name in heads else []
            if anchors is not None:
                known += _anchored(home, name, anchors)
            result = ledger.verify(known_heads=known)
            lines.append(
                {
                    "silo": name,
                    "path": ledger.path,
                    "entries": result.entries,
                    "ok": result.ok,
                    "vouched_to": result.vouched_to,
                    "vouched_by": result.vouched_by,
                }
            )
            if result.first_bad and first_bad is None:
                first_bad = {"silo": name} | dict(result.first_bad)
    return {
        "ok": all(line["ok"] for line in lines),
        "entries": sum(line["entries"] for line in lines),
        "first_bad": first_bad,
        "ledgers": lines,
    }


def _mirror_alone(mirror: Mirror) -> dict[str, Any]:
    """What a coordinator can verify where all silos are elsewhere; `LedgerTampered`."""
    mirror.verify()
    receipts = mirror.receipts()
    silos = sorted({receipt.silo for receipt in receipts})
    return {
        "ok": True,
        "entries": 0,
        "first_bad": None,
        "ledgers": [],
        "mirror": {"receipts": len(receipts), "silos": silos},
    }


def _anchored(home: Home, silo: str, directory: Path) -> list[Head]:
    """The heads in the checkpoints of one silo, which are named SILO-ENTRY.json."""
    public = home.federation().silos[silo].public_key
    return [
        checkpoint.read(path, public=public, verify=verify)
        for path in sorted(directory.glob("*.json"))
        if path.stem.rpartition("-")[0] == silo
    ]


def recovered(home: Home, silo: str, export: Path | None) -> dict[str, Any]:
    """Bring one silo's ledger up to what the coordinator's mirror, and an export, know of it.

    At a silo's own home, where the mirror is not, the export is all that is known.
    What neither holds is lost: then every account of the ledger is closed for good.
    """
    receipts: dict[str, Receipt] = {}
    if home.coordinator.exists():
        with open_mirror(home) as mirror:
            receipts = {receipt.hash: receipt for receipt in mirror.receipts(silo=silo)}
    for number, line in enumerate(export.read_text().splitlines() if export else [], start=1):
        try:
            receipt = Receipt.read(json.loads(line))
        except ValueError:
            raise BadInput(
                f"{export}: line {number} is no ledger entry", field="export", value=number
            ) from None
        receipts[receipt.hash] = receipt
    with opened(home, silo) as ledgers:
        done = ledgers[silo].recover(receipts.values())
    return {
        "silo": silo,
        "replayed": done.replayed,
        "lost": [{"entry": head.seq, "hash": head.hash} for head in done.lost],
        "breached": [f"{silo}/{account}" for account in done.breached],
    }


def export_entries(home: Home, silo: str, file: Path) -> int:
    """Write a ledger's entries as JSON lines; the file must not exist."""
    if file.exists():
        raise BadInput(f"{file}: already there; name a new file", field="file", value=str(file))
    count = 0
    with opened(home, silo) as ledgers, file.open("x") as out:
        for entry in ledgers[silo].entries():
            out.write(json.dumps(entry.document()) + "\n")
            count += 1
    return count

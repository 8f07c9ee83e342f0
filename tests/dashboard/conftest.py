"""A home with real ledgers, made as its owners make it, whose sources name files that are absent.

Accounts use the `basic` filter, whose epsilons add up, so that what a page must show is known.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import dashboard
from federation import plain_yaml
from federation.home import Home
from privacy.events import Approximate
from privacy.ledger import AccountTerms, Ledger, Stop
from privacy.ledger.mirror import Mirror
from secure.keys import SigningKey, verify

APP = Path(dashboard.__file__).with_name("app.py")

HEART = {
    "features": {"age": {"type": "number", "bounds": [0, 100]}},
    "label": {"column": "sick", "classes": ["no", "yes"]},
    "subject": {"column": "patient", "max_rows": 4},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}


@dataclass
class House:
    """A home under construction; every silo's clock is `now`."""

    root: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=10))
    keys: dict[str, SigningKey] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        return Home(self.root)

    def silo(self, name: str, units: tuple[str, ...] = ("record",), **terms: Any) -> Ledger:
        """A silo with one source and an account for each unit."""
        paths = self.home.silo(name)
        paths.directory.mkdir(parents=True)
        key = self.keys[name] = SigningKey.generate()
        key.save(paths.key)
        asked = {"source": "heart", "filter": "basic", "epsilon": 10.0, "delta": 1e-5} | terms
        accounts = [asked | {"unit": unit, "relation": "add_remove"} for unit in units]
        source = {"kind": "csv", "datasets": ["heart"], "path": "absent.csv"}
        settings = {"name": name, "sources": {asked["source"]: source}, "accounts": accounts}
        paths.config.write_text(yaml.dump(settings, Dumper=plain_yaml.Dumper))
        paths.config.chmod(0o600)  # as init writes it
        ledger = self.ledgers[name] = Ledger.create(
            f"sqlite:///{paths.ledger}",
            silo=name,
            head=paths.head,
            signer=key,
            verify=verify,
            clock=lambda: self.now,
        )
        for account in accounts:
            ledger.open_account(AccountTerms(**account))
        self.federate()
        return ledger

    def federate(self, **changes: Any) -> None:
        """Write the public facts; a silo that has no directory here is a member elsewhere."""
        sizes = {"heart": {"train": 100, "test": 20, "subjects": 50}}
        if not self.keys:
            self.keys["far"] = SigningKey.generate()
        silos = {n: {"public_key": k.public, "sizes": sizes} for n, k in self.keys.items()}
        facts = {
            "name": "hearts",
            "coordinator": SigningKey.generate().public,
            "datasets": {"heart": HEART},
            "silos": silos,
        }
        self.root.mkdir(exist_ok=True)
        self.home.federation_file.write_text(yaml.dump(facts | changes, Dumper=plain_yaml.Dumper))

    def job(
        self,
        silo: str,
        job: str,
        epsilon: float,
        *,
        settle: bool = True,
        releases: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Charge a job to every account, let (name, protection) leave, let a day pass."""
        ledger, event = self.ledgers[silo], Approximate(epsilon=epsilon)
        ledger.reserve(
            key=job,
            job=job,
            events={account.id: event for account in ledger.accounts()},
            releases=Counter(name for name, _ in releases),
            refundable=True,
            digest="d" * 64,
            expires=self.now + timedelta(days=99),
        )
        if settle:
            ledger.start(job, go="g" * 64)
            ledger.mark_read(job)
            for round_, (name, protection) in enumerate(releases):
                logged = any(kind == "dp" for _, kind in releases[:round_])  # one is all it costs
                ledger.record_egress(
                    job=job,
                    round=round_,
                    name=name,
                    protection=protection,
                    digest="a" * 64,
                    request="b" * 64,
                    size=10,
                    event=event if protection == "dp" and not logged else None,
                )
            ledger.settle(job, executed=None, stop=Stop.COMPLETED)
        self.now += timedelta(days=1)

    def mirror(self) -> Mirror:
        """The coordinator's mirror, with every entry so far."""
        self.home.coordinator.mkdir(exist_ok=True)
        keys = {name: key.public for name, key in self.keys.items()}
        mirror = Mirror.create(f"sqlite:///{self.home.mirror}", verify=verify, keys=keys)
        for ledger in self.ledgers.values():
            for entry in ledger.entries():
                mirror.accept(entry)
        return mirror

    def close(self) -> None:
        for ledger in self.ledgers.values():
            ledger.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Four silos in four conditions, and a mirror; made once, then copied."""
    house = House(tmp_path_factory.mktemp("template") / "home")
    house.silo("north")
    house.job("north", "job-1", 2.5)
    house.job("north", "job-2", 1.5, releases=(("update", "dp"), ("update", "dp")))
    house.silo("east")
    house.job("east", "job-1", 8.5, releases=(("update", "dp"), ("scores", "unprotected")))
    house.silo("south")
    house.job("south", "job-3", 10.0, settle=False)
    house.silo("west", units=("record", "subject"))
    house.mirror().close()
    house.close()
    return house


@pytest.fixture
def full(template, tmp_path):
    """A copy of the four silos, with no ledger open."""
    shutil.copytree(template.root, tmp_path / "full")
    return House(tmp_path / "full", keys=template.keys)


def forge(path: Path, statement: str, *values: object) -> None:
    """Change a ledger's database as somebody with the file would: triggers off, then on again."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        changed = connection.execute(statement, values).rowcount
        for _, sql in triggers:
            connection.execute(sql)
    connection.close()
    if changed < 1:
        raise ValueError(f"nothing was forged by {statement}")


@pytest.fixture(name="forge")
def _forge():
    return forge


@pytest.fixture
def show(monkeypatch):
    """A function that runs the page on a home and fails on any exception in it."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    def run(root):
        monkeypatch.setenv("TACIT_HOME", str(root))
        st.cache_data.clear()
        page = AppTest.from_file(str(APP), default_timeout=60).run()
        assert not page.exception, page.exception
        return page

    return run

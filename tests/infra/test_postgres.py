"""The stack's PostgreSQL: Debian's server on its own directory, whoever runs it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Missing
from infra import postgres
from infra.process import free_port, start, stop

needed = pytest.mark.skipif(not postgres.installed(), reason="Debian's postgresql is not installed")


async def asked(port: int, password: str, question: str) -> object:
    import asyncpg  # comes with Prefect

    connection = await asyncpg.connect(postgres.url(port, password).replace("+asyncpg", ""))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


@needed
def test_it_starts_behind_closed_directories_keeps_its_state_and_ends(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    place, port = closed / "postgres", free_port()
    postgres.prepare(place, "secret")
    postgres.prepare(place, "another")  # what is there stays
    child = postgres.started(place, port, tmp_path / "log")
    try:
        assert asyncio.run(asked(port, "secret", "create table t as select 42 as n")) is None
        asyncio.run(asked(port, "secret", "create extension pg_trgm"))  # what Prefect needs
        with pytest.raises(Exception, match="password"):
            asyncio.run(asked(port, "another", "select 1"))
    finally:
        stop(child, patience=20, by=postgres.STOP)
    assert child.returncode == 0 and not (place / "data" / "postmaster.pid").exists()
    child = postgres.started(place, port, tmp_path / "log")
    try:
        assert asyncio.run(asked(port, "secret", "select n from t")) == 42
    finally:
        stop(child, patience=20, by=postgres.STOP)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    assert not postgres.installed()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(Missing, match="PostgreSQL 14, which made its data directory"):
        postgres.started(tmp_path, 1, tmp_path / "log")


def test_a_server_that_does_not_come_up_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash, where it recovers for longer than it is waited for: it is tried again."""
    programs, data = tmp_path / "versions" / "17" / "bin", tmp_path / "own" / "data"
    for directory in (programs, data):
        directory.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    says = {"initdb": "exit 1", "pg_isready": "exit 1", "postgres": "exec sleep 60"}
    for name, line in says.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    begun: list[subprocess.Popen[bytes]] = []

    def recorded(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*arguments, **named))
        return begun[-1]

    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path / "versions")
    monkeypatch.setattr(postgres, "_owner", lambda: None)
    monkeypatch.setattr(postgres, "ALLOWANCE", 0.3)
    monkeypatch.setattr(postgres, "start", recorded)
    try:
        for _ in range(2):
            with pytest.raises(Missing, match="did not come up"):
                postgres.started(tmp_path / "own", free_port(), tmp_path / "log")
        assert [child.poll() is None for child in begun] == [False, False]
    finally:
        for child in begun:
            stop(child)

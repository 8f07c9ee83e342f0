"""The server beside a run: from a migrated copy that nothing was ever written to."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from infra import prefect_server


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_is_kept_is_migrated_and_holds_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TACIT_PREFECT_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with prefect_server.prefect_server(tmp_path) as server:
        server.wait()
        (kept,) = (tmp_path / "cache" / "tacit").iterdir()
        assert all(count(kept, table) == 0 for table in ("flow_run", "task_run", "artifact"))
        assert count(kept, "alembic_version") == 1
        before = kept.stat().st_mtime_ns
    assert kept.stat().st_mtime_ns == before
    assert list(kept.parent.iterdir()) == [kept]

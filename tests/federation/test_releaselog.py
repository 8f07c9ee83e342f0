"""The log of a job's releases: whole frames, in order, whatever a crash left behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import releaselog
from federation.errors import IntegrityError
from federation.releaselog import ROOM, Begun, ReleaseLog

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([ROOM - 1, ROOM, ROOM + 1, 3 * ROOM]))


def begun(round: int) -> Begun:
    return Begun(round, "update", f"{round:064x}", "dp", '{"kind": "gaussian"}')


def content(log: ReleaseLog) -> list[tuple[int, bytes | None]]:
    return [(found.round, log.stored(found)) for found in log.all()]


def written(path: Path, rounds: int = 4) -> list[tuple[int, int, bytes | None]]:
    """Write a log; the end of every frame, with the round and answer that it adds."""
    log, steps = ReleaseLog(path), []
    for round in range(rounds):
        log.begin(begun(round))
        steps.append((log._end, round, None))
        log.store(begun(round), body := bytes([round + 1]) * (40 * round))
        steps.append((log._end, round, body))
    return steps


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.tuples(SIZES, st.booleans()), max_size=8))
def test_what_was_written_is_read_again(tmp_path_factory: Any, sizes: list[Any]) -> None:
    path = tmp_path_factory.mktemp("log") / "releases.log"
    expected: list[tuple[int, bytes | None]] = []
    log = ReleaseLog(path)
    for round, (size, answered) in enumerate(sizes):
        log.begin(begun(round))
        body = os.urandom(size) if answered else None
        if body is not None:
            log.store(begun(round), body)
        expected.append((round, body))
        if size % 3 == 0:
            log = ReleaseLog(path)
        assert content(log) == content(ReleaseLog(path)) == expected


@pytest.mark.parametrize("lost", ["cut", "zeroed"])
def test_a_log_that_a_crash_cut_anywhere_ends_before_the_frame(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "releases.log"
    steps = written(path)
    whole = path.read_bytes()
    for at in range(0, steps[-1][0], 3):
        path.write_bytes(whole[:at] + (b"" if lost == "cut" else bytes(len(whole) - at)))
        there: dict[int, bytes | None] = {}
        for end, round, body in steps:
            # a frame whose last bytes are zeros anyway is whole all the same
            if end <= at or (lost == "zeroed" and not any(whole[at:end])):
                there[round] = body
        log = ReleaseLog(path)
        assert content(log) == list(there.items())
        log.begin(begun(99))
        log.store(begun(99), b"next")
        assert content(ReleaseLog(path)) == [*there.items(), (99, b"next")]


def test_a_frame_of_which_only_the_body_reached_the_disk_is_none(tmp_path: Path) -> None:
    path = tmp_path / "releases.log"
    log = ReleaseLog(path)
    log.begin(begun(0))
    kept = log._end
    log.store(begun(0), b"x" * 10_000)
    torn = bytearray(path.read_bytes())
    torn[kept : kept + 512] = bytes(512)
    path.write_bytes(torn)
    again = ReleaseLog(path)
    assert content(again) == [(0, None)]
    again.store(begun(0), b"y")
    assert content(ReleaseLog(path)) == [(0, b"y")]
    assert b"xxxx" not in path.read_bytes()


def test_a_damaged_answer_is_never_sent(tmp_path: Path) -> None:
    path = tmp_path / "releases.log"
    written(path)
    damaged = path.read_bytes().replace(b"\x03" * 80, b"\x03" * 79 + b"\x04")
    path.write_bytes(damaged)
    log = ReleaseLog(path)
    with pytest.raises(IntegrityError, match="round 2 is damaged"):
        content(log)


def test_an_answer_is_synced_once_after_it_and_all_before_it_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "releases.log", []

    def sync(descriptor: int) -> None:
        seen.append(content(ReleaseLog(path)))
        os.fsync(descriptor)

    monkeypatch.setattr(releaselog, "sync_data", sync)
    log = ReleaseLog(path)
    log.begin(begun(0))
    assert content(ReleaseLog(path)) == [(0, None)] and not seen
    log.store(begun(0), b"body")
    assert seen == [[(0, b"body")]]
    assert path.stat().st_mode & 0o777 == 0o600


def test_reading_makes_no_file(tmp_path: Path) -> None:
    assert ReleaseLog(tmp_path / "releases.log").all() == []
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_failed_leaves_nothing_behind_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "releases.log"
    log = ReleaseLog(path)
    log.begin(begun(0))
    with monkeypatch.context() as patch:
        patch.setattr(releaselog, "sync_data", _full)
        with pytest.raises(OSError, match="full"):
            log.store(begun(0), b"x" * 5000)
    log.store(begun(0), b"short")
    assert content(log) == content(ReleaseLog(path)) == [(0, b"short")]
    assert b"xx" not in path.read_bytes()


def _full(descriptor: int) -> None:
    raise OSError("the disk is full")

"""A spare child is there when work comes, and is not started while other work begins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import warm
from infra.warm import WarmChildren

CHILD = """
import signal, sys, time
def end(*_):
    time.sleep(0.5)
    open(sys.argv[1], "a").write(line)
    sys.exit()
line = ""
signal.signal(signal.SIGTERM, end)
line = sys.stdin.readline().strip()
time.sleep(float(line or 0))
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[WarmChildren]:
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "said")]
    made = WarmChildren(argv, dict(os.environ), tmp_path / "log")
    yield made
    made.close()


def alive() -> int:
    listed = ["ps", "-ww", "-o", "stat=,args=", "--ppid", str(os.getpid())]
    lines = subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()
    return sum("sys.stdin.readline" in line and not line.startswith("Z") for line in lines)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_next_spare_waits_until_the_work_is_over(children: WarmChildren) -> None:
    until(lambda: alive() == 1)
    children.give("a", "60")
    time.sleep(0.5)
    assert children.at_work("a") and alive() == 1
    children._at_work["a"].kill()
    until(lambda: not children.at_work("a") and alive() == 1)


def test_work_that_lasts_is_joined_by_a_spare(
    children: WarmChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "PAUSE", 0.3)
    children.give("a", "60")
    until(lambda: alive() == 2)
    assert children.at_work("a")


def test_work_that_finds_no_spare_gets_a_child_and_no_second_one(children: WarmChildren) -> None:
    children.give("a", "60")
    children.give("b", "60")
    children.give("b", "60")
    time.sleep(0.5)
    assert children.at_work("a") and children.at_work("b") and alive() == 2
    children._at_work["b"].kill()
    until(lambda: alive() == 2)  # a and a spare
    children.close()
    assert alive() == 0


def test_a_child_that_was_a_spare_has_its_time_to_end(
    children: WarmChildren, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Children die with the thread that started them, so that thread is the last to go."""
    monkeypatch.setattr(warm, "PAUSE", 0.1)
    children.give("a", "60")
    until(lambda: alive() == 2)
    monkeypatch.setattr(warm, "PAUSE", 60.0)  # the thread is watching when all is closed
    children.give("b", "61")
    time.sleep(0.5)
    children.close()
    assert sorted((tmp_path / "said").read_text()) == sorted("6061")

"""Run a command in a process of its own and see how long it takes and how much memory it has."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Done:
    """What one command printed and took; memory in bytes, zero where it was not watched.

    `largest` is the most that one process held resident, `tree` the most that the process and all
    its descendants held at one moment, shared pages counted once in each.
    """

    out: str
    seconds: float
    largest: int = 0
    tree: int = 0


def timed(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    watch: bool = False,
    limit: float = 900.0,
) -> Done:
    """Run a command to its end; raises `RuntimeError` with its last words where it fails."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [str(word) for word in command],
        env=dict(os.environ) | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks = [0, 0]
    watcher = threading.Thread(target=_watch, args=(child, peaks), daemon=True)
    if watch:
        watcher.start()
    try:
        out, said = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.kill()
        raise RuntimeError(f"{command[0]} did not end within {limit:g} s") from None
    seconds = time.perf_counter() - begun
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {(out + said)[-500:]}")
    return Done(out, seconds, *peaks)


def _watch(child: subprocess.Popen[str], peaks: list[int]) -> None:
    """Look at the tree twenty times a second."""
    while child.poll() is None:
        held = [_resident(pid) for pid in _tree(child.pid)]
        peaks[0] = max(peaks[0], *held, 0)
        peaks[1] = max(peaks[1], sum(held))
        time.sleep(0.05)


def _tree(root: int) -> list[int]:
    """A process and its descendants, as far as they are still there."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += map(int, task.read_text().split())
            except OSError:
                continue  # it ended while we looked
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0  # it ended while we looked

"""Warm children: processes that have imported what their work needs before the work arrives.

Each reads one line from its standard input, does what the line names, and ends. A spare is kept
warm, so that starting Python and loading torch is nobody's waiting time. The next one is started
when a child has ended, or has been at work for a while: not in the seconds in which its own work
begins, for which it would compete.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

from federation.errors import JobFailed
from infra.process import finish, start

PAUSE = 10.0
"""Seconds after a spare was given away until the next is started, unless its work ends before."""


class WarmChildren:
    """Children at work, by a key, and a spare one; safe to use from several threads."""

    def __init__(self, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self._argv = argv
        self._environment = environment
        self._log = log
        self._lock = threading.Lock()
        self._at_work: dict[str, subprocess.Popen[bytes]] = {}
        self._spare: subprocess.Popen[bytes] | None = self._start()
        self._closed = threading.Event()
        self._given: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._ended = threading.Event()
        # One thread that outlives its children: a child is killed with the thread that started it.
        threading.Thread(target=self._keep_warm, name="spares", daemon=True).start()

    def give(self, key: str, line: str) -> None:
        """Give the spare child a line of work, unless a child is at work under this key."""
        with self._lock:
            if self._alive(key):
                return
            child, self._spare = self._spare, None
            if child is None or child.poll() is not None:
                child = self._start()
            if child.stdin is None:
                raise JobFailed("a child that cannot be spoken to", field="child", value=child.pid)
            child.stdin.write(f"{line}\n".encode())
            child.stdin.close()
            self._at_work[key] = child
            self._given.put(child)

    def at_work(self, key: str) -> bool:
        """Whether a child is at work under this key."""
        with self._lock:
            return self._alive(key)

    def interrupt(self, key: str) -> None:
        """Send a child at work what Ctrl-C would."""
        with self._lock:
            if self._alive(key):
                self._at_work[key].send_signal(signal.SIGINT)

    def leave(self, key: str, patience: float) -> None:
        """Wait until the key's child has ended; one that does not within `patience` is killed."""
        child = self._at_work.get(key)
        if child is not None:
            finish(child, patience)

    def close(self, patience: float = 5.0) -> None:
        """End every child; all are asked together, once, and killed after `patience` seconds."""
        self._closed.set()
        with self._lock:
            children = [*self._at_work.values()]
            if self._spare is not None:
                children.append(self._spare)
            for child in children:
                if child.poll() is None:
                    child.terminate()
            until = time.monotonic() + patience
            for child in children:
                finish(child, max(until - time.monotonic(), 0.0))
        self._ended.set()

    def _alive(self, key: str) -> bool:
        child = self._at_work.get(key)
        return child is not None and child.poll() is None

    def _keep_warm(self) -> None:
        while not self._closed.is_set():
            child, until = self._given.get(), time.monotonic() + PAUSE
            while child.poll() is None and time.monotonic() < until and self._given.empty():
                if self._closed.wait(0.1):
                    break
            if not self._given.empty():  # another child has just begun
                continue
            with self._lock:
                if self._spare is None and not self._closed.is_set():
                    self._spare = self._start()
        self._ended.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return start(self._argv, environment=self._environment, log=self._log, speak=True)

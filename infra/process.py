"""Child processes that never outlive their parent, and ports for them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path

PR_SET_PDEATHSIG = 1


def start(
    argv: list[str], *, environment: dict[str, str], log: Path, speak: bool = False
) -> subprocess.Popen[bytes]:
    """Start a child whose output goes to `log` and that is killed when this process dies.

    It gets a process group of its own, so that a Ctrl-C at the terminal reaches only the parent,
    which then stops it in order. With `speak` its standard input is a pipe from here.
    """
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def tied_to_parent() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if os.getppid() != parent:  # the parent died before the signal was set
            os._exit(1)

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.PIPE if speak else subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            preexec_fn=tied_to_parent,
        )
    finally:
        os.close(descriptor)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def stop(child: subprocess.Popen[bytes], *, patience: float = 5.0) -> None:
    """Ask a child to end, and after `patience` seconds end it with its whole group."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

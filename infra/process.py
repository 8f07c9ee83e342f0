"""Child processes that never outlive their parent, and ports for them."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1


def start(
    argv: list[str],
    *,
    environment: dict[str, str],
    log: Path,
    speak: bool = False,
    directory: Path | None = None,
    user: str | None = None,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child whose output goes to `log` and that is killed when this process dies.

    It gets a process group of its own, so that a Ctrl-C at the terminal reaches only the parent,
    which then stops it in order. With `speak` its standard input is a pipe from here. It starts
    in `directory`, with the descriptors to `keep`, and as `user` with that user's own group only,
    which root alone can ask for.
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
            cwd=directory,
            pass_fds=keep,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            preexec_fn=tied_to_parent,  # runs after the change of user, which would undo it
        )
    finally:
        os.close(descriptor)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def taken(host: str, port: int) -> bool:
    """Whether somebody holds this port, so that a server could not listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def stop(
    child: subprocess.Popen[bytes],
    *,
    patience: float = 5.0,
    by: signal.Signals = signal.SIGTERM,
) -> None:
    """Ask a child to end, and after `patience` seconds end it with its whole group."""
    if child.poll() is None:
        child.send_signal(by)
    finish(child, patience)


def finish(child: subprocess.Popen[bytes], patience: float) -> None:
    """Wait for a child's end, and after `patience` seconds end it with its whole group."""
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()

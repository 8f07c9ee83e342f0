"""The PostgreSQL of the stack: Debian's server, on a data directory of its own, loopback only.

PostgreSQL refuses to run as root; then it runs as Debian's user `postgres`, and the data directory
belongs to that user. The server inherits its data directory open, and is told that it is at
`/proc/self/fd/N`, so that no directory above it has to be opened to that user.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import Missing
from infra.process import start, stop

STOP = signal.SIGINT
"""What ends a server at once and in order: it waits for no client."""

PATIENCE = 20.0
"""Seconds that a server which was told to stop has for it."""

ALLOWANCE = 60.0
"""Seconds within which a server must take connections; after a crash it recovers first."""

USER = "tacit"
"""The cluster's one user; who has its password is the Prefect server alone."""

_VERSIONS = Path("/usr/lib/postgresql")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def installed() -> bool:
    """Whether Debian's server is here, and a user to run it as."""
    try:
        _programs()
        _owner()
    except Missing:
        return False
    return True


def prepare(directory: Path, password: str) -> None:
    """Make the data directory, once, with a password for its one user."""
    data = directory / "data"
    if (data / "PG_VERSION").exists():
        return
    shutil.rmtree(directory, ignore_errors=True)  # a making that was cut short
    data.mkdir(parents=True, mode=0o700)
    secret = directory / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    owner = _owner()
    for path in (directory, data, secret):
        if owner is not None:
            shutil.chown(path, owner, pwd.getpwnam(owner).pw_gid)
        path.chmod(0o600 if path is secret else 0o700)
    with _open(data) as (descriptor, here):
        made = subprocess.run(
            [
                str(_programs() / "initdb"),
                *("--pgdata", here, "--username", USER, "--pwfile", f"{here}/../password"),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            ],
            cwd="/",
            env=_ENVIRONMENT,
            pass_fds=(descriptor,),
            user=owner,
            group=None if owner is None else pwd.getpwnam(owner).pw_gid,
            extra_groups=None if owner is None else [],
            capture_output=True,
            text=True,
        )
    secret.unlink()
    if made.returncode != 0:
        shutil.rmtree(directory)
        if "No space left on device" in made.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        said = " ".join(made.stderr.split())
        raise Missing(
            f"PostgreSQL cannot make its data directory {data}: {said[-300:]}",
            field="postgresql",
            value=str(data),
        )


def started(directory: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the server and wait until it takes connections; one that does not is ended again."""
    data = directory / "data"
    programs = _programs((data / "PG_VERSION").read_text().strip())
    with _open(data) as (descriptor, here):
        child = start(
            [
                *(str(programs / "postgres"), "-D", here, "-p", str(port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            ],
            environment=_ENVIRONMENT,
            log=log,
            directory=Path("/"),
            user=_owner(),
            keep=(descriptor,),
        )
    asked = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + ALLOWANCE
    while time.monotonic() < deadline and child.poll() is None:
        if subprocess.run(asked, env=_ENVIRONMENT).returncode == 0:
            return child
        time.sleep(0.1)
    stop(child, patience=PATIENCE, by=STOP)
    raise Missing(f"PostgreSQL did not come up; its log: {log}", field="postgresql", value=port)


def url(port: int, password: str) -> str:
    """Where the server is, for SQLAlchemy's asyncpg."""
    return f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def _open(directory: Path) -> Iterator[tuple[int, str]]:
    """A directory for a child to inherit, and its name there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _programs(version: str | None = None) -> Path:
    """Where the programs of a version are, or of the newest."""
    found = {path.parent.parent.name: path.parent for path in _VERSIONS.glob("*/bin/initdb")}
    if not found or (version is not None and version not in found):
        named = f" {version}, which made its data directory," if version else ""
        raise Missing(
            f"PostgreSQL{named} is not installed: apt install postgresql",
            field="postgresql",
            value=version,
            allowed=sorted(found),
        )
    return found[version or max(found, key=int)]


def _owner() -> str | None:
    """Who runs the server: this process's user, or `postgres` where that is root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise Missing(
            "PostgreSQL refuses to run as root, and there is no user postgres",
            field="postgresql",
        ) from None

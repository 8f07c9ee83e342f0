"""What holds a session of a silo: limits of its own process, or a container.

A `process` drops what it does not need before it reads a row: it can gain no privileges, leaves no
core file, and takes no more memory, processor time or files than its silo allows. A `docker`
container has, beside that, a root and data that nobody writes to, one network, and no capability.

The silo's key, ledger and releases are in either's reach: a session signs and logs what leaves. It
runs Tacit's own code; isolation contains a fault of that code and of the libraries under it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import pwd
import resource
from pathlib import Path
from typing import Any

from federation.errors import BadInput
from federation.home import Home
from federation.settings import DockerIsolation, ProcessIsolation, SiloConfig, SqlSource
from infra.process import PR_SET_PDEATHSIG
from secure.keys import SigningKey

PR_GET_PDEATHSIG = 2
PR_SET_NO_NEW_PRIVS = 38
MIB = 1024 * 1024
LABEL, OWNER = "tacit.silo", "tacit.owner"
"""What marks the containers of a silo: its name, for people, and what no other silo shares."""


def confine(isolation: ProcessIsolation) -> None:
    """Limit this process and what it starts; only one with CAP_SYS_RESOURCE could undo that.

    Memory is what it may allocate (RLIMIT_DATA: heap and private writable maps), not the libraries
    that it maps. A limit below one set from outside stays as tight as it was found.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: isolation.memory_mib and isolation.memory_mib * MIB,
        resource.RLIMIT_CPU: isolation.cpu_seconds,
        resource.RLIMIT_NOFILE: isolation.open_files,
    }
    for limit, wanted in limits.items():
        if wanted is not None:
            hard = resource.getrlimit(limit)[1]
            least = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(limit, (least, least))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def owner(user: str, directory: Path) -> pwd.struct_passwd:
    """The account of a silo's user. `BadInput` where none is, or the directory is another's."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise BadInput(
            f"isolation.user: there is no user {user!r} on this machine",
            field="isolation.user",
            value=user,
        ) from None
    if entry.pw_uid == 0 or directory.stat().st_uid != entry.pw_uid:
        raise BadInput(
            f"isolation.user: {directory} does not belong to {user!r}; run "
            f"chown -R {user} {directory}",
            field="isolation.user",
            value=user,
            allowed="the owner of the silo's directory, and not root",
        )
    return entry


def become(user: str, directory: Path) -> None:
    """Run as `user` from now on, for good, where this process is root.

    The silo's directory has to belong to that user, who writes ledger and releases there.
    """
    if os.geteuid() != 0:
        return
    entry = owner(user, directory)
    library, tie = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    library.prctl(PR_GET_PDEATHSIG, ctypes.byref(tie))
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    library.prctl(PR_SET_PDEATHSIG, tie.value)  # who changes their user loses the tie to the parent
    os.environ["HOME"] = entry.pw_dir


def check_reads(user: str, directory: Path) -> None:
    """Refuse, as root, a user who cannot read Python, Tacit and the silo's settings (`BadInput`).

    What was started as root may lie where root alone looks.
    """
    if os.geteuid() != 0:
        return
    entry, groups = owner(user, directory), os.getgroups()
    for path in (Path(os.__file__), Path(__file__), directory / "silo.yaml"):
        os.setgroups([])
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
        try:
            path.open("rb").close()
        except OSError:
            raise BadInput(
                f"isolation.user: {user!r} cannot read {path}; Python, Tacit and the home have to "
                "be where that user can read them",
                field="isolation.user",
                value=user,
            ) from None
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


def labels(config: SiloConfig, home: Home) -> dict[str, str]:
    """The labels of a silo's containers, by which it finds those that outlived it.

    On one machine several homes can have a silo of one name; a home's path and the silo's key are
    this one's alone.
    """
    key = SigningKey.load(config.key).public
    own = hashlib.sha256(f"{home.root.resolve()}\0{key}".encode()).hexdigest()
    return {LABEL: config.name, OWNER: own}


def container(
    isolation: DockerIsolation, config: SiloConfig, home: Home, command: list[str]
) -> dict[str, Any]:
    """What the Docker engine is asked for: the arguments of `client.containers.create`.

    Paths are the same inside as outside. The federation's public files, the silo's settings and
    keys, and its sources are mounted read-only; the rest of its directory is what a session writes
    to. Raises `BadInput` where the user would be root, or the ledger is a file elsewhere.
    """
    own = home.silo(config.name).directory
    user = isolation.user or f"{os.getuid()}:{os.getgid()}"
    if user.startswith("0:"):
        raise BadInput(
            "isolation.user: this silo runs as root, and its containers must not; name the user "
            f"and group to whom {own} belongs",
            field="isolation.user",
            value=user,
            allowed="UID:GID, neither of them 0",
        )
    ledger = _file(config.ledger_url)
    if ledger is not None and not ledger.is_relative_to(own):
        raise BadInput(
            f"ledger: a container writes to {own} only; keep the file there, or use PostgreSQL",
            field="ledger",
            value=str(ledger),
            allowed=f"a file in {own}",
        )
    public = (home.federation_file, home.membership_file, home.exchange_file, home.authority)
    private = (home.silo(config.name).config, config.key, home.seed(config.name))
    mounts = [_mount(own, read_only=False)]
    mounts += [_mount(path, read_only=True) for path in (*public, *private, *_rows(config))]
    memory = isolation.memory_mib * MIB
    return {
        "image": isolation.image,
        "command": command,
        "environment": {"HOME": "/tmp", "LANG": "C.UTF-8"},  # noqa: S108  # the container's own
        "labels": labels(config, home),
        "user": user,
        "working_dir": "/",
        "network": isolation.network,
        "read_only": True,
        "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=256m"},  # noqa: S108
        "mounts": mounts,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": round(isolation.cpus * 1e9),
        "pids_limit": isolation.processes,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ipc_mode": "private",
        "init": True,
        "log_config": {"Type": "none", "Config": {}},  # a fault is in the job's own fault.log
        "detach": True,
    }


def _rows(config: SiloConfig) -> list[Path]:
    """The files that a silo's sources name."""
    found = {value for source in config.sources.values() for _, value in source}
    files = {value for value in found if isinstance(value, Path)}
    urls = (s.url.get_secret_value() for s in config.sources.values() if isinstance(s, SqlSource))
    return sorted(files | {path for path in map(_file, urls) if path is not None})


def _file(url: str) -> Path | None:
    """The file of an SQLite URL; None where another kind of database is meant."""
    dialect, _, path = url.partition(":///")
    return Path(path.partition("?")[0]) if dialect.startswith("sqlite") and path else None


def _mount(path: Path, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(path), "Target": str(path), "ReadOnly": read_only}

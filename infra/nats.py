"""The NATS server of a federation: its configuration, its users' rights, and running it.

One account holds the federation; each party is a user known by an NKEY that it made itself, whose
seed never leaves it, behind TLS that takes no client without a certificate of the federation's
authority. A silo may publish where it is the sender, fetch from and acknowledge its own
durable, and hear its own inbox. It can neither make, read nor delete a stream, nor publish in
another's name, nor hear what is meant for another. The coordinator makes streams and durables, and
publishes only as itself.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nkeys

from federation.errors import Missing
from infra.extras import install
from infra.process import start, stop
from privacy.ledger.durable import write_durably
from secure.exchange.chunks import CHUNK
from secure.exchange.nats_endpoint import token

MAX_PAYLOAD = 8 << 20
"""The largest message that the server takes, in bytes; a chunk is far below."""


def make_seed(path: Path) -> str:
    """Make a user's NKEY, write its seed at mode 0600, return the public key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    write_durably(path, seed)
    return public_key(path)


def public_key(path: Path) -> str:
    """The public NKEY of a seed file."""
    public: bytes = nkeys.from_seed(path.read_bytes().strip()).public_key
    return public.decode()


def is_public(nkey: str) -> bool:
    """Whether a text is the public NKEY of a user: prefix, 32 bytes, checksum."""
    try:
        raw = base64.b32decode(nkey)
    except ValueError:
        return False
    checksum: int = nkeys.crc16(bytearray(raw[:-2]))
    return (
        len(raw) == 35
        and raw[0] == nkeys.PREFIX_BYTE_USER
        and checksum == int.from_bytes(raw[-2:], "little")
    )


def configuration(
    federation: str,
    users: Mapping[str, str],
    *,
    directory: Path,
    host: str = "127.0.0.1",
    port: int,
    certificates: Path,
) -> str:
    """The server's configuration as JSON, which NATS reads as its own format.

    `users` maps every party, the coordinator among them, to its public NKEY. Streams are kept
    under `directory`, which the server alone may read.
    """
    return json.dumps(
        {
            "server_name": f"tacit-{federation}",
            "listen": f"{host}:{port}",
            "max_payload": max(MAX_PAYLOAD, CHUNK),
            "pid_file": str(directory / "nats.pid"),
            "jetstream": {"store_dir": str(directory / "streams"), "sync_interval": "10s"},
            "tls": {
                "cert_file": str(certificates / "server.pem"),
                "key_file": str(certificates / "server.key"),
                "ca_file": str(certificates / "ca.pem"),
                "verify": True,
                "handshake_first": True,  # not even the server's greeting is clear text
                "min_version": "1.3",
                "timeout": 5,
            },
            "accounts": {
                "federation": {
                    "jetstream": "enabled",
                    "users": [
                        {"nkey": nkey, "permissions": rights(federation, party)}
                        for party, nkey in sorted(users.items())
                    ],
                }
            },
        },
        indent=1,
    )


def rights(federation: str, party: str) -> dict[str, Any]:
    """What one party may publish to and hear; whatever is not named is denied."""
    fed, own = token(federation), token(party)
    fetch = [f"$JS.API.CONSUMER.MSG.NEXT.*.{own}", f"$JS.ACK.*.{own}.>"]
    manage = [f"$JS.API.STREAM.{verb}.*" for verb in ("CREATE", "UPDATE", "DELETE", "INFO")] + [
        f"$JS.API.CONSUMER.{verb}.>" for verb in ("CREATE", "DURABLE.CREATE", "DELETE", "INFO")
    ]
    return {
        "publish": {
            "allow": [
                f"tacit.{fed}.*.{own}.*",
                *fetch,
                *(manage if party == "coordinator" else []),
            ]
        },
        "subscribe": {"allow": [f"_INBOX_{own}.>"]},
    }


def command(configuration: Path) -> list[str]:
    """The command that runs a server on a configuration; `Missing` where none is installed."""
    return [str(_binary()), "--config", str(configuration)]


def reload(configuration: Path, log: Path) -> bool:
    """Let the server that runs on a configuration on this host take it up as it stands now.

    Connections of users that are still there stay; those of a user that is gone are closed. Whether
    one runs here: False means that nothing was done. Raises `Missing` where the server does not say
    in its log that it did so.
    """
    said = json.loads(configuration.read_text())
    pid = _running(configuration, Path(said["pid_file"]))
    if pid is None:
        return False
    done = subprocess.run(
        [_binary(), "-t", "--config", configuration], capture_output=True, text=True
    )
    before = log.stat().st_size if log.exists() else 0
    if done.returncode == 0 and _hang_up(pid):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with log.open() as file:
                file.seek(before)
                news = file.read()
            if "Reloaded server configuration" in news:
                return True
            if "Failed to reload" in news:
                break
            time.sleep(0.05)
    raise Missing(
        f"the exchange (process {pid}) did not take up {configuration}; restart it, and see {log}",
        field="nats",
        value=str(configuration),
    )


class Server:
    """A NATS server that is a child of this process and dies with it."""

    def __init__(self, configuration: Path, log: Path) -> None:
        self._configuration = configuration
        self._log = log
        self.child: subprocess.Popen[bytes] = self._started()

    def restart(self) -> None:
        """Start it again, on the streams that it left."""
        stop(self.child)
        self.child = self._started()

    def reload(self) -> None:
        """Take up a changed configuration without closing a connection that it still allows."""
        reload(self._configuration, self._log)

    def stop(self) -> None:
        """Stop it."""
        stop(self.child)

    def _started(self) -> subprocess.Popen[bytes]:
        listen = json.loads(self._configuration.read_text())["listen"]
        child = start(command(self._configuration), environment={}, log=self._log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and child.poll() is None:
            if _listens(listen):
                return child
            time.sleep(0.02)
        stop(child)
        raise Missing(f"no NATS server came up at {listen}; its log: {self._log}", field="nats")


def _running(configuration: Path, pid_file: Path) -> int | None:
    """The process that serves a configuration here; a number that another has got is none."""
    try:
        pid = int(pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        runs = Path(os.fsdecode(arguments[arguments.index(b"--config") + 1]))
        return pid if runs.samefile(configuration) else None
    except (OSError, ValueError):
        return None


def _hang_up(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return False
    return True


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


def _binary() -> Path:
    """The server's program: of the `stack` extra, else of the system."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Missing(
            f"the NATS server is not installed: {install('stack')}, or Debian's nats-server",
            field="nats-server",
        )
    return Path(found)

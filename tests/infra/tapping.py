"""A wire between a client and a server on which somebody listens."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_HEADER = 5
_TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}


class Tap:
    """Passes connections on to a port of this machine, and keeps what went each way."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that stand end with their ends."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                if self._listener.fileno() < 0:
                    return
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                kept = bytearray()
                self.heard.append(kept)
                threading.Thread(target=_pass, args=(source, sink, kept), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def records(data: bytes) -> Iterator[str]:
    """The types of the TLS records that `data` consists of (RFC 8446, section 5.1).

    Raises `AssertionError` at the first byte that belongs to none; the last may be incomplete.
    """
    at = 0
    while at + _HEADER <= len(data):
        kind, version = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        found = kind in _TYPES and version in (0x0301, 0x0303) and 0 < length <= 16384 + 256
        assert found, f"no TLS record at byte {at} of {len(data)}"
        yield _TYPES[kind]
        at += _HEADER + length

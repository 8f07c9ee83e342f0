"""SEAL's objects as bytes: checked before SEAL reads them, never written to a disk.

SEAL's own reader checks a lot, but only after it has unpacked what a few bytes may blow up to
gigabytes. Here the header, the declared length and the blocks of the Zstandard frame are walked
first: a block unpacks to at most 128 KiB, so their number bounds the memory.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from secure.errors import BadMessage

_HEADER = struct.Struct("<HBBBBHQ")  # magic, size, major, minor, compression, reserved, length
_MAGIC, _ZSTANDARD, _FRAME = 0xA15E, 2, 0xFD2FB528
_BLOCK = 128 << 10


def dump(value: Any) -> bytes:
    """Return an object's bytes. SEAL writes to a path, so the path is one of an anonymous file."""
    descriptor = os.memfd_create("ckks", os.MFD_CLOEXEC)
    try:
        value.save(f"/proc/self/fd/{descriptor}")
        size = os.fstat(descriptor).st_size
        parts, place = [], 0
        while place < size:
            parts.append(os.pread(descriptor, size - place, place))
            place += len(parts[-1])
        return b"".join(parts)
    finally:
        os.close(descriptor)


def load(kind: Any, context: Any, data: bytes, limit: int) -> Any:
    """Read an object of `limit` bytes unpacked; `BadMessage` whatever is wrong.

    No more than four times the limit is ever unpacked. SEAL then checks every number against the
    context's parameters.
    """
    check(data, limit)
    value = kind()
    descriptor = os.memfd_create("ckks", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        value.load(context, f"/proc/self/fd/{descriptor}")
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise BadMessage(
            f"a {kind.__name__} that SEAL does not accept under these parameters",
            field=kind.__name__,
        ) from error
    finally:
        os.close(descriptor)
    return value


def check(data: bytes, limit: int) -> None:
    """Check header, length and frame of bytes that SEAL has written."""
    if len(data) < _HEADER.size:
        raise BadMessage("a blob shorter than its header", field="blob", value=len(data))
    magic, size, _, _, compression, _, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or size != _HEADER.size or compression != _ZSTANDARD:
        raise BadMessage("a blob that SEAL has not written", field="blob")
    if length != len(data):
        raise BadMessage(
            "a blob of another length than it says", field="blob", value=len(data), allowed=length
        )
    # SEAL flushes blocks before they are full, so four times as many as needed are allowed for.
    if (blocks := _blocks(data, _HEADER.size)) * _BLOCK > 4 * (limit + _BLOCK):
        raise BadMessage(
            "a blob that unpacks to more than its parameters allow",
            field="blob",
            value=blocks * _BLOCK,
            allowed=limit,
        )


def _blocks(data: bytes, place: int) -> int:
    """Walk one Zstandard frame (RFC 8878, section 3.1.1) to its end and count its blocks."""
    truncated = BadMessage("a blob whose compressed frame is broken", field="blob")
    if len(data) < place + 5 or int.from_bytes(data[place : place + 4], "little") != _FRAME:
        raise truncated
    descriptor = data[place + 4]
    single = descriptor >> 5 & 1
    place += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    place += (single, 2, 4, 8)[descriptor >> 6]
    blocks = 0
    while True:
        if len(data) < place + 3:
            raise truncated
        head = int.from_bytes(data[place : place + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        if kind == 3 or size > _BLOCK:
            raise truncated
        place += 3 + (1 if kind == 1 else size)
        blocks += 1
        if last:
            break
    if place + 4 * (descriptor >> 2 & 1) != len(data):
        raise truncated
    return blocks

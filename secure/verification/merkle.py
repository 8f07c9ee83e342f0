"""Merkle trees as in RFC 6962 and RFC 9162, section 2.1, with SHA-256.

    >>> leaves = [leaf_hash(data) for data in (b"a", b"b", b"c")]
    >>> proof = path(leaves, 2)
    >>> root_from_path(leaves[2], 2, 3, proof) == root(leaves)
    True

Leaves are hashed behind a zero byte and nodes behind a one byte, so that a node cannot be shown as
a leaf. A tree splits at the largest power of two below its size: no leaf is ever doubled, so trees
of different sizes have different roots. The size belongs to what is signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from secure.errors import BadParameters, NotVerified

LEAF, NODE = b"\0", b"\1"


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf's data."""
    return hashlib.sha256(LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children."""
    return hashlib.sha256(NODE + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; that of no leaves is the hash of nothing."""
    if len(leaves) == 0:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return node_hash(root(leaves[:split]), root(leaves[split:]))


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the inclusion proof of one leaf: the hashes beside its way up, lowest first."""
    if not 0 <= index < len(leaves):
        raise BadParameters(
            f"no leaf {index} in a tree of {len(leaves)}",
            field="index",
            value=index,
            allowed=f"0 to {len(leaves) - 1}",
        )
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*path(leaves[:split], index), root(leaves[split:])]
    return [*path(leaves[split:], index - split), root(leaves[:split])]


def root_from_path(leaf: bytes, index: int, size: int, hashes: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to (RFC 9162, 2.1.3.2); the caller compares it.

    Errors: `NotVerified` where the proof has not the length that index and size ask for.
    """
    if not 0 <= index < size:
        raise NotVerified(f"no leaf {index} in a tree of {size}", field="index", value=index)
    place, last, found = index, size - 1, leaf
    for beside in hashes:
        if last == 0:
            raise NotVerified("an inclusion proof is too long", field="path", value=len(hashes))
        if place % 2 or place == last:
            found = node_hash(beside, found)
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            found = node_hash(found, beside)
        place, last = place // 2, last // 2
    if last:
        raise NotVerified("an inclusion proof is too short", field="path", value=len(hashes))
    return found


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return int(1 << ((size - 1).bit_length() - 1))

"""Merkle trees against the published vectors of Certificate Transparency and the definition."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure.errors import BadParameters, NotVerified
from secure.verification.merkle import leaf_hash, node_hash, path, root, root_from_path

# The reference data of Certificate Transparency (google/certificate-transparency,
# transparency-dev/merkle), which RFC 6962 and RFC 9162 implementations share.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def hashed(count: int) -> list[bytes]:
    return [leaf_hash(bytes([i])) for i in range(count)]


def by_levels(leaves: list[bytes]) -> bytes:
    """The same tree built from below: pair up, and carry an odd last one up as it is."""
    while len(leaves) > 1:
        pairs = [node_hash(a, b) for a, b in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = pairs + (leaves[-1:] if len(leaves) % 2 else [])
    return leaves[0]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert root([leaf_hash(data) for data in LEAVES[:size]]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "published"), PATHS)
def test_published_paths(index: int, size: int, published: list[str]) -> None:
    leaves = [leaf_hash(data) for data in LEAVES[:size]]
    found = path(leaves, index)
    assert [beside.hex() for beside in found] == published
    assert root_from_path(leaves[index], index, size, found).hex() == ROOTS[size]


@pytest.mark.parametrize("size", range(1, 65))
def test_the_tree_is_that_of_another_construction_and_every_path_leads_to_it(size: int) -> None:
    leaves = hashed(size)
    assert root(leaves) == by_levels(leaves)
    for index in range(size):
        assert root_from_path(leaves[index], index, size, path(leaves, index)) == root(leaves)


def test_no_odd_leaf_is_doubled() -> None:
    three = hashed(3)
    assert root(three) != root([*three, three[-1]])


def test_a_node_is_no_leaf() -> None:
    left, right = hashed(2)
    assert root([left, right]) != leaf_hash(left + right)
    assert leaf_hash(left + right) == hashlib.sha256(b"\0" + left + right).digest()


@given(st.integers(1, 40), st.data())
def test_another_leaf_place_size_or_path_leads_elsewhere(size: int, data: st.DataObject) -> None:
    leaves = hashed(size)
    index = data.draw(st.integers(0, size - 1))
    right, proof = root(leaves), path(leaves, index)
    assert root_from_path(leaf_hash(b"other"), index, size, proof) != right
    other = data.draw(st.integers(0, size + 3))
    if other != index:
        assert leads_to(leaves[index], other, size, proof) != right
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], leaf_hash(b"changed"), *proof[place + 1 :]]
        assert root_from_path(leaves[index], index, size, changed) != right
        with pytest.raises(NotVerified):
            root_from_path(leaves[index], index, size, proof[:-1])
    with pytest.raises(NotVerified):
        root_from_path(leaves[index], index, size, [*proof, right])


def leads_to(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    try:
        return root_from_path(leaf, index, size, proof)
    except NotVerified:
        return None


def test_there_is_no_path_to_a_leaf_that_is_not_there() -> None:
    for index in (-1, 3):
        with pytest.raises(BadParameters):
            path(hashed(3), index)

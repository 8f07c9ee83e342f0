"""A commitment to a model: one root for the names, types, shapes and values of its tensors.

    >>> tensors = [Tensor("bias", "F32", (2,), bytes(8)), Tensor("weight", "F32", (1,), bytes(4))]
    >>> commitment = commit(tensors)
    >>> check_tensor(commitment.root, prove(commitment, tensors, "bias"), tensors[0].data)

The root covers the number of tensors, whether they are salted, the list of all names, types and
shapes, and the root of a Merkle tree (`merkle`) with one leaf per tensor, in the order of names. A
leaf covers the tensor's name, type, shape, salt and the digest of its bytes as safetensors lays
them out: little endian, row by row. The free text in a safetensors file's header is not covered.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from secure.errors import BadMessage, BadParameters, KeyFileError, NotVerified
from secure.verification import merkle
from secure.verification.hashing import digest, unhex

SALT = 32
LARGEST = 2**63 - 1
"""Largest size or number of tensors that a document may name."""

COMMITMENT, PROOF = "tacit model commitment 1", "tacit tensor proof 1"


@dataclass(frozen=True)
class Facts:
    """What a commitment tells of a tensor: name, safetensors type (`F32`, ...), shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def document(self) -> dict[str, Any]:
        """The facts as plain data."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Tensor(Facts):
    """A tensor: its facts and its bytes."""

    data: bytes = field(repr=False)

    @property
    def facts(self) -> Facts:
        """The tensor without its bytes."""
        return Facts(self.name, self.dtype, self.shape)


class Salts:
    """The secret salts of a model's leaves, all derived from one seed of 32 bytes.

    Privacy: whoever holds the seed can check a guess of any tensor; whoever holds one salt, of that
    tensor alone, because each is HMAC-SHA256 of the seed over the tensor's name.
    """

    __slots__ = ("_seed",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SALT:
            raise BadParameters("a seed of salts has 32 bytes", field="seed", value=len(seed))
        self._seed = seed

    @classmethod
    def generate(cls) -> Salts:
        """Draw a seed from the operating system's generator."""
        return cls(os.urandom(SALT))

    @classmethod
    def load(cls, path: Path) -> Salts:
        """Read a seed's file; one that others can read or that holds none is a `KeyFileError`."""
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise KeyFileError(
                f"{path}: mode {mode:04o} lets others read the salts; run chmod 600",
                field="salts",
                value=f"{mode:04o}",
                allowed="0600",
            )
        try:
            return cls(unhex(path.read_text().strip(), SALT))
        except ValueError:
            raise KeyFileError(f"{path}: not a file of salts", field="salts") from None

    def save(self, path: Path) -> None:
        """Write the seed at mode 0600; an existing file is never overwritten."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, name: str) -> bytes:
        """Return the salt of the tensor of that name."""
        return hmac.digest(self._seed, b"tacit tensor salt 1\0" + name.encode(), "sha256")


@dataclass(frozen=True)
class Commitment:
    """A model's commitment: facts and leaf of each tensor, sorted by name.

    Privacy: without salts anybody can check a guess of a tensor against its leaf. With salts the
    values are hidden; the number of tensors, their names, types and shapes never are.
    """

    tensors: tuple[Facts, ...]
    leaves: tuple[bytes, ...] = field(repr=False)
    salted: bool

    @property
    def root(self) -> bytes:
        """The 32 bytes that stand for the model."""
        return _root(len(self.tensors), self.salted, self.listing, merkle.root(self.leaves))

    @property
    def listing(self) -> bytes:
        """The digest of all names, types and shapes."""
        rows = [[t.name, t.dtype, list(t.shape)] for t in self.tensors]
        return digest(b"tacit model listing 1", rows)

    def document(self) -> dict[str, Any]:
        """The commitment as plain data, to be published."""
        return {
            "format": COMMITMENT,
            "root": self.root.hex(),
            "salted": self.salted,
            "tensors": [
                facts.document() | {"leaf": leaf.hex()}
                for facts, leaf in zip(self.tensors, self.leaves, strict=True)
            ],
        }

    @classmethod
    def read(cls, data: Any) -> Commitment:
        """Read plain data; `BadMessage` unless it is a commitment that leads to its own root."""
        try:
            _fields(data, {"format", "root", "salted", "tensors"})
            if data["format"] != COMMITMENT or type(data["salted"]) is not bool:
                raise ValueError("another format")
            if type(data["tensors"]) is not list:
                raise ValueError("tensors are a list")
            rows = [dict(row) for row in data["tensors"]]
            leaves = tuple(unhex(row.pop("leaf"), 32) for row in rows)
            tensors = tuple(_facts(row) for row in rows)
            commitment = cls(tensors, leaves, data["salted"])
            if [t.name for t in tensors] != sorted({t.name for t in tensors}):
                raise ValueError("tensors out of order")
            if unhex(data["root"], 32) != commitment.root:
                raise ValueError("another root")
        except (ValueError, TypeError, KeyError) as error:
            raise BadMessage(f"not a model's commitment: {error}", field="commitment") from None
        return commitment


@dataclass(frozen=True)
class Proof:
    """That one tensor is part of a model: what leads from its bytes to the model's root.

    Privacy: it opens the salt of this tensor, so its holder can check guesses of this tensor's
    values. Nothing follows about the others.
    """

    facts: Facts
    index: int
    count: int
    salted: bool
    salt: bytes = field(repr=False)
    listing: bytes = field(repr=False)
    path: tuple[bytes, ...] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The proof as plain data."""
        return {
            "format": PROOF,
            "tensor": self.facts.document(),
            "index": self.index,
            "count": self.count,
            "salted": self.salted,
            "salt": self.salt.hex(),
            "listing": self.listing.hex(),
            "path": [beside.hex() for beside in self.path],
        }

    @classmethod
    def read(cls, data: Any) -> Proof:
        """Read plain data; anything else raises `BadMessage`."""
        names = {"format", "tensor", "index", "count", "salted", "salt", "listing", "path"}
        try:
            _fields(data, names)
            if data["format"] != PROOF or type(data["salted"]) is not bool:
                raise ValueError("another format")
            if type(data["path"]) is not list or len(data["path"]) > 64:
                raise ValueError("a path is a list of up to 64 hashes")
            return cls(
                _facts(data["tensor"]),
                _count(data["index"]),
                _count(data["count"]),
                data["salted"],
                unhex(data["salt"], SALT if data["salted"] else 0),
                unhex(data["listing"], 32),
                tuple(unhex(beside, 32) for beside in data["path"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise BadMessage(f"not a tensor's proof: {error}", field="proof") from None


def load(path: Path) -> list[Tensor]:
    """Read the tensors of a safetensors file, sorted by name; the file is read whole.

    Errors: `BadMessage` for a file that is none.
    """
    import safetensors

    try:
        found = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise BadMessage(
            f"{path}: not a safetensors file: {error}", field="model", value=str(path)
        ) from None
    tensors = [
        Tensor(name, str(view["dtype"]), tuple(view["shape"]), bytes(view["data"]))
        for name, view in found
    ]
    return sorted(tensors, key=lambda tensor: tensor.name)


def commit(tensors: Iterable[Tensor], salts: Salts | None = None) -> Commitment:
    """Commit to a model's tensors; with `salts` their values stay hidden.

    Errors: `BadParameters` for no tensors, or two of one name.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    names = [tensor.name for tensor in ordered]
    if not ordered or len(set(names)) < len(names):
        raise BadParameters(
            "a model has one tensor or more, each of its own name",
            field="tensors",
            value=len(names),
        )
    leaves = tuple(_leaf(t.facts, _salt(salts, t.name), t.data) for t in ordered)
    return Commitment(tuple(t.facts for t in ordered), leaves, salts is not None)


def prove(
    commitment: Commitment, tensors: Sequence[Tensor], name: str, salts: Salts | None = None
) -> Proof:
    """Prove that the tensor `name` is part of the committed model.

    Errors: `BadParameters` for a name that is not there; `NotVerified` where the tensors or salts
    are not those of the commitment, so that no proof is handed out that would fail.
    """
    known = [facts.name for facts in commitment.tensors]
    if name not in known:
        raise BadParameters(f"no tensor {name!r}", field="tensor", value=name, allowed=known)
    check_model(commitment, tensors, salts)
    index = known.index(name)
    return Proof(
        commitment.tensors[index],
        index,
        len(known),
        commitment.salted,
        _salt(salts, name),
        commitment.listing,
        tuple(merkle.path(commitment.leaves, index)),
    )


def check_tensor(root: bytes, proof: Proof, data: bytes) -> None:
    """Raise `NotVerified` unless the proof leads from these bytes to the model's root."""
    leaf = _leaf(proof.facts, proof.salt, data)
    tree = merkle.root_from_path(leaf, proof.index, proof.count, proof.path)
    if _root(proof.count, proof.salted, proof.listing, tree) != root:
        raise NotVerified(
            f"tensor {proof.facts.name!r} is not part of the model with this root",
            field="tensor",
            value=proof.facts.name,
        )


def check_model(
    commitment: Commitment, tensors: Sequence[Tensor], salts: Salts | None = None
) -> None:
    """Raise `NotVerified`, naming the first tensor that differs, unless the model is the committed.

    Errors: `BadParameters` where the commitment is salted and no salts are given, or the reverse.
    """
    if commitment.salted != (salts is not None):
        raise BadParameters(
            "a salted commitment is checked with its salts, or tensor by tensor with proofs"
            if commitment.salted
            else "the commitment has no salts",
            field="salts",
        )
    here: Mapping[str, Tensor] = {tensor.name: tensor for tensor in tensors}
    for facts, leaf in zip(commitment.tensors, commitment.leaves, strict=True):
        tensor = here.get(facts.name)
        if tensor is None or tensor.facts != facts:
            what = "is not there" if tensor is None else "has another type or shape"
        elif _leaf(facts, _salt(salts, facts.name), tensor.data) != leaf:
            what = "has other values (or the salts are not these)" if salts else "has other values"
        else:
            continue
        raise NotVerified(f"tensor {facts.name!r} {what}", field="tensor", value=facts.name)
    for name in sorted(here.keys() - {facts.name for facts in commitment.tensors}):
        raise NotVerified(f"tensor {name!r} was not committed to", field="tensor", value=name)


def _salt(salts: Salts | None, name: str) -> bytes:
    return salts.of(name) if salts is not None else b""


def _leaf(facts: Facts, salt: bytes, data: bytes) -> bytes:
    inside = [
        "tacit model tensor 1",
        facts.name,
        facts.dtype,
        list(facts.shape),
        salt,
        hashlib.sha256(data).digest(),
    ]
    return merkle.leaf_hash(msgpack.packb(inside))


def _root(count: int, salted: bool, listing: bytes, tree: bytes) -> bytes:
    return digest(b"tacit model root 1", count, salted, listing, tree)


def _fields(data: Any, names: set[str]) -> None:
    if not isinstance(data, dict) or data.keys() != names:
        raise ValueError("other fields")


def _facts(data: Any) -> Facts:
    _fields(data, {"name", "dtype", "shape"})
    if not isinstance(data["shape"], list):
        raise ValueError("a shape is a list of sizes")
    shape = tuple(_count(size) for size in data["shape"])
    return Facts(_text(data["name"]), _text(data["dtype"]), shape)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"sizes, index and count are integers from 0 to {LARGEST}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("name and type are text")
    value.encode()  # JSON can say half a character; that it has no bytes is a ValueError too
    return value

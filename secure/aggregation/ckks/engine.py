"""SEAL's part: the transform, encryptions of zero, and products with the secret key.

SEAL reads and writes its objects as files. They go through a file in memory, which has no name
outside this process. What SEAL reads is laid out here, field by field: of what another party sent,
only residues that were checked and seeds ever reach it.
Source: SEAL 4 (native/src/seal, `save_members` of Ciphertext, Plaintext and DynArray).
"""

from __future__ import annotations

import os
import struct
import weakref
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import tenseal.sealapi as seal
from tenseal.sealapi import util

from secure.aggregation.ckks.facts import SEED
from secure.aggregation.ckks.parameters import DATA, DEGREE, PRIMES
from secure.aggregation.ckks.residues import PRIME, Words
from secure.ckks.standard import check_primes
from secure.errors import BadParameters

_ZSTD = 2
_BLAKE2XB = 1
_WORDS = len(DATA) * DEGREE
_TABLES = [util.NTTTables(DEGREE.bit_length() - 1, seal.Modulus(prime)) for prime in PRIMES]


def transform(residues: Words) -> Words:
    """Return the number theoretic transform of polynomials, [primes, degree] of coefficients."""
    return _each(util.ntt_negacyclic_harvey, residues)


def coefficients(words: Words) -> Words:
    """Return the coefficients, [primes, degree], of what was transformed."""
    # SEAL's binding leaves the last reduction out.
    return _each(util.inverse_ntt_negacyclic_harvey, words) % PRIME


def _each(function: Any, rows: Words) -> Words:
    done = [array("Q", function(r.tolist(), t)) for r, t in zip(rows, _TABLES, strict=False)]
    return np.stack([np.frombuffer(row, dtype=np.uint64) for row in done])


class Key:
    """A job's secret key in SEAL. One thread at a time; it does not travel.

    Shapes: `secret` [degree], coefficients in {-1, 0, 1}. Errors: `BadParameters` where SEAL was
    built otherwise than this module expects.
    """

    def __init__(self, secret: npt.NDArray[np.int64]) -> None:
        check_primes(DEGREE, PRIMES)
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(DEGREE)
        parameters.set_coeff_modulus([seal.Modulus(prime) for prime in PRIMES])
        self._context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self._context.parameters_set():
            raise BadParameters(
                f"SEAL refuses the parameters: {self._context.parameters_error_name()}",
                field="primes",
            )
        self._file = os.memfd_create("tacit")
        weakref.finalize(self, os.close, self._file)
        self._front = _seeded_front(self._context.first_parms_id())
        key = seal.SecretKey()
        key.load(self._context, self._holding(_secret_file(self._context.key_parms_id(), secret)))
        self._holding(b"")
        self._encryptor = seal.Encryptor(self._context, key)
        self._decryptor = seal.Decryptor(self._context, key)
        self._evaluator = seal.Evaluator(self._context)
        # SEAL keeps their memory from one load to the next.
        self._total, self._other = seal.Ciphertext(), seal.Ciphertext()

    def zero(self) -> tuple[Words, bytes]:
        """Encrypt zero: the half c0, transformed, [primes, degree], and the seed of the half c1.

        The noise is SEAL's, at most `parameters.NOISE` per coefficient. Privacy: c0 plus a
        transformed plaintext hides the plaintext from whoever lacks the key.
        """
        size = len(self._front) + _WORDS * 8 + _SEED_FRONT + SEED
        raw = self._written(self._encryptor.encrypt_zero_symmetric(), size)
        words = np.frombuffer(raw, "<u8", _WORDS, len(self._front)).reshape(-1, DEGREE)
        if raw != _seeded(self._front, words, raw[-SEED:]):
            raise BadParameters("SEAL saves a ciphertext in another layout", field="seal")
        return words, raw[-SEED:]

    def times(self, seeds: Sequence[bytes]) -> Words:
        """Return the coefficients of the key times the sum of the halves of these seeds.

        Privacy: added to the sum of the halves c0 it opens the sum. It leaves under a flood only.
        """
        blank = np.zeros(_WORDS, dtype="<u8")
        for at, seed in enumerate(seeds):
            half = self._other if at else self._total
            half.load(self._context, self._holding(_seeded(self._front, blank, seed)))
            if at:
                self._evaluator.add_inplace(self._total, self._other)
        product = seal.Plaintext()
        self._decryptor.decrypt(self._total, product)
        raw = self._written(product, 16 + _PLAIN_FRONT + _WORDS * 8)
        words = np.frombuffer(raw, "<u8", _WORDS, len(raw) - _WORDS * 8)
        return coefficients(words.reshape(-1, DEGREE))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret key does not travel")

    def _holding(self, body: bytes) -> str:
        """The path of the file in memory, with this in it."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, body, 0)
        return f"/proc/self/fd/{self._file}"

    def _written(self, thing: Any, size: int) -> bytes:
        """What SEAL saves of a thing, as it would be without compression."""
        thing.save(self._holding(b""))
        raw = os.pread(self._file, os.fstat(self._file).st_size, 0)
        if raw[5] != _ZSTD:
            raise BadParameters("SEAL compresses otherwise than by zstd", field="seal")
        body = pyarrow.decompress(raw[16:], decompressed_size=size - 16, codec="zstd", asbytes=True)
        return _header(size) + bytes(body)


_PLAIN_FRONT = 32 + 8 + 8 + 16 + 8  # parameters, number of coefficients, scale, header, words
_SEED_FRONT = 16 + 1  # header and kind of generator


def _header(size: int) -> bytes:
    """The header of a thing of so many bytes, header included, that is not compressed."""
    own = seal.Serialization.SEALHeader()
    version = own.version_major, own.version_minor
    return struct.pack("<HBBBBHQ", own.magic, own.header_size, *version, 0, 0, size)


def _seeded_front(parameters: Sequence[int]) -> bytes:
    """What stands before the residues of a ciphertext of two halves, one of them a seed."""
    array = _header(16 + 8 + _WORDS * 8) + struct.pack("<Q", _WORDS)
    terms = struct.pack("<4QBQQQdQ", *parameters, 1, 2, DEGREE, len(DATA), 1.0, 1)
    front = len(terms) + len(array)
    return _header(16 + front + _WORDS * 8 + _SEED_FRONT + SEED) + terms + array


def _seeded(front: bytes, words: npt.NDArray[Any], seed: bytes) -> bytes:
    """A ciphertext as SEAL loads it."""
    generator = _header(_SEED_FRONT + SEED) + bytes([_BLAKE2XB])
    return front + words.astype("<u8", copy=False).tobytes() + generator + seed


def _secret_file(parameters: Sequence[int], secret: npt.NDArray[np.int64]) -> bytes:
    """A secret key as SEAL loads it."""
    rows = np.stack([(secret % prime).astype(np.uint64) for prime in PRIMES])
    words = transform(rows)
    array = _header(16 + 8 + words.nbytes) + struct.pack("<Q", words.size)
    terms = struct.pack("<4QQd", *parameters, words.size, 1.0)
    body = terms + array + words.astype("<u8").tobytes()
    return _header(16 + len(body)) + body

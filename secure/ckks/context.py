"""One plan's parameters in SEAL: the context, the sizes of its objects, levels by number."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import tenseal.sealapi as sealapi

from secure.ckks import blobs
from secure.ckks.plan import Plan
from secure.errors import BadMessage, BadParameters

Ciphertext: TypeAlias = Any  # the bindings have no types
Plaintext: TypeAlias = Any


class Context:
    """SEAL under a checked plan. SEAL's own (looser) caps are enforced a second time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(plan.ring)
        parameters.set_coeff_modulus(
            [sealapi.Modulus(prime) for prime in (*plan.primes, plan.special)]
        )
        self.seal = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self.seal.parameters_set():
            raise BadParameters(
                f"plan: SEAL refuses the parameters ({self.seal.parameters_error_name()})",
                field="primes",
            )
        self.encoder = sealapi.CKKSEncoder(self.seal)

    @cached_property
    def levels(self) -> dict[int, list[int]]:
        """SEAL's name of each level, by the number of primes that are left."""
        found, data = {}, self.seal.first_context_data()
        while data is not None:
            found[data.chain_index() + 1] = data.parms_id()
            data = data.next_context_data()
        return found

    def ciphertext_bytes(self, level: int) -> int:
        """Bytes of a ciphertext of two polynomials, unpacked, with its own small fields."""
        return 2 * 8 * self.plan.ring * level + 1024

    def key_bytes(self, keys: int, slots: int) -> int:
        """Bytes of a set of keys, unpacked: two polynomials per prime, under all primes.

        `slots` counts the places of SEAL's list of keys, empty or not.
        """
        top = len(self.plan.primes)
        return keys * top * (2 * 8 * self.plan.ring * (top + 1) + 1024) + 16 * slots + 1024

    def ciphertext(self, data: bytes, level: int, scale: float) -> Ciphertext:
        """Read a ciphertext that must be of this level and scale."""
        found = blobs.load(sealapi.Ciphertext, self.seal, data, self.ciphertext_bytes(level))
        right = (
            found.parms_id() == self.levels[level]
            and found.size() == 2
            and found.is_ntt_form()
            and found.scale == scale
        )
        if not right:
            raise BadMessage("a ciphertext of another level, size or scale", field="ciphertexts")
        return found

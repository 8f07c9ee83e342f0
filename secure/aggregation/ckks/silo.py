"""One silo in the encrypted sums of a job.

    silo = Silo(terms, "north", identity, secret)
    advert = silo.advertise()                       # once per job, and again after a crash
    deal = silo.deal(roster)                        # only the first silo by name
    packed = silo.encrypt(deal, round, values)      # store it durably BEFORE it leaves
    packed = silo.open(deal, round, opening)        # only the two silos that open

**The contract of the secret.** It is 32 random bytes of this silo and this job, kept where the
job's samples and noise are derived from, and destroyed when the job is settled; then what was
recorded of the job can no longer be read with this silo's keys. Everything a silo says follows from
it and from what it is asked, but for `encrypt`: an encryption is random. **The caller stores what
`encrypt` returned and answers with the same bytes in the same round**, however often it is asked:
two encryptions in one round are two sums that could be opened, and their difference is noise.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secure.aggregation.ckks.engine import Key, transform
from secure.aggregation.ckks.facts import SEED, Terms
from secure.aggregation.ckks.messages import (
    Advert,
    Deal,
    Encrypted,
    Half,
    Opened,
    Opening,
    Roster,
)
from secure.aggregation.ckks.parameters import DEGREE
from secure.aggregation.ckks.residues import PRIME, flood, lift, ternary, to_bytes
from secure.aggregation.masks import agree, derive, public_of
from secure.aggregation.packing import check_signature, pack, signed, unpack
from secure.errors import BadMessage, BadParameters, RoundRefused
from secure.exchange.envelope import Signer

_ONCE = bytes(12)
"""The nonce where a key seals one message only."""


class Silo:
    """A silo that encrypts, and opens sums where it is one of the two that do.

    Privacy: a ciphertext tells nothing to whoever lacks the job's key; what opens a sum opens that
    of all silos of one round and is flooded. See `secure.aggregation.ckks` for what that leaves.
    Errors: `BadMessage` and `BadSignature` for what the coordinator sent, `RoundRefused` for what
    this silo does not do, `BadParameters` for a vector or round that the terms do not allow.
    """

    __slots__ = ("_identity", "_key", "_root", "_secret", "name", "terms")

    def __init__(self, terms: Terms, name: str, identity: Signer, secret: bytes) -> None:
        if terms.members.get(name) != identity.public:
            raise RoundRefused(
                f"{name} is no member of this job with this identity key", field="members"
            )
        self.terms = terms
        self.name = name
        self._identity = identity
        self._secret = secret
        self._root = b""
        self._key: Key | None = None

    def advertise(self) -> bytes:
        """Return this silo's signed `Advert`."""
        advert = Advert(self.name, public_of(self._own()))
        return pack(self.terms, signed(self.terms, advert, self._identity))

    def deal(self, roster: bytes) -> bytes:
        """Make the job's key, the same whenever asked, and return the signed `Deal`."""
        terms = self.terms
        if self.name != terms.maker:
            raise RoundRefused(
                f"{self.name} does not make the key of this job, {terms.maker} does", field="step"
            )
        keys: dict[str, bytes] = {}
        for packed in unpack(terms, Roster, roster).adverts:
            advert = unpack(terms, Advert, packed)
            check_signature(terms, advert)
            keys[advert.sender] = advert.key
        if list(keys) != list(terms.members):
            raise BadMessage("a roster is not of every silo once, by name", field="adverts")
        sealed = {
            name: ChaCha20Poly1305(self._between(key, name)).encrypt(_ONCE, self._made(), None)
            for name, key in keys.items()
            if name != self.name
        }
        deal = Deal(self.name, public_of(self._own()), sealed)
        return pack(terms, signed(terms, deal, self._identity))

    def encrypt(self, deal: bytes, round: int, values: npt.NDArray[np.integer[Any]]) -> bytes:
        """Encrypt this silo's integers of a round; return the `Encrypted`, to be stored first.

        Shapes: `values` [length], each at most the quantizer's bound in absolute value.
        """
        terms, key = self.terms.at(round), self._held(deal)
        budget = terms.budget
        bound = budget.quantizer.bound
        if values.dtype.kind not in "iu" or values.shape != (terms.length,):
            raise BadParameters(
                f"a vector of {values.dtype} {values.shape}; the job sums {terms.length} integers",
                field="values",
            )
        if int(values.max()) > bound or int(values.min()) < -bound:
            raise BadParameters(f"a vector passes the bound {bound} of the job", field="values")
        padded = np.zeros(budget.chunks * DEGREE, dtype=np.int64)
        padded[: terms.length] = values
        words, seeds = [], []
        for part in padded.reshape(-1, DEGREE):
            zero, seed = key.zero()
            words.append((zero + transform(lift(part, budget.shift))) % PRIME)
            seeds.append(seed)
        half = signed(terms, Half(self.name, b"".join(seeds)), self._identity)
        return pack(terms, Encrypted(pack(terms, half), to_bytes(np.stack(words))))

    def open(self, deal: bytes, round: int, opening: bytes) -> bytes:
        """Return the `Opened` of a round: what opens the sum of all silos' signed halves.

        The flood is drawn from the job's key for this list, so that both silos, and a repeat,
        answer the same bytes.
        """
        terms, key = self.terms.at(round), self._held(deal)
        if self.name not in terms.openers:
            raise RoundRefused(f"{self.name} is not one of the two silos that open", field="step")
        seeds = []
        for name, packed in zip(
            terms.members, unpack(terms, Opening, opening).halves, strict=False
        ):
            half = unpack(terms, Half, packed)
            check_signature(terms, half)
            if half.sender != name:
                raise BadMessage("an opening is not of every silo once, by name", field="halves")
            seeds.append([half.seeds[i : i + SEED] for i in range(0, len(half.seeds), SEED)])
        if len(seeds) < len(terms.members):
            raise BadMessage("an opening lacks a silo: nothing is opened", field="halves")
        products = [key.times(of) for of in zip(*seeds, strict=True)]
        product = np.concatenate(products, axis=1)[:, : terms.length]
        of = hashlib.blake2b(opening, digest_size=32).hexdigest()
        over = flood(derive(terms, "flood", self._root, of), terms.length, terms.budget.flood)
        return pack(terms, Opened(to_bytes((product + over) % PRIME)))

    def __repr__(self) -> str:
        return f"<Silo {self.name} of {self.terms.federation}/{self.terms.job}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a silo holds secrets and does not travel")

    def _own(self) -> bytes:
        """The X25519 secret of this silo in the job."""
        return derive(self.terms, "agreement", self._secret, self.name)

    def _made(self) -> bytes:
        """The root key that this silo makes."""
        return derive(self.terms, "root", self._secret, self.name)

    def _between(self, public: bytes, receiver: str) -> bytes:
        """The key that seals the root for one silo."""
        secret = agree(self._own(), public)
        return derive(self.terms, "seal", secret, self.terms.maker, receiver)

    def _held(self, packed: bytes) -> Key:
        """The job's key out of the deal; a deal of another key than before is refused."""
        terms = self.terms
        deal = unpack(terms, Deal, packed)
        check_signature(terms, deal)
        if deal.sender != terms.maker:
            raise BadMessage("a deal of another silo than the first", field="sender")
        root = self._made() if self.name == terms.maker else self._unsealed(deal)
        if self._key is None:
            self._root, self._key = root, Key(ternary(derive(terms, "secret key", root)))
        if root != self._root:
            raise RoundRefused("a job has one key, and this is another", field="key")
        return self._key

    def _unsealed(self, deal: Deal) -> bytes:
        try:
            key = self._between(deal.key, self.name)
            return ChaCha20Poly1305(key).decrypt(_ONCE, deal.sealed.get(self.name, b""), None)
        except (InvalidTag, ValueError):
            raise BadMessage("a deal that is not sealed for this silo", field="sealed") from None

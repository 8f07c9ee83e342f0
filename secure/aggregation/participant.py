"""One silo in a round of masked aggregation, as a state machine without a transport.

    participant = Participant(facts, "north", key)     # only if nothing is stored for facts.key
    advert = participant.advertise()
    store(facts.key, participant.state())              # durable BEFORE the message leaves
    send(advert)

Each of the five steps takes the coordinator's message and returns the silo's:
`advertise`, `share_keys`, `mask`, `consent`, `unmask`.

**The contract of the stored state.** `state()` holds secrets: the round's keys, the silo's seed and
the others' shares. The caller seals it at rest, and stores it durably, under `facts.key`, after
every step and before it sends what the step returned. After a crash it goes on with `from_state`,
and builds a new `Participant` only where nothing is stored under that key. Then, wherever the
process is killed, the silo signs one list of survivors per round, opens one of the two secrets of
each silo, masks one vector, and never the same vector under two member sets in one round. Somebody
who can put back an older state can break all of this: store it where the ledger is stored. The
state does not hold the vector; to send a masked vector again, call `mask` with the same one.

A step that was taken answers again, with the same bytes, to the same input, and refuses any other
input with `RoundRefused`. A step that raised has changed nothing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from secure.aggregation.masks import (
    SEALED,
    agree,
    apply,
    commit,
    derive,
    open_shares,
    pair_key,
    public_of,
    seal_shares,
    self_key,
)
from secure.aggregation.messages import (
    Advertise,
    Consent,
    Consents,
    Delivery,
    EncryptedShares,
    MaskedInput,
    Opened,
    Roster,
    Shares,
    Survivors,
    lists_digest,
)
from secure.aggregation.packing import check_signature, pack, signed, unpack
from secure.aggregation.rounds import Round
from secure.aggregation.shamir import SHARE, split
from secure.errors import BadMessage, BadParameters, BadSignature, RoundRefused
from secure.exchange.envelope import Signer

STEPS = ("advertise", "share_keys", "mask", "consent", "unmask")
"""The steps of a silo, in their order."""


@dataclass
class _State:
    """What outlives the process. Every field is secret or tells who is in the round."""

    mask_secret: bytes = field(default=b"", repr=False)
    share_secret: bytes = field(default=b"", repr=False)
    seed: bytes = field(default=b"", repr=False)
    peers: dict[str, list[bytes]] = field(default_factory=dict, repr=False)  # mask, share keys
    held: dict[str, list[bytes]] = field(default_factory=dict, repr=False)  # seed, key shares
    survivors: list[str] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list, repr=False)  # per step, what it was given
    sent: list[bytes] = field(default_factory=list, repr=False)  # per step, what it answered


class Participant:
    """A silo in one round. It never shows its secrets: no repr, no pickle, no copy.

    Privacy: what leaves through its five messages lets the coordinator compute the sum over one
    list of at least t survivors, and nothing else.
    Errors: `BadMessage` and `BadSignature` for what the coordinator sent, `TooFewSilos` below the
    threshold, `RoundRefused` for a step out of order or a second answer, `BadParameters` for a
    vector that the round does not allow.
    Source: Bonawitz et al. 2017, figure 4, the user's part.
    """

    __slots__ = ("_key", "_state", "facts", "name")

    def __init__(self, facts: Round, name: str, key: Signer) -> None:
        if facts.members.get(name) != key.public:
            raise RoundRefused(
                f"{name} is no member of this round with this identity key", field="members"
            )
        self.facts = facts
        self.name = name
        self._key = key
        self._state = _State()

    def advertise(self) -> bytes:
        """Draw fresh keys and return the signed `Advertise`."""
        if (again := self._repeated("advertise", b"")) is not None:
            return again
        mask_secret, share_secret = os.urandom(32), os.urandom(32)
        advert = Advertise(self.name, public_of(mask_secret), public_of(share_secret))
        packed = pack(self.facts, signed(self.facts, advert, self._key))
        self._state.mask_secret, self._state.share_secret = mask_secret, share_secret
        return self._taken(b"", packed)

    def share_keys(self, roster: bytes) -> bytes:
        """Check the `Roster`, share seed and mask key among its silos, return the `Shares`."""
        if (again := self._repeated("share_keys", roster)) is not None:
            return again
        facts, state = self.facts, self._state
        peers = self._peers(unpack(facts, Roster, roster))
        seed = os.urandom(32)
        count = len(facts.members)
        seeds = split(seed, facts.threshold, count)
        keys = split(state.mask_secret, facts.threshold, count)
        sealed = []
        for peer in peers:
            at = facts.place(peer) - 1
            sealed.append(self._for(peer, peers[peer][1], seeds[at], keys[at]))
        own = facts.place(self.name) - 1
        state.seed, state.peers = seed, peers
        state.held = {self.name: [seeds[own], keys[own]]}
        return self._taken(roster, pack(facts, Shares(self.name, sealed)))

    def mask(self, delivery: bytes, values: npt.NDArray[np.integer[Any]]) -> bytes:
        """Keep the shares of the `Delivery` and return the `MaskedInput` of the silo's integers.

        Shapes: `values` [length], each at most `bound` in absolute value. Privacy: the masked
        vector is uniform over the ring to whoever lacks the silo's seed or a pair key.
        """
        facts, state = self.facts, self._state
        vector = self._vector(values)
        given = delivery + hashlib.blake2b(vector.tobytes()).digest()
        first = self._repeated("mask", given) is None
        held = state.held | self._open(unpack(facts, Delivery, delivery)) if first else state.held
        if not state.seed:
            raise RoundRefused("the keys of this round are deleted", field="step", value="mask")
        apply(vector, self_key(facts, state.seed, self.name))
        for peer in held.keys() - {self.name}:
            public = state.peers[peer][0]
            key = pair_key(facts, state.mask_secret, public, self.name, peer)
            apply(vector, key, subtract=peer < self.name)
        if first:
            state.held = held
            self._taken(given, b"")
        return pack(facts, MaskedInput(self.name, vector.tobytes()))

    def consent(self, survivors: bytes) -> bytes:
        """Sign the one list of `Survivors` of this round and return the `Consent`."""
        if (again := self._repeated("consent", survivors)) is not None:
            return again
        facts, state = self.facts, self._state
        names = unpack(facts, Survivors, survivors).survivors
        if self.name not in names or not state.held.keys() >= set(names):
            raise BadMessage(
                "the survivors lack this silo or name one whose shares it does not have",
                field="survivors",
            )
        facts.enough(names, "survive")
        lists = lists_digest(facts, state.held, names)
        packed = pack(facts, signed(facts, Consent(self.name, lists), self._key))
        state.survivors = names
        return self._taken(survivors, packed)

    def unmask(self, consents: bytes) -> bytes:
        """Check the `Consents`, return the shares to open, delete every secret of the round."""
        if (again := self._repeated("unmask", consents)) is not None:
            return again
        facts, state = self.facts, self._state
        self._agreed(unpack(facts, Consents, consents))
        dropped = sorted(state.held.keys() - set(state.survivors))
        opened = Opened(
            self.name,
            seeds={name: state.held[name][0] for name in state.survivors},
            keys={name: state.held[name][1] for name in dropped},
        )
        answer = self._taken(consents, pack(facts, opened))
        state.mask_secret = state.share_secret = state.seed = b""
        state.peers, state.held = {}, {}
        return answer

    def state(self) -> bytes:
        """Return everything to go on from, secrets included; seal it at rest, store it first."""
        body = {item.name: getattr(self._state, item.name) for item in fields(_State)}
        packed: bytes = msgpack.packb({"facts": self.facts.digest, "name": self.name} | body)
        return packed

    @classmethod
    def from_state(cls, state: bytes, facts: Round, name: str, key: Signer) -> Participant:
        """Go on from what `state` returned.

        Errors: `RoundRefused` where the state is of another round, silo or list of members,
        `BadMessage` where it is no state.
        """
        participant = cls(facts, name, key)
        try:
            body = msgpack.unpackb(state)
            bound = body.pop("facts"), body.pop("name")
            kept = _State(**body)
            whole = len(body) == len(fields(_State)) and len(kept.given) == len(kept.sent)
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if not whole:
            raise BadMessage("a stored state is not one of a participant", field="state")
        if bound != (facts.digest, name):
            raise RoundRefused(
                "the stored state is of another round, silo or list of members; "
                "a silo takes part in a round once",
                field="state",
            )
        blank = _State()
        for item in fields(_State):
            if type(getattr(kept, item.name)) is not type(getattr(blank, item.name)):
                raise BadMessage("a stored state has a field of a wrong type", field=item.name)
        participant._state = kept
        return participant

    def __repr__(self) -> str:
        taken = len(self._state.given)
        return f"<Participant {self.name} of {self.facts.key}, {taken} of {len(STEPS)} steps taken>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a participant holds secrets and does not travel; use state()")

    def _repeated(self, step: str, given: bytes) -> bytes | None:
        """Return the stored answer of a step that was taken; refuse another one, or another turn.

        The answer of `mask` is not stored: it is empty, and computed again.
        """
        at, taken = STEPS.index(step), self._state.given
        if at < len(taken):
            if taken[at] != _digest(given):
                raise RoundRefused(
                    f"{step} was answered already in this round, to another input; "
                    "a silo answers once",
                    field="step",
                    value=step,
                )
            return self._state.sent[at]
        if at > len(taken):
            raise RoundRefused(
                f"{step} comes after {STEPS[at - 1]}", field="step", value=step, allowed=STEPS
            )
        return None

    def _taken(self, given: bytes, sent: bytes) -> bytes:
        self._state.given.append(_digest(given))
        self._state.sent.append(sent)
        return sent

    def _peers(self, roster: Roster) -> dict[str, list[bytes]]:
        facts = self.facts
        peers: dict[str, list[bytes]] = {}
        for packed in roster.adverts:
            advert = unpack(facts, Advertise, packed)
            check_signature(facts, advert)
            if advert.sender in peers:
                raise BadMessage("a roster names a silo twice", field="adverts")
            peers[advert.sender] = [advert.mask_key, advert.share_key]
            if advert.sender == self.name and packed != self._state.sent[0]:
                raise RoundRefused("a roster holds other keys of this silo", field="adverts")
        if self.name not in peers:
            raise BadMessage("a roster lacks this silo", field="adverts")
        keys = [key for pair in peers.values() for key in pair]
        if len(set(keys)) < len(keys):
            raise BadMessage("a roster holds one key twice", field="adverts")
        facts.enough(peers, "advertised")
        return peers

    def _for(self, peer: str, public: bytes, seed: bytes, key: bytes) -> bytes:
        """Encrypt one silo's two shares; of its own the silo commits to, and encrypts, nothing."""
        facts = self.facts
        if peer == self.name:
            sealed = os.urandom(SEALED)
        else:
            secret = derive(
                facts, "shares", agree(self._state.share_secret, public), self.name, peer
            )
            sealed = seal_shares(secret, seed + key, _bound(facts, self.name, peer))
        shares = EncryptedShares(
            self.name,
            peer,
            sealed,
            commit(facts, "seed", self.name, peer, seed),
            commit(facts, "key", self.name, peer, key),
        )
        return pack(facts, signed(facts, shares, self._key))

    def _open(self, delivery: Delivery) -> dict[str, list[bytes]]:
        facts, state = self.facts, self._state
        if delivery.receiver != self.name:
            raise BadMessage("a delivery for another silo", field="receiver")
        held: dict[str, list[bytes]] = {}
        for packed in delivery.sealed:
            shares = unpack(facts, EncryptedShares, packed)
            check_signature(facts, shares)
            sender = shares.sender
            if shares.receiver != self.name:
                raise BadMessage("a share for another silo", field="receiver", value=sender)
            if sender == self.name or sender in held or sender not in state.peers:
                raise BadMessage("a share twice, or of no silo of the roster", field="sender")
            secret = agree(state.share_secret, state.peers[sender][1])
            opened = open_shares(
                derive(facts, "shares", secret, sender, self.name),
                shares.sealed,
                _bound(facts, sender, self.name),
            )
            seed, key = opened[:SHARE], opened[SHARE:]
            if (
                commit(facts, "seed", sender, self.name, seed) != shares.seed_commitment
                or commit(facts, "key", sender, self.name, key) != shares.key_commitment
            ):
                raise BadMessage(
                    f"a share of {sender} is not the one it is committed to", field="sealed"
                )
            held[sender] = [seed, key]
        facts.enough([*held, self.name], "shared their keys")
        return held

    def _vector(self, values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Return the integers as residues, in an array of its own."""
        facts = self.facts
        if values.dtype.kind not in "iu" or values.shape != (facts.length,):
            raise BadParameters(
                f"a vector of {values.dtype} {values.shape}; the round sums "
                f"{facts.length} integers",
                field="values",
            )
        if int(values.max()) > facts.bound or int(values.min()) < -facts.bound:
            raise BadParameters(
                f"a vector passes the bound {facts.bound} of the round", field="values"
            )
        return values.astype(facts.dtype)

    def _agreed(self, consents: Consents) -> None:
        facts, state = self.facts, self._state
        lists = lists_digest(facts, state.held, state.survivors)
        signers: set[str] = set()
        for packed in consents.consents:
            consent = unpack(facts, Consent, packed)
            check_signature(facts, consent)
            if consent.sender in signers or consent.sender not in state.survivors:
                raise BadSignature("a consent twice, or of no survivor", field="consents")
            if consent.lists != lists:
                raise RoundRefused(
                    "the silos did not sign the same lists: nothing is opened", field="consents"
                )
            signers.add(consent.sender)
        facts.enough(signers, "signed the list of survivors")


def _bound(facts: Round, sender: str, receiver: str) -> bytes:
    """Return what is authenticated beside two encrypted shares."""
    bound: bytes = msgpack.packb(
        [facts.federation, facts.job, facts.number, facts.digest, sender, receiver]
    )
    return bound


def _digest(given: bytes) -> bytes:
    return hashlib.blake2b(given, digest_size=32).digest()

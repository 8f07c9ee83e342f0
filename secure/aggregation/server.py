"""The coordinator in a round of masked aggregation, as a state machine without a transport.

    server = Server(facts)
    for phase in PHASES:
        while server.waiting() and not too_late:
            server.receive(sender, packed)             # the sender of a checked envelope
        for silo, packed in server.advance().items():
            send(silo, packed)
    server.survivors, server.total()

It holds the sum of masked vectors, never one vector, and no state is kept: a coordinator that
stops ends the round, and the next one has fresh keys.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from secure.aggregation.masks import agree, apply, commit, pair_key, public_of, self_key
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
from secure.aggregation.packing import check_signature, pack, unpack
from secure.aggregation.rounds import Ring, Round
from secure.aggregation.shamir import combine
from secure.errors import BadMessage, RoundRefused

F = TypeVar("F", Advertise, EncryptedShares, Shares, MaskedInput, Consent, Opened)

PHASES = ("advertise", "share_keys", "mask", "consent", "unmask")
"""What the coordinator collects, in order."""

_WHAT = ("advertised", "shared their keys", "sent a masked vector", "consented", "opened shares")


class Server:
    """The coordinator of one round.

    `receive` takes one silo's message of the present phase, `advance` closes the phase and returns
    what to send to whom, `total` returns the sum.
    Privacy: it learns the sum over the survivors; see `secure.aggregation` for what that leaves.
    Errors: `BadMessage` and `BadSignature` for a silo's message, which then counts as not sent;
    `RoundRefused` for one out of turn; `TooFewSilos` below the threshold.
    Source: Bonawitz et al. 2017, figure 4, the server's part.
    """

    def __init__(self, facts: Round) -> None:
        self.facts = facts
        self.phase = 0
        self._heard: list[dict[str, bytes]] = [{} for _ in PHASES]  # digests, by sender
        self._adverts: dict[str, bytes] = {}
        self._mask_keys: dict[str, bytes] = {}
        self._shares: dict[str, dict[str, tuple[bytes, EncryptedShares]]] = {}
        self._sum: Ring = np.zeros(facts.length, dtype=facts.dtype)
        self._lists = b""
        self._consents: dict[str, bytes] = {}
        self._opened: dict[str, Opened] = {}
        self._done = False

    @property
    def survivors(self) -> list[str]:
        """The silos whose vectors are in the sum, sorted."""
        return sorted(self._heard[2])

    def waiting(self) -> frozenset[str]:
        """Return the silos that may still send their message of the present phase."""
        if self.phase == len(PHASES):
            return frozenset()
        asked = self._heard[self.phase - 1] if self.phase else self.facts.members
        return frozenset(asked) - frozenset(self._heard[self.phase])

    def receive(self, sender: str, packed: bytes) -> None:
        """Take a silo's message of the present phase; the same bytes again change nothing."""
        digest = hashlib.blake2b(packed, digest_size=32).digest()
        if any(heard.get(sender) == digest for heard in self._heard):
            return
        if sender not in self.waiting():
            raise RoundRefused(
                f"{sender} is not asked for anything now, or has answered otherwise",
                field="sender",
                value=sender,
            )
        take = (self._advert, self._share, self._mask, self._consent, self._open)[self.phase]
        take(sender, packed)
        self._heard[self.phase][sender] = digest

    def advance(self) -> dict[str, bytes]:
        """Close the phase and return each silo's next message, empty after the last phase."""
        if self.phase == len(PHASES):
            raise RoundRefused("the round is over", field="phase")
        facts, heard = self.facts, sorted(self._heard[self.phase])
        facts.enough(heard, _WHAT[self.phase])
        self.phase += 1
        if self.phase == 1:
            roster = pack(facts, Roster([self._adverts[name] for name in heard]))
        elif self.phase == 2:
            return {name: self._delivery(name, heard) for name in heard}
        elif self.phase == 3:
            self._lists = lists_digest(facts, self._shares, heard)
            roster = pack(facts, Survivors(heard))
        elif self.phase == 4:
            roster = pack(facts, Consents([self._consents[name] for name in heard]))
        else:
            return {}
        return dict.fromkeys(heard, roster)

    def total(self) -> npt.NDArray[np.int64]:
        """Return the sum of the survivors' integers, [length].

        Errors: `RoundRefused` before the last phase is closed, `BadMessage` where a silo had
        shared something else than its secret, or another key than it advertised.
        """
        if self.phase < len(PHASES):
            raise RoundRefused("the round is not over: there is no sum", field="phase")
        if not self._done:
            self._unmask()
            self._done = True
        signed = self._sum.view(self._sum.dtype.str.replace("u", "i"))
        return signed.astype(np.int64)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a coordinator's round holds opened shares and does not travel")

    def _advert(self, sender: str, packed: bytes) -> None:
        advert = _from(sender, unpack(self.facts, Advertise, packed))
        check_signature(self.facts, advert)
        for key in (advert.mask_key, advert.share_key):
            agree(os.urandom(32), key)  # a key of small order would stop the others later
        self._adverts[sender] = packed
        self._mask_keys[sender] = advert.mask_key

    def _share(self, sender: str, packed: bytes) -> None:
        message = _from(sender, unpack(self.facts, Shares, packed))
        parts: dict[str, tuple[bytes, EncryptedShares]] = {}
        for item in message.sealed:
            shares = _from(sender, unpack(self.facts, EncryptedShares, item))
            check_signature(self.facts, shares)
            parts[shares.receiver] = (item, shares)
        if list(parts) != sorted(self._heard[0]) or len(parts) != len(message.sealed):
            raise BadMessage("shares are not one for each silo of the roster", field="sealed")
        self._shares[sender] = parts

    def _mask(self, sender: str, packed: bytes) -> None:
        message = _from(sender, unpack(self.facts, MaskedInput, packed))
        self._sum += np.frombuffer(message.values, dtype=self.facts.dtype)

    def _consent(self, sender: str, packed: bytes) -> None:
        consent = _from(sender, unpack(self.facts, Consent, packed))
        check_signature(self.facts, consent)
        if consent.lists != self._lists:
            raise BadMessage("a consent to other lists", field="lists")
        self._consents[sender] = packed

    def _open(self, sender: str, packed: bytes) -> None:
        opened = _from(sender, unpack(self.facts, Opened, packed))
        if list(opened.seeds) != self.survivors or list(opened.keys) != self._dropped():
            raise BadMessage("shares of other silos than were asked for", field="seeds")
        for kind, opened_shares in (("seed", opened.seeds), ("key", opened.keys)):
            for owner, share in opened_shares.items():
                committed = self._shares[owner][sender][1]
                expected = committed.seed_commitment if kind == "seed" else committed.key_commitment
                if commit(self.facts, kind, owner, sender, share) != expected:
                    raise BadMessage(
                        f"{sender} opens a share of {owner} that {owner} did not make",
                        field="share",
                        value=sender,
                    )
        self._opened[sender] = opened

    def _delivery(self, receiver: str, senders: list[str]) -> bytes:
        sealed = [self._shares[name][receiver][0] for name in senders if name != receiver]
        return pack(self.facts, Delivery(receiver, sealed))

    def _dropped(self) -> list[str]:
        return sorted(self._shares.keys() - self._heard[2].keys())

    def _unmask(self) -> None:
        """Reconstruct the survivors' seeds and the drop-outs' keys; subtract what they give."""
        facts = self.facts
        openers = sorted(self._opened)[: facts.threshold]
        opened = [(facts.place(name), self._opened[name]) for name in openers]
        keys = {
            owner: _secret(owner, {at: shares.keys[owner] for at, shares in opened})
            for owner in self._dropped()
        }
        for owner, secret in keys.items():
            if public_of(secret) != self._mask_keys[owner]:
                raise BadMessage(f"{owner} shared another key than it advertised", field="key")
        seeds = {
            owner: _secret(owner, {at: shares.seeds[owner] for at, shares in opened})
            for owner in self.survivors
        }
        total: npt.NDArray[Any] = self._sum.copy()
        for owner, seed in seeds.items():
            apply(total, self_key(facts, seed, owner), subtract=True)
        for owner, secret in keys.items():
            for survivor in self.survivors:
                key = pair_key(facts, secret, self._mask_keys[survivor], owner, survivor)
                # The survivor added this mask where the drop-out comes after it.
                apply(total, key, subtract=owner > survivor)
        self._sum = total


def _secret(owner: str, shares: dict[int, bytes]) -> bytes:
    try:
        return combine(shares)
    except BadMessage as error:
        raise BadMessage(f"{owner}: {error.message}", field="share", value=owner) from None


def _from(sender: str, message: F) -> F:
    if message.sender != sender:
        raise BadMessage(
            f"{sender} sent a message of {message.sender}", field="sender", value=message.sender
        )
    return message

"""A round's updates encrypted: the coordinator adds what it cannot read, two silos open the sum.

What a silo encrypts is the change that its steps made to the model it was sent, times its public
share of all weights, in fixed point (`secure.aggregation.ckks`; read there against whom it holds).
The steps are noised as in a plain job and priced as if every update were shown. All silos are in
every sum; one that is silent beyond the deadline stops the job.

A job's requests: `advertise` and `deal` once, and again after the coordinator's crash, for the key;
then in each round `update` (the change is made and stored), `encrypt` and `open`. Whatever a silo
says follows from the secret of its job, which dies at settlement, but for its ciphertexts, and
these leave by the gate: stored first, the same bytes to the same request, one in each round. The
gate counts the opened sums too: as many as rounds, which is what their noise is made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgpack
from safetensors.torch import load

from federation.jobs.base import in_turn
from federation.robust import State
from federation.training.changes import changed, flat, length, model_length, range_of, share
from secure.aggregation.ckks.coordinator import Adder, roster_of
from secure.aggregation.ckks.facts import Budget, Terms
from secure.aggregation.ckks.silo import Silo
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.jobs.base import CoordinatorContext, SiloContext
    from federation.schema import Dataset
    from federation.training.specs import Spec

STEPS = ("advertise", "deal", "encrypt", "open")
"""What a silo of an encrypted job answers beside `update` and `evaluate`."""

CIPHERTEXT, SUM = "ciphertext", "sum"
"""The releases of a round beside the update, at a silo and at one that opens."""


def budget_of(spec: Spec, dataset: Dataset) -> Budget:
    """Grid, error, bytes and memory of a job's encrypted rounds, from public facts.

    Errors: `BadParameters` where they do not fit, before anything is charged or a key made.
    """
    rounds = spec.strategy.rounds
    return Budget(model_length(spec, dataset), rounds, range_of(spec))


class EncryptedMean:
    """The coordinator's side: (round, state, model) -> the state plus the weighted mean change."""

    def __init__(self, context: CoordinatorContext) -> None:
        self._context = context
        self._deal = b""

    def __call__(self, round: int, state: State, model: bytes) -> State:
        """Play one round with all silos."""
        terms = _terms(self._context, length(state))
        adder = Adder(terms.at(round))
        self._context.ask("update", round, model)
        deal = self._dealt(terms, round)
        for silo, packed in self._context.ask("encrypt", round, deal).items():
            adder.receive(silo, packed)
        asked: bytes = msgpack.packb([deal, adder.opening()])
        opened = self._some("open", round, terms.openers, asked)
        total = adder.total(opened)
        return changed(state, terms.budget.quantizer.dequantize(total))

    def _dealt(self, terms: Terms, round: int) -> bytes:
        """The deal of the job's key, the same however often it is asked for."""
        if not self._deal:
            roster = roster_of(terms, self._context.ask("advertise", round, b""))
            self._deal = self._some("deal", round, [terms.maker], roster)[terms.maker]
        return self._deal

    def _some(self, step: str, round: int, silos: Collection[str], body: bytes) -> dict[str, bytes]:
        """Ask some silos; the others get nothing, and answer nothing."""
        asked = {silo: body if silo in silos else b"" for silo in self._context.quotes}
        answers = self._context.ask(step, round, asked)
        return {silo: answers[silo] for silo in silos}


class EncryptedSilo:
    """A silo's part in the encrypted rounds of one job."""

    steps = STEPS

    def __init__(self, context: SiloContext) -> None:
        self._context = context

    def answer(self, step: str, round: int, body: bytes) -> bytes:
        """Take one step; one that is for another silo is empty and answered by nothing."""
        if step == "advertise":
            return self._silo.advertise()
        if not body:
            return b""
        if step == "deal":
            return self._silo.deal(body)
        request: bytes = msgpack.packb([step, round, body])
        if step == "encrypt":
            return self._context.gate.release(
                CIPHERTEXT,
                round,
                request=request,
                protection="encrypted",
                event=None,
                produce=partial(in_turn, self._encrypted, round, body),
            )
        return self._context.gate.release(
            SUM,
            round,
            request=request,
            # What it opens is as protected as the updates that it is the sum of, and they paid.
            protection="unprotected" if self._context.spec.no_privacy else "dp",
            event=None,
            produce=partial(in_turn, self._opened, round, body),
        )

    @cached_property
    def _silo(self) -> Silo:
        context = self._context
        terms = _terms(context, model_length(context.spec, context.facts.dataset))
        secret = hashlib.blake2b(context.secret, digest_size=32, person=b"tacit ckks").digest()
        return Silo(terms, context.facts.silo, context.signer, secret)

    def _encrypted(self, round: int, deal: bytes) -> bytes:
        context = self._context
        change = context.gate.stored("update", round)
        if change is None:
            raise BadMessage("encrypt of a round that has no update", field="round", value=round)
        own = share(context.spec, context.facts.silo, context.sizes)
        quantizer = self._silo.terms.budget.quantizer
        values = quantizer.quantize(flat(load(change)), weight=own).values
        return self._silo.encrypt(deal, round, values)

    def _opened(self, round: int, body: bytes) -> bytes:
        try:
            deal, opening = msgpack.unpackb(body)
            whole = type(deal) is bytes and type(opening) is bytes
        except (ValueError, TypeError, msgpack.exceptions.UnpackException):
            whole = False
        if not whole:
            raise BadMessage("open is asked with a deal and an opening", field="open")
        return self._silo.open(deal, round, opening)


def _terms(context: CoordinatorContext | SiloContext, length: int) -> Terms:
    return Terms(
        federation=context.federation,
        job=context.job,
        members=context.members,
        length=length,
        rounds=context.spec.strategy.rounds,
        range=range_of(context.spec),
    )

"""A round's updates under masks: the coordinator learns their weighted mean, and no silo's own.

What a silo masks is the change that its steps made to the model it was sent, times its public
share of all weights, in fixed point. The steps are noised as in a plain job and priced as if every
update were shown, so nothing rests on the masks but who sees what; only with `noise: distributed`
does the price rest on them (`federation.training.shares`). A silo signs one list of
survivors per round, whatever the attempt: two attempts, after a crash, give the same sum and not
the difference of two. Silos that are gone are left out while those that remain are the quorum;
what remains is weighted as if there were no others.

A round's requests: `update` (the model; the update is made and stored), then the five steps of
`secure.aggregation` under keys that are fresh in each attempt.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from nacl.secret import SecretBox
from safetensors.torch import load

from federation.robust import State
from federation.training.changes import changed, flat, model_length, range_of, share
from federation.training.shares import Shares
from privacy.ledger.durable import write_durably
from secure.aggregation.messages import Survivors
from secure.aggregation.packing import unpack
from secure.aggregation.participant import Participant
from secure.aggregation.quantize import Quantizer
from secure.aggregation.rounds import Round
from secure.aggregation.server import Server
from secure.errors import BadMessage, RoundRefused

if TYPE_CHECKING:
    from federation.jobs.base import CoordinatorContext, SiloContext
    from federation.schema import Dataset
    from federation.settings import Sizes
    from federation.training.specs import Spec

STEPS = ("advertise", "share", "mask", "consent", "unmask")
"""What follows `update` in a masked round, in order. A request is the attempt and a message."""

_ATTEMPT = 4
"""Bytes of the number of an attempt."""


class Changes:
    """How changes of the model are summed: weighted, in fixed point, their mean added to it."""

    bits = 32

    def __init__(self, spec: Spec, dataset: Dataset, sizes: Mapping[str, Sizes]) -> None:
        self._spec = spec
        self._sizes = sizes
        self.length = model_length(spec, dataset)
        # As many levels as the sum of so many silos leaves room for.
        self.bound = ((1 << (self.bits - 1)) - 1) // len(sizes)
        self._quantizer = Quantizer(range=range_of(spec), levels=2 * self.bound + 1)

    def integers(self, update: bytes, silo: str) -> npt.NDArray[np.int64]:
        """A silo's change times its share of all weights."""
        own = share(self._spec, silo, self._sizes)
        return self._quantizer.quantize(flat(load(update)), weight=own).values

    def model(
        self, state: State, total: npt.NDArray[np.int64], survivors: Collection[str]
    ) -> State:
        """The state plus the mean change of those whose changes are in the sum."""
        mean = self._quantizer.dequantize(total)
        if len(survivors) < len(self._sizes):
            mean /= sum(share(self._spec, silo, self._sizes) for silo in survivors)
        return changed(state, mean)


def _coding(spec: Spec, dataset: Dataset, sizes: Mapping[str, Sizes]) -> Changes | Shares:
    """How this job's updates become integers, and their sum a model."""
    if spec.aggregation.distributed:
        return Shares(spec, dataset, sizes)
    return Changes(spec, dataset, sizes)


class MaskedMean:
    """The coordinator's part in the masked rounds of one job."""

    def __init__(self, context: CoordinatorContext) -> None:
        self._context = context
        sizes = {silo: context.facts[silo].sizes for silo in context.members}
        dataset = next(iter(context.facts.values())).dataset
        self._coding = _coding(context.spec, dataset, sizes)

    def __call__(self, round: int, state: State, model: bytes) -> State:
        """Play one round with who is present; return the state that the sum makes of `state`."""
        context, coding = self._context, self._coding
        attempt = secrets.token_bytes(_ATTEMPT)
        server = Server(_facts(context, round, attempt, coding))
        context.ask("update", round, model)
        mail = dict.fromkeys(context.quotes, b"")
        for step in STEPS:
            asked = {silo: attempt + packed for silo, packed in mail.items()}
            for silo, answer in context.ask(step, round, asked).items():
                server.receive(silo, answer)
            mail = server.advance()
        return coding.model(state, server.total(), server.survivors)


class MaskedSilo:
    """A silo's part in the masked rounds of one job.

    The state of each round is sealed under the job's secret and written durably before what it
    answers leaves, so that no crash makes the silo say two things in one round.
    """

    steps = STEPS

    def __init__(self, context: SiloContext) -> None:
        self._context = context
        key = hashlib.blake2b(context.secret, digest_size=32, person=b"tacit masks").digest()
        self._box = SecretBox(key)

    def answer(self, step: str, round: int, body: bytes) -> bytes:
        """Take one step of an attempt at a round whose update was made."""
        context = self._context
        change = context.gate.stored("update", round)
        if change is None or len(body) < _ATTEMPT:
            raise BadMessage(f"{step} of a round that has no update", field="round", value=round)
        attempt, packed = body[:_ATTEMPT], body[_ATTEMPT:]
        facts = _facts(context, round, attempt, self._coding)
        path = context.directory / "masks" / f"{round}-{attempt.hex()}"
        silo = self._participant(facts, path)
        match step:
            case "advertise":
                answer = silo.advertise()
            case "share":
                answer = silo.share_keys(packed)
            case "mask":
                answer = silo.mask(packed, self._coding.integers(change, silo.name))
            case "consent":
                self._agree_once(round, unpack(facts, Survivors, packed).survivors)
                answer = silo.consent(packed)
            case _:
                answer = silo.unmask(packed)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_durably(path, bytes(self._box.encrypt(silo.state())))
        return answer

    @cached_property
    def _coding(self) -> Changes | Shares:
        context = self._context
        return _coding(context.spec, context.facts.dataset, context.sizes)

    def _agree_once(self, round: int, survivors: list[str]) -> None:
        """Note the list of survivors that this silo signs in a round; refuse any other.

        Refused too is one of fewer silos than the job's quorum.
        """
        silos = len(self._context.members)
        least = self._context.spec.quorum or silos
        if len(survivors) < least:
            raise RoundRefused(
                f"a sum of {len(survivors)} of {silos} silos; this job needs {least}",
                field="survivors",
                value=len(survivors),
                allowed=f">= {least}",
            )
        path = self._context.directory / "masks" / f"{round}.survivors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_durably(path, json.dumps(survivors).encode())
        elif json.loads(path.read_bytes()) != survivors:
            raise RoundRefused(
                f"another list of survivors of round {round} than was signed before",
                field="survivors",
                value=survivors,
                allowed=json.loads(path.read_bytes()),
            )

    def _participant(self, facts: Round, path: Path) -> Participant:
        """The silo in an attempt: as it was stored, or new."""
        name, key = self._context.facts.silo, self._context.signer
        if not path.exists():
            return Participant(facts, name, key)
        return Participant.from_state(self._box.decrypt(path.read_bytes()), facts, name, key)


def _facts(
    context: CoordinatorContext | SiloContext,
    round: int,
    attempt: bytes,
    coding: Changes | Shares,
) -> Round:
    return Round(
        federation=context.federation,
        job=context.job,
        number=round << (8 * _ATTEMPT) | int.from_bytes(attempt, "big"),
        members=context.members,
        length=coding.length,
        bits=coding.bits,
        bound=coding.bound,
    )

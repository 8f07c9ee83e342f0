"""What the silos of an infer job have in common.

Messages between them, over the job's own endpoints; an answer comes under the name of its question:

    data -> model   plan   what the rows go under: a plan (ckks), keys of a sealing (equivariant)
                    keys   evaluation keys (ckks)
    data -> server  rows   one batch; the server is the model's silo, or the node (equivariant)
    model -> node   sealed the sealed model (equivariant), which needs no answer

Whatever a row says, there are as many messages of the same form, and the coordinator gets the same
empty answer to every batch: places without a row are filled, and no error depends on what an
answer said. Rows and answers leave by the gate, stored first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from federation.errors import BadInput
from federation.jobs.base import in_turn
from privacy.ledger import Stop
from secure.errors import BadMessage

if TYPE_CHECKING:
    from federation.inference.specs import Spec
    from federation.jobs.base import SiloContext
    from secure.exchange.envelope import Message

COORDINATOR = "coordinator"


class Party(ABC):
    """A silo's part: it answers one message after the other until the coordinator says finish.

    `kept` are messages that came while it waited for another one, to be answered first.
    """

    def __init__(self, context: SiloContext) -> None:
        self.context = context
        self.spec: Spec = context.spec
        self.kept: deque[Message] = deque()

    @abstractmethod
    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """What goes back to the sender of a message; None where nothing does."""

    def run(self) -> Stop:
        """Take part to the end."""
        endpoint = self.context.endpoint
        while True:
            if self.kept:
                message = self.kept.popleft()
            else:
                message = endpoint.receive(deadline=self.context.deadline)
            header = message.header
            if (header.sender, header.name) == (COORDINATOR, "finish"):
                return Stop.COMPLETED  # not acknowledged: what follows from it is not on disk yet
            answer = self.answer(header.sender, header.name, header.round, message.body)
            if answer is not None:
                endpoint.send(header.sender, round=header.round, name=header.name, body=answer)
            endpoint.acknowledge(message)

    def unknown(self, sender: str, name: str) -> bytes | None:
        """Refuse what the coordinator may not ask; what another silo sent late gets no answer."""
        if sender == COORDINATOR:
            raise BadInput(f"no request {name!r} in an infer job", field="name")
        return None

    def release(self, name: str, round: int, request: bytes, produce: Callable[[], bytes]) -> bytes:
        """Make what may leave, once for a request."""
        return self.context.gate.release(
            name,
            round,
            request=request,
            protection=self.spec.protection,
            event=None,
            produce=partial(in_turn, produce),
        )

    def answers(self, round: int, rows: bytes, produce: Callable[[int, bytes], bytes]) -> bytes:
        """Release the answers to a batch, which `produce` makes of its number and its rows."""
        if not 0 <= round < self.spec.batches * self.spec.sessions:
            raise BadMessage("rows: of no batch of this job", field="round", value=round)
        self.context.begin()  # answers tell of the model, and so of what it was made from
        made = partial(produce, round % self.spec.batches, rows)
        return self.release("answers", round, rows, made)

"""A coordinator that asks for more than it reserved, or for something else, at a real silo."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from safetensors.torch import save
from tests_jobs_here import spec

from federation import lifecycle
from federation.books import open_ledger, open_mirror
from federation.embedded import Embedded
from federation.home import Home
from federation.models import build_model
from federation.record import Job
from privacy.ledger import State

SILO = "silo-1"


def ask(home: Home, requests: list[tuple[str, int]]) -> tuple[list[Any], Any, Any]:
    """Start a job at every silo, put requests to one and settle: answers, charge, account."""
    asked = spec()
    job = Job.create(home, asked)
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        facts = parties.facts(asked.dataset)[SILO]
        shape, classes = facts.dataset.input_shape, facts.dataset.n_classes
        model = build_model(asked.model.model_dump(), shape, classes, seed=0)
        body = save(dict(model.state_dict()))
        answers = []
        with parties.serve(job.id, [SILO]) as endpoint:
            for name, round in requests:
                endpoint.send(SILO, job=job.id, round=round, name=name, body=body)
                message = endpoint.receive(deadline=30)
                answers.append((message.header.name, message.body))
                if message.header.name == "fault":
                    break
        parties.settle(SILO, job.id)
    ledger = open_ledger(home, SILO)
    try:
        return answers, ledger.charge(job.id), ledger.account(facts.source, "record")
    finally:
        ledger.close()


@pytest.mark.parametrize(
    ("requests", "released"),
    [
        ([("update", r) for r in range(5)], 4),  # one round more than the spec's four
        ([("update", 0), ("update", 900_000), ("update", -1)], 2),
        ([("evaluate", 0), ("evaluate", 1)], 1),  # one histogram was priced
        ([("rows", 0)], 0),
    ],
)
def test_more_than_was_reserved_is_never_released(
    home: Home, requests: list[tuple[str, int]], released: int
) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(), parties)["silos"][SILO]
    answers, charge, account = ask(home, requests)
    assert [name for name, _ in answers].count("fault") == 1 and answers[-1][0] == "fault"
    assert len(answers) - 1 == released
    assert isinstance(msgpack.unpackb(answers[-1][1]), str)  # a code, nothing else
    assert charge.state is State.SETTLED
    # What was read is charged whole; of rows that were never read there is nothing to charge.
    assert account.used == pytest.approx(quoted["charge"] if released else 0.0, rel=1e-6)

"""What a coordinator may ask of a silo, and how it is answered: plain data in and out.

Each verb names a method of `Silo`, with a model of what is said along. The embedded engine and the
silo's server answer through the same table, so what crosses between machines is what crosses here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from federation import jobs, pricing
from federation.documents import parse
from federation.errors import BadInput, at_silo
from federation.jobs.base import FACTS
from federation.manifest import JobId
from federation.silo import Silo
from federation.spec import JobSpec, Name
from privacy.events import Unit
from privacy.ledger import Receipt


class Asked(BaseModel):
    """What is said along with a verb: every field of its own type, and no other field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class OfDataset(Asked):
    """A data set by name."""

    dataset: Name


class OfAccount(OfDataset):
    """The account of a data set's source in a unit."""

    unit: str


class OfSpec(Asked):
    """A job spec."""

    spec: dict[str, Any]


class OfJob(Asked):
    """A job by its id."""

    job: JobId


class Reserve(Asked):
    """A signed manifest."""

    manifest: dict[str, Any]


class Start(OfJob):
    """A signed go."""

    go: dict[str, Any]


@dataclass(frozen=True)
class Verb:
    """One thing that may be asked."""

    asked: type[Asked]
    answer: Callable[[Silo, Any], Any]


def _hello(silo: Silo, asked: Asked) -> Any:
    return {"time": time.time()}


def _facts(silo: Silo, asked: OfDataset) -> Any:
    return FACTS.dump_python(silo.facts(asked.dataset), mode="json")


def _check_source(silo: Silo, asked: OfDataset) -> Any:
    silo.check_source(asked.dataset)


def _price(silo: Silo, asked: OfSpec) -> Any:
    facts, quote = silo.quote(_spec(asked))
    return pricing.price(quote, facts, silo.ledger)


def _what_fits(silo: Silo, asked: OfSpec) -> Any:
    spec = _spec(asked)
    facts, quote = silo.quote(spec)
    rounds = getattr(getattr(spec, "strategy", None), "rounds", 1)
    return pricing.what_fits(quote, facts, silo.ledger, rounds)


def _balance(silo: Silo, asked: OfAccount) -> Any:
    account = silo.ledger.account(silo.facts(asked.dataset).source, Unit(asked.unit))
    return {
        "remaining_epsilon": account.remaining_epsilon,
        "used": account.used,
        "unprotected": account.unprotected,
        "relation": account.relation.value,
        "claim_epsilon": account.largest_capacity_epsilon,
        "delta": account.delta,
    }


def _spec(asked: OfSpec) -> JobSpec:
    spec: JobSpec = parse(asked.spec, jobs.kind(asked.spec.get("kind"), "spec").Spec, "spec")
    return spec


def _document(receipt: Receipt | None) -> Any:
    return None if receipt is None else receipt.document()


VERBS: Mapping[str, Verb] = {
    "hello": Verb(Asked, _hello),
    "facts": Verb(OfDataset, _facts),
    "check_source": Verb(OfDataset, _check_source),
    "price": Verb(OfSpec, _price),
    "what_fits": Verb(OfSpec, _what_fits),
    "balance": Verb(OfAccount, _balance),
    "consider": Verb(Reserve, lambda silo, asked: silo.consider(asked.manifest)),
    "standing": Verb(OfJob, lambda silo, asked: silo.standing(asked.job)),
    "reserve": Verb(Reserve, lambda silo, asked: _document(silo.reserve(asked.manifest))),
    "start": Verb(Start, lambda silo, asked: _document(silo.start(asked.job, asked.go))),
    "settle": Verb(OfJob, lambda silo, asked: _document(silo.settle(asked.job))),
    "end": Verb(OfJob, lambda silo, asked: _document(silo.end(asked.job))),
    "epsilons": Verb(OfJob, lambda silo, asked: list(silo.epsilons(asked.job))),
}


def answer(silo: Silo, verb: str, said: Any) -> Any:
    """Do what is asked at a silo; what its ledger raises names it."""
    if verb not in VERBS:
        raise BadInput(f"no verb {verb!r}", field="verb", value=verb, allowed=sorted(VERBS))
    asked = parse(said, VERBS[verb].asked, verb)
    with at_silo(silo.name):
        return VERBS[verb].answer(silo, asked)

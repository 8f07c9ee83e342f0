"""What may be asked of a silo, and what of an error crosses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests_jobs_here import spec

from federation import desk, lifecycle
from federation.embedded import Embedded
from federation.errors import (
    BadInput,
    BudgetRefused,
    FederationError,
    IntegrityError,
    JobFailed,
    PolicyRefused,
    retold,
    told,
)
from federation.home import Home
from privacy.errors import LedgerTampered, Refused


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("shell", {}),
        ("__class__", {}),
        ("facts", {}),
        ("facts", {"dataset": "breast-cancer", "more": 1}),
        ("facts", {"dataset": 7}),
        ("facts", {"dataset": "../../etc"}),
        ("facts", []),
        ("settle", {"job": "../../etc"}),
        ("settle", {"job": "A B"}),
        ("price", {"spec": "train"}),
        ("price", {"spec": {"kind": "os.system"}}),
        ("reserve", {"manifest": None}),
        ("start", {"job": "j"}),
    ],
)
def test_what_is_not_a_question_is_bad_input(home: Home, verb: str, said: Any) -> None:
    with Embedded(home) as parties, pytest.raises(BadInput):
        desk.answer(parties._silos["silo-1"], verb, said)


def test_every_answer_is_plain_data(home: Home) -> None:
    job = spec()
    with Embedded(home) as parties:
        silo = parties._silos["silo-1"]
        for verb, said in {
            "hello": {},
            "facts": {"dataset": job.dataset},
            "check_source": {"dataset": job.dataset},
            "price": {"spec": job.model_dump(mode="json")},
            "what_fits": {"spec": job.model_dump(mode="json")},
            "balance": {"dataset": job.dataset, "unit": "record"},
        }.items():
            answer = desk.answer(silo, verb, said)
            assert json.loads(json.dumps(answer, allow_nan=False)) == answer, verb
        facts = parties.facts(job.dataset)
        assert facts["silo-1"] == silo.facts(job.dataset)
        assert lifecycle.quotes_of(job, facts)["silo-1"] == silo.quote(job)[1]


def test_a_refusal_crosses_whole() -> None:
    for kind in (Refused, PolicyRefused, BudgetRefused):
        error = kind("no", field="north/d/record", value=1.5, allowed={"epsilon": 0.5})
        again = retold(json.loads(json.dumps(told(error))), "north")
        assert type(again) is kind
        assert vars(again) == vars(error)


def test_of_any_other_error_only_code_and_field_cross() -> None:
    secret = "row 7: age 43"
    for error in (
        IntegrityError(secret, field="spec", value=secret, allowed=secret),
        LedgerTampered(secret, field="entries"),
        BadInput(secret, field="source"),
    ):
        document = json.loads(json.dumps(told(error)))
        assert secret not in json.dumps(document)
        again: Any = retold(document, "north")
        assert type(again) is type(error)
        assert (again.field, again.value) == (error.field, "north")
        assert secret not in str(again) and error.code in str(again)
    assert told(ValueError(secret)) == {"code": "SILO-FAULT", "field": None}
    assert isinstance(retold({"code": "SILO-FAULT"}, "north"), JobFailed)


@pytest.mark.parametrize(
    "document", [{}, {"code": None}, {"code": ["x"]}, {"code": "<b>", "message": "<b>", "field": 3}]
)
def test_what_a_silo_says_is_never_shown_as_it_came(document: Any) -> None:
    error = retold(document, "north")
    assert isinstance(error, FederationError) and "<b>" not in str(error)

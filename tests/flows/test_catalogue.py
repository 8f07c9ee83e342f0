"""The catalogue: `prefect.yaml` says the same, every kind is in it, and nothing begins unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import yaml

from federation import jobs
from federation.documents import parse
from flows import events
from flows.catalogue import DEPLOYMENTS, Deployment, automations, participation

ROOT = Path(__file__).resolve().parents[2]


def as_yaml(said: Deployment) -> dict[str, Any]:
    """A deployment of the catalogue as prefect.yaml would say it."""
    document: dict[str, Any] = {
        "name": said.name,
        "entrypoint": said.entrypoint,
        "description": said.description,
        "tags": list(said.tags),
        "enforce_parameter_schema": True,
        "work_pool": {"name": said.pool, "job_variables": said.job_variables},
        "concurrency_limit": {"limit": said.limit, "collision_strategy": "ENQUEUE"},
        "parameters": said.parameters,
    }
    schedules = [vars(schedule) for schedule in said.schedules]
    return document | ({"schedules": schedules} if schedules else {})


def test_the_file_says_what_the_catalogue_says() -> None:
    said = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert said == [as_yaml(deployment) for deployment in DEPLOYMENTS]


def test_every_kind_of_job_has_a_deployment_with_its_own_form() -> None:
    by_name = {deployment.name: deployment for deployment in DEPLOYMENTS}
    for name in jobs.kinds():
        form = by_name[name].form()
        assert form["required"] == ["spec"]
        assert form["definitions"]["Spec"]["additionalProperties"] is False
        parse(by_name[name].parameters["spec"], jobs.kind(name).Spec, "catalogue")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d.name)
def test_the_flow_is_the_one_that_is_named_and_schedules_wait(deployment: Deployment) -> None:
    assert deployment.flow().name == deployment.flow_name
    for schedule in deployment.schedules:
        assert schedule.slug and not schedule.active and ZoneInfo(schedule.timezone)


def test_a_silo_is_asked_with_two_words_and_no_other() -> None:
    form = participation("north").form()
    assert set(form["properties"]) == set(form["required"]) == {"job", "manifest"}
    assert form["additionalProperties"] is False


def test_what_was_changed_has_another_version() -> None:
    versions = {d.version() for d in (*DEPLOYMENTS, participation("a"), participation("b"))}
    assert len(versions) == len(DEPLOYMENTS) + 2


def test_automations_hear_tacit_events_and_crashed_runs() -> None:
    by_name = {automation.name: automation for automation in automations(uuid4())}
    heard = {next(iter(a.trigger.expect)) for a in by_name.values()}  # type: ignore[union-attr]
    assert heard == {
        events.BUDGET_LOW,
        events.AUDIT_REFUTED,
        events.SILO_SILENT,
        "prefect.flow-run.*",
    }
    assert by_name["tacit: audit refuted"].actions[0].type == "pause-work-pool"
    assert by_name["tacit: run crashed"].actions[0].type == "change-flow-run-state"

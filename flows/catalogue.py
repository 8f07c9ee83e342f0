"""What runs, and when, as data: deployments, schedules, pools and automations.

`flows.setup` brings a server to it; `prefect.yaml` says the same of the deployments for people who
bring their own server.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing, PauseWorkPool
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.utilities.callables import parameter_schema

from federation.spec import canonical
from flows.events import AUDIT_REFUTED, BUDGET_LOW, SILO_SILENT
from flows.pools import COORDINATOR, PARTICIPATE, pool_of

if TYPE_CHECKING:
    from prefect import Flow

OWNED = "tacit"
"""The tag of all that the catalogue makes."""


@dataclass(frozen=True)
class Schedule:
    """When a deployment runs by itself; the slug tells it apart when it is changed."""

    slug: str
    cron: str
    timezone: str
    active: bool = False


@dataclass(frozen=True)
class Deployment:
    """A flow on a pool, with a typed form; at most `limit` runs at a time, further ones wait."""

    name: str
    flow_name: str
    pool: str
    description: str
    entrypoint: str = ""
    limit: int | None = None
    tags: tuple[str, ...] = (OWNED,)
    parameters: dict[str, Any] = field(default_factory=dict)
    schedules: tuple[Schedule, ...] = ()
    job_variables: dict[str, Any] = field(default_factory=dict)

    def flow(self) -> Flow[..., Any]:
        """The flow, imported from its entrypoint."""
        path, _, function = self.entrypoint.partition(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        flow: Flow[..., Any] = getattr(module, function)
        return flow

    def form(self) -> dict[str, Any]:
        """The JSON schema of the parameters, which the server enforces."""
        if not self.entrypoint:
            return _ORDER
        return parameter_schema(self.flow()).model_dump_for_openapi()

    def version(self) -> str:
        """The digest of all that is said here: another one means that something was changed."""
        said = asdict(self) | {"form": self.form()}
        return hashlib.sha256(canonical(said)).hexdigest()[:16]


_ORDER: dict[str, Any] = {
    "title": "Parameters",
    "type": "object",
    "properties": {
        "job": {"type": "string", "position": 0},
        "manifest": {"type": "string", "position": 1},
    },
    "required": ["job", "manifest"],
    "additionalProperties": False,
}

_QUIET = {"env": {"PREFECT_LOGGING_TO_API_ENABLED": "false"}}
"""What a job says stays on its machine, whoever's worker runs it; the server learns states."""


def _of_kind(spec: dict[str, Any], description: str, schedule: Schedule) -> Deployment:
    """The deployment of a kind of job, one run at a time; its schedule is paused."""
    kind = spec["kind"]
    return Deployment(
        name=kind,
        flow_name=kind,
        entrypoint=f"flows/{kind}.py:{kind}",
        pool=pool_of(COORDINATOR),
        description=description,
        tags=(OWNED, kind),
        limit=1,
        parameters={"home": "demo/federation", "spec": spec},
        schedules=(schedule,),
        job_variables=_QUIET,
    )


TRAIN = _of_kind(
    {
        "kind": "train",
        "name": "weekly",
        "dataset": "breast-cancer",
        "model": {"name": "logistic"},
        "strategy": {
            "name": "fedavg",
            "rounds": 20,
            "local_steps": 10,
            "batch_size": 32,
            "learning_rate": 0.5,
        },
        "privacy": {"unit": "record", "epsilon": 0.5, "clip": 1.0},
        "evaluation": {"split": "test", "release": "dp"},
    },
    "Train one model across silos, each under its own privacy budget.",
    # Paused until somebody means it: every run is a charge.
    Schedule("weekly-retraining", "0 3 * * 1", "Europe/Berlin"),
)

INFER = _of_kind(
    {
        "kind": "infer",
        "name": "nightly",
        "dataset": "breast-cancer",
        "mode": "ckks",
        "roles": {"data": "silo-1", "model": "silo-2"},
        "model": {"job": "breast-cancer"},
        "part": "test",
        "rows": 64,
        "batch_size": 16,
    },
    "Have one silo's rows predicted by another silo's model, encrypted or not.",
    # Paused until somebody means it: a silo's rows leave it, if only encrypted.
    Schedule("nightly-predictions", "0 2 * * *", "Europe/Berlin"),
)

DRIVE = Deployment(
    name="drive",
    flow_name="life-of-a-job",
    entrypoint="flows/run.py:run_job",
    pool=pool_of(COORDINATOR),
    description="Drive a recorded job to its end: what tacit submit and tacit job resume ask for.",
    limit=4,
    parameters={"home": "demo/federation"},
    job_variables=_QUIET,
)

DEPLOYMENTS = (TRAIN, INFER, DRIVE)
"""All that runs at the coordinator."""


def participation(silo: str) -> Deployment:
    """How a silo is asked to take part in a job; its worker reads two parameters."""
    return Deployment(
        name=silo,
        flow_name=PARTICIPATE,
        pool=pool_of(silo),
        description="Take part in a job that this silo has reserved and started.",
    )


def automations(coordinator_pool: UUID) -> tuple[AutomationCore, ...]:
    """What happens on `tacit.*` events, and where a run's process is gone.

    Who wants to be told adds a notification; what stands here needs no address.
    """
    silence = timedelta(seconds=3 * (PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 180))
    return (
        AutomationCore(
            name="tacit: budget low",
            description="A settled job has left less than a fifth of an account.",
            trigger=_on(BUDGET_LOW),
            actions=[DoNothing()],
        ),
        AutomationCore(
            name="tacit: audit refuted",
            description="An audit has refuted a claim: no job begins until a person has looked.",
            trigger=_on(AUDIT_REFUTED),
            actions=[PauseWorkPool(source="selected", work_pool_id=coordinator_pool)],
        ),
        AutomationCore(
            name="tacit: silo silent",
            description="A silo's desk does not answer.",
            trigger=_on(SILO_SILENT),
            actions=[DoNothing()],
        ),
        AutomationCore(
            name="tacit: run crashed",
            description="A run whose process is gone is not left running; its job can be resumed.",
            trigger=EventTrigger(
                match={"prefect.resource.id": "prefect.flow-run.*"},
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.*"},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=silence,
            ),
            actions=[
                ChangeFlowRunState(
                    name="Crashed",
                    state=StateType.CRASHED,
                    force=False,
                    message="no sign of life; tacit job resume goes on with its job",
                )
            ],
        ),
    )


def _on(event: str) -> EventTrigger:
    return EventTrigger(
        match={"prefect.resource.id": "tacit.silo.*"},
        expect={event},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )

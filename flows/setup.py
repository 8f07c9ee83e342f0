"""The set-up flow: a Prefect server is as the catalogue says; run twice, it changes nothing.

What a person has changed on the server (a schedule that was made active, a pool that was paused)
stays, until the catalogue itself says something else.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    ConcurrencyOptions,
    WorkPool,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from federation.home import Home
from federation.spec import canonical
from flows.catalogue import DEPLOYMENTS, OWNED, Deployment, automations, participation
from flows.pools import COORDINATOR, pool_of
from flows.worker import SiloWorker


@flow(name="setup", retries=0, persist_result=False)
async def setup(home: str) -> list[str]:
    """Make or change what is not as the catalogue says; return the names of what was changed."""
    where = Home(Path(home))
    silos = sorted(where.federation().silos)
    changed: list[str] = []
    async with get_client() as client:
        own = await _pool(client, pool_of(COORDINATOR), "tacit-coordinator", changed)
        for silo in silos:
            await _pool(client, pool_of(silo), SiloWorker.type, changed)
        here = {"home": str(where.root)}
        for deployment in DEPLOYMENTS:
            engine = {"engine": "exchange"} if "spec" in deployment.parameters else {}
            said = replace(deployment, parameters=deployment.parameters | here | engine)
            await _deployment(client, said, changed)
        for silo in silos:
            await _deployment(client, participation(silo), changed)
        for automation in automations(own.id):
            await _automation(client, automation, changed)
    return changed


async def _pool(client: PrefectClient, name: str, type: str, changed: list[str]) -> WorkPool:
    template = SiloWorker.get_default_base_job_template()
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        changed.append(f"pool {name}")
        return await client.create_work_pool(
            WorkPoolCreate(name=name, type=type, base_job_template=template)
        )
    if pool.base_job_template != template:
        changed.append(f"pool {name}")
        await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return pool


async def _deployment(client: PrefectClient, said: Deployment, changed: list[str]) -> None:
    full = f"{said.flow_name}/{said.name}"
    try:
        if (await client.read_deployment_by_name(full)).version == said.version():
            return
    except ObjectNotFound:
        pass
    changed.append(f"deployment {full}")
    await client.create_deployment(
        flow_id=await client.create_flow_from_name(said.flow_name),
        name=said.name,
        version=said.version(),
        description=said.description,
        tags=list(said.tags),
        work_pool_name=said.pool,
        entrypoint=said.entrypoint or None,
        parameters=said.parameters,
        parameter_openapi_schema=said.form(),
        enforce_parameter_schema=True,
        job_variables=said.job_variables,
        concurrency_limit=said.limit,
        concurrency_options=(
            None
            if said.limit is None
            else ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
        ),
        schedules=[
            DeploymentScheduleCreate(
                slug=schedule.slug,
                schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone),
                active=schedule.active,
            )
            for schedule in said.schedules
        ],
    )


async def _automation(client: PrefectClient, said: AutomationCore, changed: list[str]) -> None:
    """Automations have no version; the digest of what is said is kept as a tag."""
    document: dict[str, Any] = said.model_dump(mode="json")
    mark = hashlib.sha256(canonical(document)).hexdigest()[:16]
    wanted = said.model_copy(update={"tags": [OWNED, mark]})
    found = await client.read_automations_by_name(said.name)
    if not found:
        changed.append(f"automation {said.name}")
        await client.create_automation(wanted)
    elif mark not in found[0].tags:
        changed.append(f"automation {said.name}")
        await client.update_automation(found[0].id, wanted)

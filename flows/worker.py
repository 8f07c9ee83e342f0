"""A silo's Prefect worker: dispatch comes by Prefect, permission from the silo's own ledger.

A run of `participate` on the silo's pool names a job and the digest of its manifest, and nothing
else of it is read: no command, environment, entrypoint or pull step. Who writes to the Prefect
server can therefore make a silo do no more than its desk's `join` would: take part in a job that
this silo has itself reserved and started, on the manifest that the coordinator signed. What is
said back is a state and a code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self
from uuid import UUID

from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal
from prefect.client.orchestration import get_client
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from prefect.states import Completed, Failed, Running
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from federation import serving
from federation.desk import Asked
from federation.documents import parse
from federation.errors import BadInput, IntegrityError, TacitError
from federation.home import Home
from federation.jobfiles import JobFiles
from federation.manifest import Digest, JobId
from federation.settling import RUNNING
from federation.silo import Silo
from flows import passes
from flows.pools import PARTICIPATE, pool_of
from privacy.ledger import Stop

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("tacit.silo")

LOOK = 0.5
"""Seconds between two looks at whether a session has ended."""

PAUSE = 2.0
"""Seconds before a worker that its server has left tries again."""


class Sessions(serving.Sessions, Protocol):
    """Where a silo's part of a job runs, and whether it still does."""

    def at_work(self, job: str) -> bool:
        """Whether a session of the job is at work."""
        ...


class Order(Asked):
    """All that is read of a flow run."""

    job: JobId
    manifest: Digest


class Unread(BaseJobConfiguration):
    """What a server says about how to run: not looked at."""

    @classmethod
    async def resolve_for_flow_run(cls, flow_run: FlowRun, **_: Any) -> Self:
        """Resolve nothing: no template, variable, block or environment of the server's."""
        return cls()


class SiloWorker(BaseWorker[Unread, Any, BaseWorkerResult]):
    """Takes runs of `participate` from the silo's own pool, which the coordinator makes."""

    type = "tacit-silo"
    job_configuration = Unread

    def __init__(self, home: Home, silo: Silo, sessions: Sessions) -> None:
        super().__init__(pool_of(silo.name), name=silo.name, create_pool_if_not_found=False)
        self._jobs = home.silo(silo.name).jobs
        self._silo = silo
        self._sessions = sessions
        self._flows: dict[UUID, str] = {}

    async def run(
        self,
        flow_run: FlowRun,
        configuration: Unread,
        task_status: TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Take part in the job that a flow run names, and tell how it ended in one code."""
        if task_status is not None:
            task_status.started(0)  # no process of which the server would have to know
        try:
            job = await self._allowed(flow_run)
            await asyncio.to_thread(self._sessions.join, job)
        except Exception as error:
            code = getattr(error, "code", "SILO-FAULT")
            field = getattr(error, "field", None) if isinstance(error, TacitError) else None
            log.warning("flow run %s is refused: %s %s", flow_run.id, code, field)
            if not isinstance(error, TacitError):
                log.error("what stopped it", exc_info=error)
            await self._tell(flow_run, Failed(message=code))
        else:
            log.info("flow run %s: a session of job %s", flow_run.id, job)
            await self._tell(flow_run, Running())
            while self._sessions.at_work(job):
                await asyncio.sleep(LOOK)
            stop = await asyncio.to_thread(JobFiles(self._jobs / job).stop)
            ended = Completed if stop is Stop.COMPLETED else Failed
            await self._tell(flow_run, ended(message=stop.value))
        return BaseWorkerResult(identifier=str(flow_run.id), status_code=0)

    async def _allowed(self, flow_run: FlowRun) -> str:
        """The job, where this silo's own ledger has started it on this very manifest."""
        if flow_run.flow_id not in self._flows:  # a flow's name never changes
            flow = await self.client.read_flow(flow_run.flow_id)
            self._flows[flow_run.flow_id] = flow.name
        if self._flows[flow_run.flow_id] != PARTICIPATE:
            raise BadInput("a flow that is not run here", field="flow", allowed=PARTICIPATE)
        order = parse(flow_run.parameters, Order, "flow run")
        await asyncio.to_thread(check_started, self._silo, order)
        return order.job

    async def _tell(self, flow_run: FlowRun, state: State[Any]) -> None:
        """Say a state; a server that does not hear it changes nothing here."""
        try:
            await self.client.set_flow_run_state(flow_run.id, state)
        except Exception as error:
            log.warning("flow run %s: its state was not heard: %s", flow_run.id, type(error))


def check_started(silo: Silo, order: Order) -> None:
    """Refuse a job that this silo's ledger has not started, or started on another manifest."""
    charge = silo.ledger.charge(order.job)
    if charge is None or charge.state not in RUNNING:
        raise BadInput("a job that is not running here", field="job")
    if charge.digest != order.manifest:
        raise IntegrityError("a manifest that this job was not started on", field="manifest")


@contextlib.contextmanager
def working(home: Home, silo: Silo, sessions: Sessions) -> Iterator[None]:
    """Serve the silo's pool from a thread while the block runs; the server may come and go."""
    EventsWorker.set_client_override(NullEventsClient)  # events are the coordinator's to tell
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(_serve, home, silo, sessions)
        try:
            yield
        finally:
            future.cancel()


async def _serve(home: Home, silo: Silo, sessions: Sessions) -> None:
    federation = home.federation().name
    while True:
        own = f"{silo.name}:{passes.make(federation, silo.name, silo.key)}"
        try:
            with temporary_settings({PREFECT_API_AUTH_STRING: own}):
                await _pool_is_there(pool_of(silo.name))
                await SiloWorker(home, silo, sessions).start(printer=_nobody)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            log.warning("the worker tries again; it stopped with %s", ascii(said[:200]))
        await asyncio.sleep(PAUSE)


async def _pool_is_there(name: str) -> None:
    """Wait until the coordinator has made the pool: a worker without one looks too seldom."""
    async with get_client() as client:
        while True:
            try:
                await client.read_work_pool(name)
            except ObjectNotFound:
                await asyncio.sleep(PAUSE)
            else:
                return


def _nobody(*_: object) -> None:
    """What a worker would print."""

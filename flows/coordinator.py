"""The coordinator's Prefect worker: it runs the flows of the catalogue, each in a warm child.

    python -m flows.coordinator

is such a child: it imports what a job needs, waits for a line with a flow run's id and its flow's
name, runs that flow, and ends. A stock process worker would start Python after the run has
come, and would run whatever command its server names; this one runs installed flows by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from anyio.abc import TaskStatus
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Failed
from prefect.workers.base import BaseWorker, BaseWorkerResult

from federation import engines
from federation.errors import TacitError
from federation.home import Home
from flows.catalogue import DEPLOYMENTS
from flows.events import tell_silent
from flows.pools import COORDINATOR, pool_of
from flows.setup import setup
from flows.suspending import wake_approved
from flows.worker import PAUSE, Unread

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("tacit.coordinator")

LOOK = 0.5
"""Seconds between two looks at whether a child has ended."""

ASK = 4
"""After how many looks the server is asked whether somebody has cancelled the run."""

WATCH = 300.0
"""Seconds between two rounds in which every silo is asked whether it serves."""

APPROVALS = 5.0
"""Seconds between two looks at whether a job has the approvals that it waits for."""


class Drivers(Protocol):
    """Children that run flows: `infra.warm.WarmChildren`."""

    def give(self, key: str, line: str) -> None:
        """Give a spare child a line of work."""
        ...

    def at_work(self, key: str) -> bool:
        """Whether a child is at work under this key."""
        ...

    def interrupt(self, key: str) -> None:
        """Send a child at work what Ctrl-C would."""
        ...


class CoordinatorWorker(BaseWorker[Unread, Any, BaseWorkerResult]):
    """Takes runs of the catalogue's flows from the coordinator's pool."""

    type = "tacit-coordinator"
    job_configuration = Unread

    def __init__(self, drivers: Drivers) -> None:
        super().__init__(pool_of(COORDINATOR), name=COORDINATOR, create_pool_if_not_found=False)
        self._drivers = drivers
        self._turns: dict[str, int] = {}

    async def run(
        self,
        flow_run: FlowRun,
        configuration: Unread,
        task_status: TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Run one flow run in a child, and see to it that the run has an end.

        One that was suspended may come again before the child that it left has ended; then the
        later turn sees to its end.
        """
        if task_status is not None:
            task_status.started(0)
        key = str(flow_run.id)
        name = (await self.client.read_flow(flow_run.flow_id)).name
        if name in {deployment.flow_name for deployment in DEPLOYMENTS}:
            turn = self._turns[key] = self._turns.get(key, 0) + 1
            while self._drivers.at_work(key):
                await asyncio.sleep(LOOK)
            await asyncio.to_thread(self._drivers.give, key, f"{key} {name}")
            cancelled = await self._watched(flow_run.id)
            if self._turns.get(key) == turn:
                del self._turns[key]
                if cancelled:  # its flow calls an interruption a crash
                    ended: State[Any] = Cancelled(message="tacit job resume goes on")
                else:
                    ended = Crashed(message="its process ended before it")
                await self._end(flow_run.id, ended, crashed=cancelled)
        else:
            await self._end(flow_run.id, Failed(message=f"no flow {name!r} is run here"))
        return BaseWorkerResult(identifier=key, status_code=0)

    async def _watched(self, run: UUID) -> bool:
        """Wait for a child's end; interrupt it where the run is cancelled, and tell so."""
        cancelled, looks = False, 0
        while self._drivers.at_work(str(run)):
            await asyncio.sleep(LOOK)
            looks += 1
            if looks % ASK == 0 and not cancelled:
                with contextlib.suppress(Exception):
                    state = (await self.client.read_flow_run(run)).state
                    cancelled = state is not None and (
                        state.is_cancelling() or state.is_cancelled()
                    )
                if cancelled:
                    self._drivers.interrupt(str(run))
        return cancelled

    async def _end(self, run: UUID, state: State[Any], *, crashed: bool = False) -> None:
        """Give a run this end where it has none, or is only `crashed`; the server may be away.

        One that its job has left suspended is not over, nor is one that starts again after that.
        """
        while True:
            try:
                now = (await self.client.read_flow_run(run)).state
                left = now is not None and (now.is_paused() or now.is_scheduled())
                unended = now is None or not now.is_final() or (crashed and now.is_crashed())
                if not left and unended:
                    await self.client.set_flow_run_state(run, state, force=True)
                return
            except ObjectNotFound:
                return
            except Exception as error:
                log.warning("run %s: its end was not heard: %s", run, type(error).__name__)
            await asyncio.sleep(PAUSE)


async def serve(home: Home, drivers: Drivers) -> None:
    """Set the server up, then serve the coordinator's pool until cancelled."""
    watching = asyncio.gather(_watch(home), _wake(home))
    try:
        while True:
            try:
                await _set_up(home)
                await CoordinatorWorker(drivers).start(printer=lambda *_: None)
            except Exception as error:
                log.warning("the worker stopped with %s; it tries again", type(error).__name__)
            await asyncio.sleep(PAUSE)
    finally:
        watching.cancel()


async def _set_up(home: Home) -> None:
    async with get_client() as client:
        while await client.api_healthcheck() is not None:
            await asyncio.sleep(LOOK)
    changed = await setup(str(home.root))
    log.info("set up: %s", ", ".join(changed) or "nothing had to be changed")


async def _watch(home: Home) -> None:
    """Tell of silos whose desk does not answer."""
    while True:
        await asyncio.sleep(WATCH)
        try:
            for silo in await asyncio.to_thread(silent, home):
                log.warning("silo %s is silent", silo)
                tell_silent(silo)
        except TacitError as error:
            log.warning("the silos could not be asked: %s", error)


async def _wake(home: Home) -> None:
    """Start the suspended runs of jobs that were approved; silos are asked only while one waits."""
    while True:
        await asyncio.sleep(APPROVALS)
        try:
            for job in await asyncio.to_thread(wake_approved, home):
                log.info("job %s has its approvals and goes on", job)
        except Exception as error:
            log.warning("waiting jobs were not looked at: %s", type(error).__name__)


def silent(home: Home) -> list[str]:
    """The silos whose desk does not answer within seconds."""
    with engines.over_exchange(home) as parties:
        return [s for s in sorted(home.federation().silos) if not parties.hello(s)["serves"]]


def main() -> None:
    """Wait for a run on the standard input, then run it."""
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import load_flow_run, run_flow

    import federation.training.trainer  # noqa: F401  # warm before it is needed
    from federation.remote import Remote  # noqa: F401

    flows = {deployment.flow_name: deployment.flow() for deployment in DEPLOYMENTS}
    words = sys.stdin.readline().split()
    if len(words) == 2 and words[1] in flows:
        run = UUID(words[0])
        with handle_engine_signals(run):
            run_flow(flows[words[1]], flow_run=load_flow_run(run))


if __name__ == "__main__":
    main()

"""Sessions of a silo: each job in a child of its own, held as the silo's settings say.

    python -m infra.sessions HOME SILO [JOB]

confines itself, imports what a session needs, waits for one line that names a job where none is
named, takes part in it, and ends. The environment it gets is empty but for what finding Python and
the machine's time takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

from federation.embedded import DEADLINE
from federation.errors import Missing
from federation.home import Home
from federation.manifest import JOB
from federation.settings import DockerIsolation, SiloConfig
from infra.isolation import confine, container, labels
from infra.warm import WarmChildren

PATIENCE = 60.0
"""Seconds that a session which was told to stop has to end what it is at."""

_PASSED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class ChildSessions:
    """The sessions of one silo, in processes or in containers."""

    def __init__(self, home: Home, silo: str) -> None:
        config = home.silo_config(silo)
        held = config.isolation
        self._held: Processes | Containers
        if isinstance(held, DockerIsolation):
            self._held = Containers(home, config, held)
        else:
            self._held = Processes(home, silo)

    def join(self, job: str) -> None:
        """See to it that one session of the job is at work."""
        self._held.join(job)

    def at_work(self, job: str) -> bool:
        """Whether a session of the job is at work."""
        return self._held.at_work(job)

    def leave(self, job: str) -> None:
        """Wait until the job's session has ended; one that does not end is killed."""
        self._held.leave(job)

    def close(self) -> None:
        """End every session."""
        self._held.close()


class Processes:
    """Sessions in child processes, dead with their parent; a spare one is warm for the next job."""

    def __init__(self, home: Home, silo: str) -> None:
        self._children = WarmChildren(
            [sys.executable, "-m", "infra.sessions", str(home.root), silo],
            {name: os.environ[name] for name in _PASSED if name in os.environ},
            home.silo(silo).directory / "sessions.log",
        )

    def join(self, job: str) -> None:
        """Give the job to the spare child, unless one is at work on it."""
        self._children.give(job, job)

    def at_work(self, job: str) -> bool:
        """Whether a session of the job is at work."""
        return self._children.at_work(job)

    def leave(self, job: str) -> None:
        """Wait until the job's session has ended; one that does not end is killed."""
        self._children.leave(job, PATIENCE)

    def close(self) -> None:
        """End every child."""
        self._children.close()


class Containers:
    """Sessions in containers. No image is ever pulled: the silo's owner brings it to the machine.

    A container outlives a silo that is killed, until its job is driven no more; one that is found
    when the silo starts is ended, and the job's next session answers as it would have.
    """

    def __init__(self, home: Home, config: SiloConfig, isolation: DockerIsolation) -> None:
        import docker

        self._home = home
        self._config = config
        self._isolation = isolation
        with _engine():
            self._client = docker.from_env()
            self._client.images.get(isolation.image)
        self._lock = threading.Lock()
        self._at_work: dict[str, Any] = {}
        self.close()

    def join(self, job: str) -> None:
        """Start a container for the job, unless one is at work on it."""
        with self._lock, _engine():
            if self._alive(job):
                return
            self._drop(self._at_work.pop(job, None))
            argv = ["python", "-m", "infra.sessions", str(self._home.root), self._config.name, job]
            asked = container(self._isolation, self._config, self._home, argv)
            self._at_work[job] = self._client.containers.create(**asked)
            self._at_work[job].start()

    def at_work(self, job: str) -> bool:
        """Whether a container of the job is at work."""
        with self._lock, _engine():
            return self._alive(job)

    def leave(self, job: str) -> None:
        """Wait until the job's session has ended, and remove its container either way."""
        import requests

        with self._lock:
            found = self._at_work.get(job)
        if found is not None:
            # A time-out is told by the library under the SDK.
            with contextlib.suppress(requests.RequestException), _engine():
                found.wait(timeout=PATIENCE)
            with self._lock, _engine():
                if self._at_work.get(job) is found:
                    del self._at_work[job]
                self._drop(found)

    def close(self) -> None:
        """Remove every container of this silo, one that an earlier process of it left too."""
        with self._lock, _engine():
            self._at_work.clear()
            marks = labels(self._config, self._home)
            mine = {"label": [f"{name}={value}" for name, value in marks.items()]}
            for found in self._client.containers.list(all=True, filters=mine):
                self._drop(found)

    def _alive(self, job: str) -> bool:
        from docker.errors import NotFound

        found = self._at_work.get(job)
        try:
            if found is not None:
                found.reload()
        except NotFound:
            return False
        return found is not None and found.status in ("created", "running")

    def _drop(self, found: Any) -> None:
        from docker.errors import NotFound

        if found is not None:
            with contextlib.suppress(NotFound):
                found.remove(force=True)


@contextlib.contextmanager
def _engine() -> Any:
    """Say what is missing where the Docker engine does not do what it is asked."""
    import docker.errors

    try:
        yield
    except docker.errors.ImageNotFound:
        raise Missing(
            "the image of isolation.image is not on this machine; `docker pull` it by its digest",
            field="isolation.image",
        ) from None
    except docker.errors.DockerException as error:
        raise Missing(
            f"the Docker engine does not do what sessions need ({type(error).__name__}); is it "
            "running, and may this user use it?",
            field="isolation.kind",
            value="docker",
        ) from error


def main() -> None:
    """Take part in the job that is named, by an argument or on the standard input."""
    root, name = sys.argv[1:3]
    home = Home(Path(root))
    isolation = home.silo_config(name).isolation
    if not isinstance(isolation, DockerIsolation):
        confine(isolation)

    import federation.training.trainer  # noqa: F401  # warm before it is needed
    from federation.access import connect
    from federation.serving import Session
    from federation.silo import Silo

    job = sys.argv[3] if len(sys.argv) > 3 else sys.stdin.readline().strip()
    if not re.fullmatch(JOB, job):
        return
    silo = Silo(home, name)
    with connect(home, name, silo.key) as connection:
        silo.participate(job, Session(connection.endpoint(job)), deadline=DEADLINE)
    silo.close()


if __name__ == "__main__":
    main()

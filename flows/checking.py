"""What can be wrong with a job and found before it begins: the spec, the home, the sources.

Reads the names of columns and no row, and changes nothing. Imports no Prefect, so that a command
can look while the server comes up.
"""

from __future__ import annotations

from federation import engines
from federation.home import Home
from federation.lifecycle import facts_for, quotes_of
from federation.record import Engine
from federation.spec import JobSpec


def check(home: Home, spec: JobSpec, engine: Engine = "embedded") -> None:
    """Raise what the job would stumble over later; a refusal is left to the ledgers."""
    with engines.opened(home, engine) as parties:
        quotes_of(spec, facts_for(spec, parties))
        parties.check_sources(spec.dataset, spec.silos)
    spec.check(home.jobs, home.federation().dataset(spec.dataset))

"""A value planted in a silo's rows is found on that silo's disk and nowhere else.

Jobs succeed, fail and crash, with every aggregation and evaluation there is; then everything that
is not the silo's own is searched: coordinator, records of jobs, reports, models, logs, Prefect's
database, the exchange's streams.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.errors import JobFailed
from federation.home import Home
from federation.init import init_dataset
from infra import stack
from infra.prefect_server import prefect_server

TEXT = "canary-5ab81c3f"
NUMBER = 0.7390851332151607  # between the bounds, so that mapping a row keeps every bit of it
SCHEMA = """\
name: d
features:
  a: {type: number, bounds: [0, 1], missing: 0}
  b: {type: number, bounds: [0, 1], missing: 0}
  c: {type: category, values: [x, y], unknown: zero}
label: {column: y, classes: ["0", "1"]}
subject: {column: who, max_rows: 3}
split: {by: hash, salt: s, test_fraction: 0.3}
"""
JOB: dict[str, Any] = {
    "kind": "train",
    "name": "canary",
    "dataset": "d",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 16, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 8.0},
}
JOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "masked": {"aggregation": {"name": "masked"}},
    "encrypted": {"aggregation": {"name": "ckks"}},
    "median": {"aggregation": {"name": "plain", "rule": "median"}},
    "subject": {"privacy": {"noise_multiplier": 8.0, "unit": "subject"}},
    "unprotected": {"privacy": {"none": True}, "evaluation": {"release": "exact"}},
    "diverging": {
        "model": {"name": "mlp", "hidden": [8], "activation": "relu"},
        "privacy": {"none": True},
        "evaluation": {"release": "none"},
        "strategy": JOB["strategy"] | {"learning_rate": 1e38, "rounds": 30},
    },
    "refused": {"privacy": {"epsilon": 900.0}},
}


def traces() -> dict[str, bytes]:
    """The canary in every shape in which it could lie in a file."""
    text = TEXT.encode()
    found = {"text": text, "utf-16": TEXT.encode("utf-16-le"), "digits": b"0.73908513321"}
    for lead in range(3):  # base64 of the text within something longer
        inside = base64.b64encode(b"\0" * lead + text)[4 * bool(lead) : -4]
        found[f"base64, {lead} before"] = inside
    for name, value in (("as stored", NUMBER), ("as mapped", 2 * NUMBER - 1)):
        found[f"two doubles {name}"] = struct.pack("<2d", value, value)
        found[f"two floats {name}"] = struct.pack("<2f", value, value)
    return found


def _files(place: Path) -> Iterator[Path]:
    yield from (path for path in (place, *place.rglob("*")) if path.is_file())


def holding(*places: Path) -> dict[str, list[str]]:
    """The files below some places that hold a trace of the canary."""
    hits: dict[str, list[str]] = {}
    for place in places:
        for path in _files(place):
            body = path.read_bytes()
            if seen := [name for name, trace in traces().items() if trace in body]:
                hits[str(path)] = seen
    return hits


def rows(silo: str) -> str:
    lines = ["who,a,b,c,y"]
    for number in range(60):
        if silo == "north" and number % 5 == 0:
            lines.append(f"{TEXT},{NUMBER!r},{NUMBER!r},{TEXT},{number % 2}")
        else:
            share = (number * 37 % 60) / 60
            lines.append(f"{silo}{number},{share},{1 - share},x,{int(share > 0.5)}")
    lines.append(f"{silo}-last,{TEXT if silo == 'north' else 0.5},0.5,y,1")
    return "\n".join(lines) + "\n"


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Home]:
    schema = tmp_path / "d.yaml"
    schema.write_text(SCHEMA)
    silos = ("east", "north", "west")
    for silo in silos:
        (tmp_path / f"{silo}.csv").write_text(rows(silo))
    home = init_dataset(
        tmp_path / "fed",
        schema,
        {silo: str(tmp_path / f"{silo}.csv") for silo in silos},
        dict.fromkeys(silos, "40/20/30"),
        epsilon=100.0,
        delta=1e-3,
    )
    for silo in silos:
        path = home.silo(silo).config
        said = yaml.safe_load(path.read_text())
        said["policy"] = {"no_privacy": True, "exact_evaluation": True}
        path.write_text(yaml.safe_dump(said, sort_keys=False))
    yield home
    stack.down(home)


def command(home: Home, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    tacit = Path(sys.executable).with_name("tacit")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
    return subprocess.run(
        [tacit, *map(str, words), "--home", home.root],
        env=clean | environment,
        capture_output=True,
        timeout=200,
    )


def elsewhere(home: Home) -> list[Path]:
    """Everything of a home that is not the silo's own; other silos are strangers too."""
    silos = home.root / "silos"
    others = [place for place in silos.iterdir() if place != home.silo("north").directory]
    return [*(place for place in home.root.iterdir() if place != silos), *others]


FEW = ("masked", "unprotected", "diverging")


@pytest.mark.parametrize(
    ("apart", "asked"),
    [
        pytest.param(False, FEW, id="few"),
        pytest.param(False, tuple(JOBS), id="embedded", marks=pytest.mark.large),
        pytest.param(True, tuple(JOBS), id="apart", marks=pytest.mark.large),
    ],
)
def test_a_planted_value_stays_with_its_silo(
    fed: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    apart: bool,
    asked: tuple[str, ...],
) -> None:
    said, prefect = tmp_path / "said", tmp_path / "prefect"
    said.mkdir()
    prefect.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(prefect))
    with prefect_server(prefect) as server:
        # The stack has a Prefect of its own, whose database is in the home.
        address = {"TACIT_PREFECT_URL": "" if apart else server.wait()}
        if apart:
            assert command(fed, "up").returncode == 0
        verb = ("submit", "--wait") if apart else ("run",)
        ends = {}
        for name in asked:
            spec = tmp_path / f"{name}.yaml"
            spec.write_text(yaml.safe_dump(JOB | {"name": name} | JOBS[name]))
            done = command(fed, *verb, spec, "--json", **address)
            (said / name).write_bytes(done.stdout + done.stderr)
            result = json.loads(done.stdout)
            ends[name] = result.get("status") or result["error"]["code"]
        spec = tmp_path / "crashing.yaml"
        long = JOBS["unprotected"] | {"strategy": JOB["strategy"] | {"rounds": 2000}}
        spec.write_text(yaml.safe_dump(JOB | long))
        crash(fed, spec, verb, address)
        whole = [ends[name] for name in asked if name not in ("diverging", "refused")]
        assert set(whole) == {"completed"}, ends
        assert ends["diverging"] in ("failed", JobFailed.code), ends
        assert ends.get("refused") != "completed", ends
        assert holding(*elsewhere(fed), prefect, said) == {}
        assert list(prefect.rglob("prefect.db"))  # the database was there to be searched
    assert "text" in holding(tmp_path)[str(tmp_path / "north.csv")]  # the search can find


def crash(home: Home, spec: Path, verb: tuple[str, ...], environment: dict[str, str]) -> None:
    """Kill a job's command, with all that it started, some rounds in."""
    tacit = Path(sys.executable).with_name("tacit")
    child = subprocess.Popen(
        [tacit, *verb, spec, "--home", home.root],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(home.jobs.glob("canary-*/checkpoint.*")):
        time.sleep(0.1)
    assert child.poll() is None
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secure.exchange import nats

# A helper beside the tests, importable by name under --import-mode=importlib.
_spec = importlib.util.spec_from_file_location(
    "tests_backends", Path(__file__).with_name("backends.py")
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["tests_backends"] = _module
_spec.loader.exec_module(_module)

from tests_backends import Memory, Nats, Stack, start_stack  # noqa: E402


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start_stack(tmp_path_factory.mktemp("nats"))
    yield running
    running.server.stop()


@pytest.fixture
def over_nats(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nats]:
    monkeypatch.setattr(nats, "ACK_WAIT", Nats.patience)
    exchange = Nats(stack)
    yield exchange
    exchange.close()


@pytest.fixture(params=["memory", "nats"])
def exchange(request: pytest.FixtureRequest) -> Any:
    return Memory() if request.param == "memory" else request.getfixturevalue("over_nats")

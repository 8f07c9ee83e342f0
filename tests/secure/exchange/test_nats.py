"""NATS: a silo can do what it must and nothing else; the server may die; all traffic is TLS."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import nats as client
import pytest
from tests_backends import FEDERATION, PARTIES, Nats, Stack, start_stack

from infra import certificates
from infra.nats import make_seed, rights
from secure.errors import ExchangeClosed, KeyFileError
from secure.exchange.nats_endpoint import token


def denied(over_nats: Nats, party: str, call: Any) -> bool:
    """Whether the server tells a user that it may not do what `call` does with its connection."""
    connection = over_nats.connections[party]
    told: list[str] = []

    async def attempt() -> None:
        async def listen(error: Exception) -> None:
            told.append(str(error).lower())

        inner = connection._client
        inner._error_cb, before = listen, inner._error_cb
        try:
            await call(inner)
            await inner.flush()
            await asyncio.sleep(0.1)  # the callback runs as a task of its own
        except Exception as error:
            told.append(str(error).lower())
        finally:
            inner._error_cb = before

    connection.run(attempt())
    return any("permissions violation" in line for line in told)


def publishing(subject: str) -> Any:
    return lambda connection: connection.publish(subject, b"{}")


def subscribing(subject: str) -> Any:
    return lambda connection: connection.subscribe(subject)


FED = token(FEDERATION)


@pytest.mark.parametrize(
    "subject",
    [
        f"tacit.{FED}.any.south.coordinator",
        f"tacit.{FED}.any.coordinator.south",
        "tacit.other.any.north.coordinator",
        f"tacit.{FED}.any.north.coordinator.more",
        "_INBOX_south.x",
        "_INBOX_coordinator.x",
        "$JS.API.CONSUMER.MSG.NEXT.any.south",
        "$JS.API.CONSUMER.MSG.NEXT.any.coordinator",
        "$JS.ACK.any.south.1.1.1.1.0",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.STREAM.UPDATE.any",
        "$JS.API.STREAM.DELETE.any",
        "$JS.API.STREAM.PURGE.any",
        "$JS.API.STREAM.MSG.GET.any",
        "$JS.API.STREAM.MSG.DELETE.any",
        "$JS.API.DIRECT.GET.any",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.any",
        "$JS.API.CONSUMER.CREATE.any",
        "$JS.API.CONSUMER.DURABLE.CREATE.any.north",
        "$JS.API.CONSUMER.DELETE.any.north",
        "$JS.API.CONSUMER.INFO.any.north",
        "$JS.API.INFO",
        "$SYS.REQ.SERVER.PING",
    ],
)
def test_a_silo_may_not_publish_to(over_nats: Nats, subject: str) -> None:
    assert denied(over_nats, "north", publishing(subject))


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "tacit.>",
        f"tacit.{FED}.*.*.north",
        f"tacit.{FED}.*.coordinator.*",
        "_INBOX.>",
        "_INBOX_south.>",
        "_INBOX_coordinator.>",
        "$JS.>",
        "$SYS.>",
    ],
)
def test_a_silo_may_not_hear(over_nats: Nats, subject: str) -> None:
    assert denied(over_nats, "north", subscribing(subject))


@pytest.mark.parametrize(
    "subject",
    [
        f"tacit.{FED}.any.north.coordinator",
        "$JS.API.CONSUMER.MSG.NEXT.any.north",
        "$JS.API.STREAM.MSG.GET.any",
        "$JS.API.STREAM.PURGE.any",
        "_INBOX_north.x",
    ],
)
def test_the_coordinator_may_not_publish_to(over_nats: Nats, subject: str) -> None:
    assert denied(over_nats, "coordinator", publishing(subject))


def test_what_a_silo_may_do_is_what_is_listed(over_nats: Nats) -> None:
    said = rights(FEDERATION, "north")
    assert said["subscribe"]["allow"] == ["_INBOX_north.>"]
    for subject in said["publish"]["allow"]:
        assert not denied(
            over_nats, "north", publishing(subject.replace("*", "x").replace(">", "x"))
        )


def test_a_message_outlives_the_server(tmp_path: Path) -> None:
    stack = start_stack(tmp_path)
    exchange = Nats(stack)
    try:
        coordinator, north = exchange.open("coordinator"), exchange.open("north")
        coordinator.send("north", round=3, name="update", body=b"before" * 400_000)
        stack.server.child.send_signal(signal.SIGKILL)
        stack.server.child.wait()
        stack.server.restart()
        assert north.receive(deadline=20).body == b"before" * 400_000
        north.send("coordinator", round=3, name="update", body=b"after")
        assert coordinator.receive(deadline=20).body == b"after"
    finally:
        exchange.close()
        stack.server.stop()


def test_a_job_that_was_closed_takes_no_more(over_nats: Nats) -> None:
    over_nats.connections["coordinator"].close_job(over_nats.job)
    end = over_nats.connections["north"].endpoint(over_nats.job, patience=0.5)
    with pytest.raises(ExchangeClosed, match="did not take"):
        end.send("coordinator", round=0, name="update", body=b"late")


def test_closing_a_connection_wakes_whoever_waits(stack: Stack, over_nats: Nats) -> None:
    import threading

    connection = stack.connect("north")
    end, seen = connection.endpoint(over_nats.job), []

    def wait() -> None:
        try:
            end.receive(deadline=60)
        except ExchangeClosed as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    connection.close()
    thread.join(5)
    assert seen


def test_only_tls_1_3_by_the_federations_own_authority_is_spoken(
    stack: Stack, tmp_path: Path
) -> None:
    host, port = json.loads((stack.directory / "nats.json").read_text())["listen"].split(":")
    certificates.make_authority(tmp_path, "another")
    with pytest.raises(ExchangeClosed, match="CERTIFICATE_VERIFY_FAILED"):
        stack.connect("north", authority=tmp_path / "ca.pem")
    with pytest.raises(ExchangeClosed):
        stack.connect("north", url=f"tls://{host}:1")
    old = ssl.create_default_context(cafile=stack.directory / "ca.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def attempt() -> None:
        await client.connect(
            f"tls://{host}:{port}",
            tls=old,
            nkeys_seed_str=(stack.directory / "north.nk").read_text(),
            allow_reconnect=False,
        )

    with pytest.raises(Exception, match=r"(?i)protocol|version"):
        asyncio.run(attempt())


def test_a_key_that_is_no_member_or_lies_open_is_refused(stack: Stack, tmp_path: Path) -> None:
    make_seed(tmp_path / "stranger.nk")
    with pytest.raises(ExchangeClosed, match=r"(?i)authorization"):
        stack.connect("north", seed=tmp_path / "stranger.nk")
    (tmp_path / "stranger.nk").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        stack.connect("north", seed=tmp_path / "stranger.nk")


def test_the_seeds_and_keys_are_for_their_owner_alone(stack: Stack) -> None:
    secrets = [*stack.directory.glob("*.nk"), *stack.directory.glob("*.key")]
    assert len(secrets) == len(PARTIES) + 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)

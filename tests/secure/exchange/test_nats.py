"""NATS: a silo can do what it must and nothing else; the server may die; all traffic is TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats as client
import pytest
from tests_backends import FEDERATION, PARTIES, Nats, Stack, certify, start_stack

from federation.errors import Missing
from infra import certificates
from infra.nats import is_public, make_seed, reload, rights
from secure.errors import ExchangeClosed, KeyFileError
from secure.exchange import nats_endpoint
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
    host = stack.access["north"].url.removeprefix("tls://").split(":")[0]
    certificates.make_authority(tmp_path, "another")
    with pytest.raises(ExchangeClosed, match=r"another federation's server.*VERIFY_FAILED"):
        stack.connect("north", authority=tmp_path / "ca.pem")
    with pytest.raises(ExchangeClosed):
        stack.connect("north", url=f"tls://{host}:1")
    old = ssl.create_default_context(cafile=stack.directory / "ca.pem")
    old.load_cert_chain(stack.directory / "north.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Exception, match=r"(?i)protocol|version"):
        enter(stack, old)
    port = int(stack.access["north"].url.rpartition(":")[2])
    with socket.create_connection((host, port), timeout=2) as bare:
        bare.settimeout(0.5)
        with pytest.raises(TimeoutError):  # nothing is said in clear text, not even a greeting
            bare.recv(1)


def enter(stack: Stack, tls: ssl.SSLContext) -> None:
    """Connect as north with a context of one's own, past what our client checks first."""

    async def attempt() -> None:
        connection = await client.connect(
            stack.access["north"].url,
            tls=tls,
            tls_handshake_first=True,
            nkeys_seed_str=(stack.directory / "north.nk").read_text(),
            allow_reconnect=False,
        )
        await connection.close()

    asyncio.run(attempt())


def test_the_server_takes_nobody_without_a_certificate_of_its_authority_that_is_valid_now(
    stack: Stack, tmp_path: Path
) -> None:
    def context(*own: Path) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=stack.directory / "ca.pem")
        for path in own:
            made.load_cert_chain(path)
        return made

    certificates.make_authority(tmp_path, FEDERATION)
    foreign = certify(tmp_path, "north")
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_bytes((stack.directory / name).read_bytes())
    brief = certify(tmp_path, "south", life=timedelta(seconds=2))
    enter(stack, context(stack.directory / "north.pem"))
    enter(stack, context(brief))  # the NKEY says who it is; both are needed
    time.sleep(2.1)
    for refused in (context(), context(foreign), context(brief)):
        with pytest.raises(Exception, match=r"(?i)alert|eof|closed|lost|reset"):
            enter(stack, refused)
    with pytest.raises(ExchangeClosed, match=r"a certificate is not its authority's"):
        stack.connect("north", certificate=foreign)
    with pytest.raises(KeyFileError, match=r"expired on .* UTC; run `tacit silo renew north` here"):
        stack.connect("north", certificate=brief)


def test_a_certificate_that_cannot_be_used_is_told_before_anything_is_sent(
    stack: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_bytes((stack.directory / name).read_bytes())
    stack.connect("north", certificate=certify(tmp_path, "north", life=timedelta(days=20))).close()
    assert "ends on" in caplog.text and "tacit silo renew north" in caplog.text
    (tmp_path / "north.pem").unlink()
    with pytest.raises(KeyFileError, match="north has no certificate yet; `tacit up`"):
        stack.connect("north", certificate=tmp_path / "none.pem")
    for party in ("south", "north"):
        asked = certificates.make_request(tmp_path / f"{party}.key", party)
        monkeypatch.setattr(certificates, "_BACK", timedelta(days=-2))
        issued = certificates.issue_client(tmp_path, party, asked)
        path = tmp_path / f"{party}.pem"
        path.write_text(issued + (tmp_path / f"{party}.key").read_text())
        path.chmod(0o600)
        monkeypatch.undo()
    with pytest.raises(KeyFileError, match=r"valid from .* UTC only, and it is .*; set the clock"):
        stack.connect("north", certificate=tmp_path / "north.pem")
    north = certify(tmp_path, "north")
    mixed = (stack.directory / "south.pem").read_text().split("-----BEGIN PRIVATE")[0]
    (tmp_path / "mixed.pem").write_text(
        mixed + "-----BEGIN PRIVATE" + north.read_text().split("-----BEGIN PRIVATE")[1]
    )
    (tmp_path / "mixed.pem").chmod(0o600)
    with pytest.raises(KeyFileError, match="no certificate and key that belong together"):
        stack.connect("north", certificate=tmp_path / "mixed.pem")
    north.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        stack.connect("north", certificate=north)


def test_a_servers_certificate_that_has_ended_is_told_and_can_be_renewed_while_it_runs(
    tmp_path: Path,
) -> None:
    stack = start_stack(tmp_path)
    try:
        with stack.connect("south"):
            certificates.issue_server(tmp_path, ["127.0.0.1"], life=timedelta(seconds=1))
            stack.server.reload()
            time.sleep(1.1)
            with pytest.raises(ExchangeClosed, match=r"has expired.*renew coordinator"):
                stack.connect("north")
            certificates.issue_server(tmp_path, ["elsewhere.example"])
            stack.server.reload()
            with pytest.raises(ExchangeClosed, match="for another host"):
                stack.connect("north")
            certificates.issue_server(tmp_path, ["127.0.0.1"])
            stack.server.reload()
            stack.connect("north").close()
    finally:
        stack.server.stop()


def test_a_user_who_is_taken_out_is_cut_off_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_endpoint, "_TAKEN", 0.5)
    stack = start_stack(tmp_path)
    exchange = Nats(stack)
    try:
        coordinator, north = exchange.open("coordinator"), exchange.open("north")
        south = exchange.open("south")
        config = json.loads((tmp_path / "nats.json").read_text())
        gone = stack.connect("south")
        account = config["accounts"]["federation"]
        inbox = f"_INBOX_{token('south')}.>"
        account["users"] = [
            user
            for user in account["users"]
            if user["permissions"]["subscribe"]["allow"] != [inbox]
        ]
        (tmp_path / "nats.json").write_text(json.dumps(config))
        begun = time.monotonic()
        stack.server.reload()
        with pytest.raises(ExchangeClosed):
            south.receive(deadline=30)
        with pytest.raises(ExchangeClosed, match="no such user any more"):
            south.send("coordinator", round=0, name="update", body=b"still here?")
        assert time.monotonic() - begun < 20
        with pytest.raises(ExchangeClosed, match="no such user: not admitted yet, revoked"):
            stack.connect("south")
        coordinator.send("north", round=1, name="model", body=b"m" * 3_000_000)
        assert north.receive(deadline=10).body == b"m" * 3_000_000
        for party in ("coordinator", "north"):
            assert exchange.connections[party]._client.stats["reconnects"] == 0
        gone.close()
    finally:
        exchange.close()
        stack.server.stop()


def test_a_configuration_that_is_none_is_not_taken_for_taken_up(tmp_path: Path) -> None:
    stack = start_stack(tmp_path)
    try:
        good = json.loads((tmp_path / "nats.json").read_text())
        (tmp_path / "nats.json").write_text(json.dumps(good | {"no_such_option": True}))
        with pytest.raises(Missing, match="did not take up"):
            stack.server.reload()
        stack.connect("north").close()
    finally:
        stack.server.stop()
    assert not reload(tmp_path / "nats.json", tmp_path / "nats.log")  # nobody runs there now
    (tmp_path / "nats.pid").write_text(str(os.getpid()))
    assert not reload(tmp_path / "nats.json", tmp_path / "nats.log")  # nor is it this process


def test_an_nkey_is_told_from_what_is_none(tmp_path: Path) -> None:
    public = make_seed(tmp_path / "a.nk")
    assert is_public(public)
    changed = public[:-1] + ("A" if public[-1] != "A" else "B")
    assert not any(map(is_public, (changed, public[:-8], "", "U" * 56, "é" * 56, public.lower())))


def test_a_key_that_is_no_member_or_lies_open_is_refused(stack: Stack, tmp_path: Path) -> None:
    make_seed(tmp_path / "stranger.nk")
    with pytest.raises(ExchangeClosed, match=r"(?i)authorization"):
        stack.connect("north", seed=tmp_path / "stranger.nk")
    (tmp_path / "stranger.nk").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        stack.connect("north", seed=tmp_path / "stranger.nk")


def test_the_seeds_and_keys_are_for_their_owner_alone(stack: Stack) -> None:
    secrets = [*stack.directory.glob("*.nk"), *stack.directory.glob("*.key")]
    secrets += [stack.directory / f"{party}.pem" for party in PARTIES]
    assert len(secrets) == 2 * len(PARTIES) + 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)

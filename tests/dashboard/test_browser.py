"""`tacit dashboard` as a process, looked at with a real Chromium."""

import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from dashboard import launch, strings
from federation.books import open_ledger
from federation.home import Home

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TACIT = Path(sys.executable).with_name("tacit")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(template, tmp_path_factory):
    """The port of a dashboard on four silos; Ctrl-C must end it."""
    tmp_path = tmp_path_factory.mktemp("served")
    home = Home(tmp_path / "home")
    shutil.copytree(template.root, home.root)
    ledger = open_ledger(home, "west")
    ledger.mark_breached(["heart/subject"], "<b>lost</b> **badly**")
    ledger.close()
    port = free_port()
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [TACIT, "dashboard", "--home", home.root, "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        for _ in range(300):
            assert process.poll() is None, Path(log.name).read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert "Traceback" not in Path(log.name).read_text()
    finally:
        process.kill()
        process.wait()
        log.close()


def upgrade(port, host, origin):
    """The status of a WebSocket handshake that names this host and origin."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "GET",
        "/_stcore/stream",
        headers={
            "Host": host,
            "Origin": origin,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
    )
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_in_a_browser(served):
    if CHROMIUM is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    trouble, asked, outside = [], set(), []
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, as which many containers run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda r: asked.add(re.sub(r"^(\w+://[^/]*|\w+:).*", r"\1", r.url)))
        page.on("requestfailed", lambda r: outside.append(r.url))
        page.goto(f"http://127.0.0.1:{served}")
        page.get_by_text(strings.FOOT).wait_for(timeout=60_000)
        said = page.locator("body").inner_text()
        assert strings.HEADLINE["breached"] in said
        assert "4 of 4" in said
        assert "west/heart/subject: <b>lost</b> **badly**" in said
        assert page.title() == strings.PAGE_TITLE
        chart = page.get_by_test_id("stVegaLiteChart").first
        chart.locator("canvas, svg").first.wait_for(timeout=20_000)
        assert page.get_by_test_id("stException").count() == 0
        browser.close()
    assert trouble == []
    assert outside == []
    assert asked <= {f"http://127.0.0.1:{served}", "data:", "blob:", "blob:http://127.0.0.1"}


def test_another_site_or_another_name_for_this_machine_gets_no_session(served):
    own = f"127.0.0.1:{served}"
    assert upgrade(served, own, f"http://{own}") == 101
    assert upgrade(served, "evil.example", f"http://{own}") == 403
    assert upgrade(served, own, "http://evil.example") == 403


def test_it_listens_on_loopback_only_and_tells_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "0.0.0.0")
    words = launch.command(8501)
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    assert options["server.address"] == "127.0.0.1"
    assert options["browser.gatherUsageStats"] == "false"
    assert options["server.enableXsrfProtection"] == "true"
    assert options["server.headless"] == "true"
    assert options["server.port"] == "8501"
    environment = launch.environment(tmp_path)
    assert environment["TACIT_HOME"] == str(tmp_path)
    assert not [name for name in environment if name.startswith("STREAMLIT_")]

"""How the dashboard is started: on this machine only, silent towards the outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ADDRESS = "127.0.0.1"

OPTIONS = {
    "server.address": ADDRESS,
    "server.headless": "true",
    "server.enableXsrfProtection": "true",
    "server.enableCORS": "true",
    "server.allowedHosts": ADDRESS,
    "server.showEmailPrompt": "false",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
}
"""Streamlit's options; on the command line they win over any file of the user's."""


def command(home_root: Path, port: int) -> list[str]:
    """Return the command that serves the dashboard of a home on a loopback port."""
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    app = Path(__file__).with_name("app.py")
    return [
        *(sys.executable, "-m", "streamlit", "run", str(app), f"--server.port={port}"),
        *options,
        *("--", str(home_root)),
    ]


def environment(home_root: Path) -> dict[str, str]:
    """Return the environment of that command: the caller's, without its Streamlit settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    return kept | {"TACIT_HOME": str(home_root)}

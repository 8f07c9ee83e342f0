"""How the dashboard is started: on this machine only, silent towards the outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ADDRESS = "127.0.0.1"

OPTIONS = (
    ("server.address", ADDRESS),
    ("server.headless", "true"),
    ("server.enableXsrfProtection", "true"),
    ("server.enableCORS", "true"),
    ("server.allowedHosts", ADDRESS),
    ("server.allowedHosts", "localhost"),
    ("server.showEmailPrompt", "false"),
    ("server.fileWatcherType", "none"),
    ("browser.gatherUsageStats", "false"),
    ("client.toolbarMode", "viewer"),
    ("client.showErrorDetails", "none"),
    ("client.disableDataExport", "true"),
    ("browser.serverAddress", ADDRESS),
    ("runner.magicEnabled", "false"),
    ("theme.light.primaryColor", "#2a8f85"),
    ("theme.dark.primaryColor", "#3fb5a8"),
)
"""Streamlit's options; on the command line they win over any file of the user's."""


def command(port: int) -> list[str]:
    """Return the command that serves the dashboard on a loopback port."""
    options = [f"--{name}={value}" for name, value in OPTIONS]
    app = Path(__file__).with_name("app.py")
    return [
        *(sys.executable, "-P", "-m", "streamlit", "run", str(app), f"--server.port={port}"),
        *options,
    ]


def environment(home_root: Path) -> dict[str, str]:
    """Return that command's environment: the home it shows, no Streamlit settings of the caller."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    return kept | {"TACIT_HOME": str(home_root)}

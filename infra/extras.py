"""How an extra is installed, as messages say it.

Tacit is installed from its checkout: the name `tacit` on PyPI is another project's.
"""

from __future__ import annotations


def install(extra: str) -> str:
    """The command that brings an extra, for a person to type in the checkout."""
    return f"pip install -c constraints.txt '.[{extra}]' in the checkout"

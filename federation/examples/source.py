"""Where the example data come from: scikit-learn, an extra that need not be installed."""

from __future__ import annotations

from typing import Any

from federation.errors import Missing


def load(name: str) -> Any:
    """Call one of `sklearn.datasets`' loaders of data that it ships; `Missing` without it."""
    try:
        from sklearn import datasets
    except ImportError:
        raise Missing(
            "the examples are scikit-learn's data, which is not installed: pip install "
            "-c constraints.txt '.[examples]' in the checkout",
            field="example",
            value="scikit-learn",
            allowed='the extra "examples"',
        ) from None
    return getattr(datasets, name)()

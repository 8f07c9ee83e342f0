"""Example data sets, cut into unequal silos with skewed labels, the same on every machine.

Each module has `SCHEMA`, the declared data set, and `rows()`, its columns; `example` finds one by
its name. The data are scikit-learn's own copies (extra `examples`); bounds are declared by hand.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from federation.errors import BadInput

EXAMPLES = {"breast-cancer": "breast_cancer", "digits": "digits"}


def example(name: str) -> ModuleType:
    """The module of an example, or `BadInput` naming those there are."""
    if name not in EXAMPLES:
        raise BadInput(
            f"no example {name!r}; there are {', '.join(EXAMPLES)}",
            field="example",
            value=name,
            allowed=sorted(EXAMPLES),
        )
    return importlib.import_module(f"{__name__}.{EXAMPLES[name]}")

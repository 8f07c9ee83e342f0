"""The settings files as a person will read them: YAML with comments that say what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from federation import plain_yaml
from federation.settings import SiloConfig, SourceConfig

_FEDERATION = """\
# The public facts of this federation: who takes part, by which key, on which data sets, and how
# large each silo says its parts are. Every silo signs this file; a change needs all signatures
# again (`tacit silo countersign NAME`).
{head}
# The most silos that one subject can be in. Without it: all of them.
{most}

# What a row looks like. Bounds, categories and what stands in for a missing value are declared
# by people, never taken from rows.
{datasets}
# Sizes are public and typed by each owner; round numbers are fine.
{silos}"""

_SILO = """\
# The private settings of silo {name}: where its rows are, what its accounts allow, what its
# policy lets through. Relative paths are meant from this file.
{head}
# With these terms the ledger opened its accounts. The ledger's own entries count from then on:
# change a capacity with `tacit budget set`; raising one takes two of policy.approvers.
{accounts}
policy:
  kinds: [{kinds}]
  exact_evaluation: false  # true: exact counts on the test part may leave, logged as unprotected
  no_privacy: false        # true: jobs may train without differential privacy, logged likewise
  unencrypted_inference: false  # true: other silos' models may see rows, logged likewise

ledger: ledger.db  # or a SQLAlchemy URL, such as postgresql+psycopg://...
key: key
"""


def federation_text(facts: Mapping[str, Any]) -> str:
    """The text of `federation.yaml`."""
    most = facts.get("max_silos_per_subject")
    return _FEDERATION.format(
        head=_dump({"name": facts["name"], "coordinator": facts["coordinator"]}),
        most="# max_silos_per_subject: 1" if most is None else f"max_silos_per_subject: {most}",
        datasets=_dump({"datasets": facts["datasets"]}),
        silos=_dump({"silos": facts["silos"]}),
    )


def silo_text(config: SiloConfig) -> str:
    """The text of a `silo.yaml`; URLs are written out, so keep the file at mode 0600."""
    sources = {name: _source(source) for name, source in config.sources.items()}
    accounts = [
        account.model_dump(mode="json", exclude={"delta0"} if not account.delta0 else set())
        for account in config.accounts
    ]
    return _SILO.format(
        name=config.name,
        head=_dump({"name": config.name, "sources": sources}),
        accounts=_dump({"accounts": accounts}),
        kinds=", ".join(config.policy.kinds),
    )


def _source(source: SourceConfig) -> dict[str, Any]:
    plain: dict[str, Any] = {"kind": source.kind}
    for field, value in source.model_dump(exclude_none=True, exclude_defaults=True).items():
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[field] = value
    return plain


def _dump(data: Any) -> str:
    return yaml.dump(_lined(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=98)


class _Line(dict[str, Any]):
    """A mapping that fits on a line, such as one feature."""


class _Dumper(plain_yaml.Dumper):
    """YAML in which small things stand on one line each."""


_Dumper.add_representer(
    _Line,
    lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True),
)
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(x, dict) for x in data)
    ),
)


def _lined(data: Any, depth: int = 0) -> Any:
    if isinstance(data, list):
        return [_lined(item, depth + 1) for item in data]
    if not isinstance(data, Mapping):
        return data
    inner = {key: _lined(value, depth + 1) for key, value in data.items()}
    leaf = depth > 1 and not any(isinstance(v, dict) for v in inner.values())
    return _Line(inner) if leaf and not any(len(str(v)) > 60 for v in inner.values()) else inner

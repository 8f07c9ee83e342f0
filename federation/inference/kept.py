"""Models that a silo's owner keeps for others to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from federation.documents import parse
from federation.errors import BadInput, NotFound
from federation.home import Home
from federation.inference.served import Files, read_model
from federation.inference.specs import ServedSpec
from privacy.ledger.durable import write_durably


def keep(home: Home, silo: str, name: str, model: Path) -> dict[str, Any]:
    """Copy a model and its description to where infer jobs ask `model: {own: NAME}`.

    Reads it as such a job would, against the schema of the federation that it was made for.
    Raises `BadInput` where it cannot be read, fits none of the schemas, or the name is taken.
    """
    parse({"own": name}, ServedSpec, "model")
    federation = home.federation()
    home.silo_config(silo)  # `NotFound` where the silo does not live here
    files = Files.at(model, str(model))
    fitting: list[str] = []
    for dataset in federation.datasets.values():
        try:
            read_model(files, dataset, ours=False)
        except BadInput as error:
            if error.field != "model.dataset":
                raise
        else:
            fitting.append(dataset.name)
    if not fitting:
        raise NotFound(
            f"{model}: it was made for none of the schemas of this federation",
            field="model.dataset",
            value=str(model),
            allowed=sorted(federation.datasets),
        )
    target = home.silo(silo).models / f"{name}.safetensors"
    if target.exists():
        raise BadInput(
            f"{silo} keeps a model {name!r} already; remove {target} first, or choose another name",
            field="as",
            value=name,
        )
    target.parent.mkdir(exist_ok=True, mode=0o700)
    write_durably(target.with_suffix(".json"), files.description)
    write_durably(target, files.weights)
    return {"silo": silo, "own": name, "datasets": fitting, "model": str(target)}

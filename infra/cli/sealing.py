"""`tacit model seal` and `tacit model attack`: a model for a node that may see neither side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.reporting import Json, grid, note, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from secure.equivariant import Model, Probes, Report

NODE, SILO, KEY, REPORT = "node.sealed", "silo.sealed", "owner.key", "report.json"
"""What `seal` writes: for the node, for the data silo, and two files for the owner alone."""

ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="model.safetensors of a job, or a directory with config.json and safetensors.",
        show_default=False,
    ),
]
KeyOption = Annotated[Path, typer.Option("--key", help="The owner's key file.", show_default=False)]
BaseOption = Annotated[
    Path | None,
    typer.Option("--base", help="The public model an attacker has; default: the model itself."),
]
ProbesOption = Annotated[
    Path | None,
    typer.Option("--probes", help="Inputs like those to come, .npy; default: synthetic ones."),
]
PassphraseOption = Annotated[
    bool, typer.Option("--passphrase", help="Lock the key by a passphrase, not the owner's key.")
]


def seal(
    model: ModelArgument,
    node: Annotated[str, typer.Option(help="Public key of the node.", show_default=False)],
    silo: Annotated[str, typer.Option(help="Public key of the data silo.", show_default=False)],
    key: KeyOption,
    out_directory: Annotated[
        Path, typer.Option("--out", help="A new directory.", show_default=False)
    ],
    base: BaseOption = None,
    probes: ProbesOption = None,
    days: Annotated[int, typer.Option(help="How long it is good for.")] = 30,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Seal a model for one node and one data silo, and attack it. Obfuscation, not encryption."""
    with reporting(json) as out:
        from json import dumps

        from secure.equivariant import LABEL, Owner, SealingKey
        from secure.equivariant.keys import write_private
        from secure.keys import SigningKey

        owner = SigningKey.load(key)
        plain = load_model(model)
        sample = load_probes(probes, plain)
        public = load_model(base) if base else None
        said = _passphrase(passphrase, confirm=True)
        sealing = Owner(owner).seal(
            plain,
            SealingKey.generate(),
            node=node,
            silo=silo,
            base=public,
            probes=sample,
            days=days,
        )
        out_directory.mkdir(mode=0o700)
        document = {"protection": LABEL, **sealing.manifest}
        files = {
            NODE: sealing.node,
            SILO: sealing.silo,
            KEY: sealing.key_file(owner, said),
            REPORT: dumps(sealing.report.document(), indent=1).encode(),
        }
        for name, data in files.items():
            write_private(out_directory / name, data)
        document["files"] = {
            name.split(".")[0]: str((out_directory / name).resolve()) for name in files
        }
        document["report"] = sealing.report.document()
        out.result(document, lambda screen: _show(sealing.report, screen))


def attack(
    model: ModelArgument,
    sealed: Annotated[
        Path, typer.Argument(help="The directory that seal wrote.", show_default=False)
    ],
    key: KeyOption,
    base: BaseOption = None,
    probes: ProbesOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Attack a sealed model again, with another base or other probes, and count what it gives."""
    with reporting(json) as out:
        from secure.equivariant import LABEL, Owner
        from secure.equivariant.keys import read_private
        from secure.keys import SigningKey

        owner = SigningKey.load(key)
        plain = load_model(model)
        report = Owner(owner).attack(
            plain,
            (sealed / NODE).read_bytes(),
            read_private(sealed / KEY),
            base=load_model(base) if base else None,
            probes=load_probes(probes, plain),
            passphrase=_passphrase(passphrase, confirm=False),
        )
        document = {"protection": LABEL, "report": report.document()}
        out.result(document, lambda screen: _show(report, screen))


def load_model(path: Path) -> Model:
    """Read a model of a job, or a directory in the shape of Hugging Face's."""
    from secure.equivariant import read_directory

    if path.is_dir():
        return read_directory(path)
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.torch import load

    from federation.documents import read_yaml
    from federation.inference.sealed import sealable
    from federation.models import build_model
    from federation.schema import Dataset
    from secure.equivariant.errors import BadModel

    data, document = path.read_bytes(), read_yaml(path.with_suffix(".json"))
    try:
        dataset = Dataset.model_validate(document["dataset"])
        network = build_model(document["model"], dataset.input_shape, dataset.n_classes, seed=0)
        network.load_state_dict(load(data))
    except (SafetensorError, ValidationError, KeyError, TypeError, RuntimeError):
        raise BadModel(f"{path}: not the model of a job", field="model", value=str(path)) from None
    return sealable(network, dataset.input_shape)


def load_probes(path: Path | None, model: Model) -> Probes | None:
    """Read a sample of inputs: integers are tokens, other numbers rows."""
    if path is None:
        return None
    import numpy as np
    import torch

    from secure.equivariant import Probes
    from secure.equivariant.errors import BadInput

    try:
        sample = np.load(path, allow_pickle=False)
    except ValueError:
        raise BadInput(f"{path}: not a NumPy file", field="probes", value=str(path)) from None
    return Probes.of(model.architecture.takes, torch.from_numpy(np.asarray(sample)))


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the group `model`."""
    group = next(found for found in app.registered_groups if found.name == "model")
    assert group.typer_instance is not None  # noqa: S101 - data.register has made it
    group.typer_instance.command()(seal)
    group.typer_instance.command()(attack)


def _passphrase(wanted: bool, *, confirm: bool) -> str | None:
    if not wanted:
        return None
    said: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return said


def _show(report: Report, screen: Console) -> None:
    table = grid(f"Sealed: {report.label}", "attack", "knows", "recovered", "by chance", left=2)
    for found in report.findings:
        table.add_row(found.attack, found.knows, f"{found.value:.1%}", f"{found.chance:.1%}")
    screen.print(table)
    for found in report.findings:
        screen.print(f"- {found.says}", markup=False)
    note(screen, f"Attacked with {report.probes}. In plain sight: " + "; ".join(report.visible))
    note(screen, "Who can undo it: " + "; ".join(report.undone_by) + ".")

"""`tacit model commit`, `prove`, `verify`: what a model is, and what was answered with it.

All of it works offline, on files: a safetensors model, its commitment, proofs and receipts.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import Json, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from secure.verification.commitment import Salts

ModelArgument = Annotated[Path, typer.Argument(help="A safetensors file.", show_default=False)]
SaltsOption = Annotated[
    Path | None, typer.Option(help="The secret salts that commit --secret wrote.")
]


def commit(
    model: ModelArgument,
    secret: Annotated[
        bool, typer.Option("--secret", help="Salt the leaves: guesses cannot be checked.")
    ] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Default: beside the model, .commitment.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Commit to a model: one root over its tensors' names, types, shapes and values."""
    with reporting(json) as out:
        from secure.verification.commitment import Salts, load
        from secure.verification.commitment import commit as commit_to

        target = out_file or model.with_suffix(".commitment.json")
        hidden = target.with_suffix(".salts") if secret else None
        salts = Salts.generate() if secret else None
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        commitment = commit_to(load(model), salts)
        if salts is not None and hidden is not None:
            salts.save(hidden)
        _write(target, commitment.document())
        document = {
            "root": commitment.root.hex(),
            "tensors": len(commitment.tensors),
            "salted": commitment.salted,
            "commitment": str(target.resolve()),
            "salts": str(hidden.resolve()) if hidden else None,
        }
        out.result(document, lambda screen: _show_commitment(document, screen))


def prove(
    model: ModelArgument,
    tensor: Annotated[str, typer.Argument(help="The tensor's name.", show_default=False)],
    commitment: Annotated[Path, typer.Option(help="What tacit model commit wrote.")],
    salts: SaltsOption = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Default: beside the model, .proof.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove that one tensor is part of a committed model; opens the salt of that tensor alone."""
    with reporting(json) as out:
        from secure.verification.commitment import Commitment, load
        from secure.verification.commitment import prove as prove_tensor

        known = Commitment.read(_read(commitment))
        proof = prove_tensor(known, load(model), tensor, _salts(salts))
        target = out_file or model.with_suffix(".proof.json")
        _write(target, proof.document())
        document = {"root": known.root.hex(), "tensor": tensor, "proof": str(target.resolve())}
        out.result(document, lambda screen: screen.print(f"{target}", soft_wrap=True))


def verify(
    model: Annotated[
        Path | None, typer.Argument(help="A safetensors file.", show_default=False)
    ] = None,
    commitment: Annotated[
        Path | None, typer.Option(help="Check that MODEL is the one committed to.")
    ] = None,
    salts: SaltsOption = None,
    proof: Annotated[
        Path | None, typer.Option(help="Check one tensor of MODEL against --root.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="The model's root, from whoever you trust to know it.")
    ] = None,
    receipts: Annotated[
        Path | None, typer.Option(help="Check a node's chain of receipts against --signer.")
    ] = None,
    signer: Annotated[str | None, typer.Option(help="The node's public key.")] = None,
    holds: Annotated[
        Path | None, typer.Option(help="Receipts you hold, which the chain must contain.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify a model against its commitment, a tensor against a proof, or a chain of receipts."""
    with reporting(json) as out:
        from secure.errors import NotVerified

        checked = "receipts" if receipts else "tensor" if proof else "model"
        document: dict[str, Any] = {"checked": checked, "ok": True, "first_bad": None}
        try:
            if receipts and signer and not (model or commitment or proof):
                document |= _check_receipts(receipts, signer, holds)
            elif model and commitment and not (proof or receipts):
                document |= _check_model(model, commitment, root, salts)
            elif model and proof and root and not (commitment or receipts):
                document |= _check_tensor(model, proof, root)
            else:
                raise _unclear()
        except NotVerified as error:
            bad = {"where": error.field, "what": error.value, "reason": error.message}
            document |= {"ok": False, "first_bad": bad}
        out.result(document, lambda screen: _show(document, screen))
        raise typer.Exit(0 if document["ok"] else 4)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the group `model`, which `infra.cli.data` makes."""
    (group,) = (g.typer_instance for g in app.registered_groups if g.name == "model")
    assert group is not None  # noqa: S101 - add_typer always sets it
    for command in (commit, prove, verify):
        group.command()(command)


def _check_model(
    model: Path, commitment: Path, root: str | None, salts: Path | None
) -> dict[str, Any]:
    from secure.errors import NotVerified
    from secure.verification.commitment import Commitment, check_model, load

    known = Commitment.read(_read(commitment))
    if root is not None and _root(root) != known.root:
        raise NotVerified("the commitment has another root", field="root", value=known.root.hex())
    check_model(known, load(model), _salts(salts))
    return {"root": known.root.hex(), "tensors": len(known.tensors)}


def _check_tensor(model: Path, proof: Path, root: str) -> dict[str, Any]:
    from secure.errors import NotVerified
    from secure.verification.commitment import Proof, check_tensor, load

    shown, wanted = Proof.read(_read(proof)), _root(root)
    found = {tensor.facts: tensor.data for tensor in load(model)}
    if shown.facts not in found:
        name = shown.facts.name
        raise NotVerified(f"the file has no such tensor {name!r}", field="tensor", value=name)
    check_tensor(wanted, shown, found[shown.facts])
    return {"root": root, "tensor": shown.facts.name, "of": shown.count}


def _check_receipts(receipts: Path, signer: str, holds: Path | None) -> dict[str, Any]:
    from secure.verification.receipts import Receipt, check_chain

    held = {r.number: r.hash for r in map(Receipt.read, _lines(holds))} if holds else {}
    head = check_chain(_lines(receipts), signer, held=held)
    return {"receipts": head.number, "head": head.hash, "held": len(held)}


def _unclear() -> Exception:
    from secure.errors import BadParameters

    return BadParameters(
        "say what to verify: MODEL with --commitment, MODEL with --proof and --root, "
        "or --receipts with --signer",
        field="model",
    )


def _root(text: str) -> bytes:
    from secure.errors import BadParameters
    from secure.verification.hashing import unhex

    try:
        return unhex(text, 32)
    except ValueError:
        raise BadParameters(
            "a root has 64 lower-case hexadecimal digits", field="root", value=text
        ) from None


def _salts(path: Path | None) -> Salts | None:
    from secure.verification.commitment import Salts

    return Salts.load(path) if path else None


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "replace").splitlines()


def _read(path: Path) -> Any:
    from secure.errors import BadMessage

    try:
        return json.loads(path.read_text())
    except ValueError:
        raise BadMessage(f"{path}: not JSON", field="file", value=str(path)) from None


def _write(path: Path, document: Any) -> None:
    with path.open("x") as file:
        file.write(json.dumps(document, indent=1) + "\n")


def _show_commitment(document: dict[str, Any], screen: Console) -> None:
    screen.print(f"{document['tensors']} tensors, root {document['root']}", soft_wrap=True)
    screen.print(f"Commitment, to be published: {document['commitment']}", soft_wrap=True)
    if document["salts"]:
        screen.print(f"Salts, to be kept secret: {document['salts']}", soft_wrap=True)


def _show(document: dict[str, Any], screen: Console) -> None:
    bad = document["first_bad"]
    if bad:
        screen.print(f"NOT VERIFIED: {bad['reason']}", markup=False, soft_wrap=True)
        return
    said = {
        "model": "the model is the one committed to: {tensors} tensors, root {root}",
        "tensor": "tensor {tensor} is one of the {of} of the model with root {root}",
        "receipts": "{receipts} receipts, all by this key, each following the one before; "
        "{held} that you hold are among them",
    }[document["checked"]]
    screen.print(said.format(**document), markup=False, soft_wrap=True)

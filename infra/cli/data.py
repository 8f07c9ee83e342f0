"""`tacit dataset ...`, `tacit source ...`, `tacit model ...`: for the owner of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.reporting import HomeOption, Json, find_home, reporting


def draft(
    file: Annotated[
        Path, typer.Argument(help="One silo's CSV, Parquet or NPZ file.", show_default=False)
    ],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", help="A new file; the data set is called after it, else after FILE's own name."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Draft a schema with names and types; bounds and categories are left to a person."""
    with reporting(json) as out:
        from federation.draft import draft_schema
        from federation.errors import BadInput

        if out_file is not None and out_file.exists():
            raise BadInput(
                f"{out_file}: already there; name a new file",
                field="out",
                value=str(out_file),
                allowed="a new file",
            )
        text = draft_schema(file, out_file.stem if out_file else None)
        if out_file is not None:
            with out_file.open("x", encoding="utf-8") as new:
                new.write(text)
        document = {"schema": text, "file": str(out_file.resolve()) if out_file else None}
        said = (
            f"Wrote {out_file}. Check its name, declare the bounds and categories it leaves open, "
            "and move the label out of the features."
            if out_file
            else text
        )
        out.result(document, lambda screen: screen.print(said, markup=False, soft_wrap=True))


def check(
    silo: Annotated[str, typer.Argument(help="Whose rows.", show_default=False)],
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Tell the owner, and only the owner, what the rows violate; never sent anywhere."""
    with reporting(json) as out:
        from federation.check import check_silo, check_text
        from infra.enrolment.at_silo import asked_sizes

        where = find_home(home)
        document = check_silo(where, silo, asked_sizes(where, silo))
        out.result(
            document,
            lambda screen: screen.print(check_text(document), markup=False, soft_wrap=True),
        )


def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a job.", show_default=False)],
    source: Annotated[Path, typer.Argument(help="A CSV or Parquet file.", show_default=False)],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Default: beside the source, -predictions.csv.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict where the rows are; the predictions are written beside them and go nowhere else."""
    with reporting(json) as out:
        from federation.predict import predict_file

        target = out_file or source.with_name(source.stem + "-predictions.csv")
        rows = predict_file(model, source, target)
        document = {"rows": rows, "predictions": str(target.resolve())}
        out.result(
            document,
            lambda screen: screen.print(f"{rows} predictions in {target}", soft_wrap=True),
        )


def keep(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a job.", show_default=False)],
    silo: Annotated[str, typer.Option(help="Who keeps it.", show_default=False)],
    name: Annotated[str, typer.Option("--as", help="What jobs call it.", show_default=False)],
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Keep a model at a silo for infer jobs (`model: {own: NAME}`); it leaves in no form."""
    with reporting(json) as out:
        from federation.inference.kept import keep as kept

        document = kept(find_home(home), silo, name, model)
        said = (
            f"{silo} keeps {name} for {', '.join(document['datasets'])}; every silo of the "
            "federation may ask it, up to policy.queries rows each"
        )
        out.result(document, lambda screen: screen.print(said, soft_wrap=True))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset = typer.Typer(help="The schema that silos share.", no_args_is_help=True)
    dataset.command()(draft)
    source = typer.Typer(help="A silo's own rows.", no_args_is_help=True)
    source.command()(check)
    model = typer.Typer(help="Trained models.", no_args_is_help=True)
    model.command()(predict)
    model.command()(keep)
    app.add_typer(dataset, name="dataset")
    app.add_typer(source, name="source")
    app.add_typer(model, name="model")

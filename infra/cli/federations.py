"""`tacit init` and `tacit silo ...`: make a federation, countersign its membership, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.reporting import HomeOption, Json, find_home, reporting

DirectoryArgument = Annotated[Path, typer.Argument(help="The new home.", show_default=False)]


def init(
    directory: DirectoryArgument,
    example: Annotated[
        str | None, typer.Option(help="breast-cancer or digits, scikit-learn's own data.")
    ] = None,
    silos: Annotated[int, typer.Option(min=1, max=64, help="Silos of the example.")] = 4,
    dataset: Annotated[
        Path | None, typer.Option(help="A schema, from tacit dataset draft.", show_default=False)
    ] = None,
    silo: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE: a file or a SQL URL; repeat it.", show_default=False),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TRAIN/TEST: rows the silo declares publicly; repeat it.", show_default=False
        ),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Capacity of each account.")] = 10.0,
    delta: Annotated[float, typer.Option(help="Delta of each account.")] = 1e-5,
    json: Json = False,
) -> None:
    """Make a directory a working federation: keys, silos, budgets."""
    with reporting(json) as out:
        from federation.errors import BadInput
        from federation.init import init_dataset, init_example

        if example is not None and dataset is None:
            home = init_example(directory, example, silos=silos, epsilon=epsilon, delta=delta)
        elif dataset is not None and example is None:
            home = init_dataset(
                directory,
                dataset,
                _pairs(silo or [], "silo", "NAME=SOURCE"),
                _pairs(size or [], "size", "NAME=TRAIN/TEST"),
                epsilon=epsilon,
                delta=delta,
            )
        else:
            raise BadInput(
                "give either --example NAME or --dataset SCHEMA.yaml with --silo NAME=SOURCE",
                field="example",
                allowed=["breast-cancer", "digits"],
            )
        federation = home.federation()
        document = {
            "home": str(home.root),
            "federation": federation.name,
            "datasets": sorted(federation.datasets),
            "silos": sorted(federation.silos),
            "accounts": {"epsilon": epsilon, "delta": delta},
        }
        out.result(
            document,
            lambda screen: screen.print(
                f"{home.root} holds a federation of {len(federation.silos)} silos "
                f"({', '.join(sorted(federation.silos))}); each account allows epsilon "
                f"{epsilon:g} at delta {delta:g}.",
                soft_wrap=True,
            ),
        )


def countersign(
    name: Annotated[str, typer.Argument(help="The silo.", show_default=False)],
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Countersign the membership as it stands, after comparing fingerprints out of band."""
    with reporting(json) as out:
        from federation.membership import Membership

        where = find_home(home)
        membership = Membership.countersign(where, name)
        document = {"silo": name, "membership": membership.version}
        out.result(
            document,
            lambda screen: screen.print(f"{name} has signed membership {membership.version}."),
        )


def serve(
    name: Annotated[str, typer.Argument(help="The silo.", show_default=False)],
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Serve a silo over the federation's exchange, until Ctrl-C or a TERM signal."""
    with reporting(json):
        from infra.silo_server import serve as serve_silo

        serve_silo(find_home(home), name)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(init)
    group = typer.Typer(help="What a silo's owner does.", no_args_is_help=True)
    group.command()(countersign)
    group.command()(serve)
    app.add_typer(group, name="silo")


def _pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    from federation.errors import BadInput

    pairs = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(pairs) != len(texts):
        raise BadInput(
            f"--{option} takes {form}, each name once", field=option, value=texts, allowed=form
        )
    return pairs

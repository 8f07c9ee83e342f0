"""`tacit init` and `tacit silo serve`: make a federation, and let a silo take part in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from infra.cli import silos as enrolment
from infra.cli.reporting import HomeOption, Json, find_home, pairs, reporting

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
        typer.Option(
            help="NAME=SOURCE: a file, a SQL URL, or none; repeat it.", show_default=False
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TRAIN/TEST[/SUBJECTS]: what the silo declares publicly; repeat it.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Capacity of each account.")] = 10.0,
    delta: Annotated[float, typer.Option(help="Delta of each account.")] = 1e-5,
    exchange: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT where silos on hosts of their own will reach the exchange.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a directory a working federation: keys, silos, budgets."""
    with reporting(json) as out:
        from federation.errors import BadInput
        from federation.init import init_dataset, init_example

        address = None if exchange is None else _address(exchange)
        if example is not None and dataset is None:
            home = init_example(directory, example, silos=silos, epsilon=epsilon, delta=delta)
        elif dataset is not None and example is None:
            home = init_dataset(
                directory,
                dataset,
                pairs(silo or [], "silo", "NAME=SOURCE"),
                pairs(size or [], "size", "NAME=TRAIN/TEST[/SUBJECTS]"),
                epsilon=epsilon,
                delta=delta,
                apart=address is not None,
            )
        else:
            raise BadInput(
                "give either --example NAME or --dataset SCHEMA.yaml with --silo NAME=SOURCE",
                field="example",
                allowed=["breast-cancer", "digits"],
            )
        if address is not None:
            from infra.exchange import make_exchange

            make_exchange(home, host=address[0], port=address[1])
        federation = home.federation()
        next_ = enrolment.after_init(home) if address is not None else None
        document = {
            "home": str(home.root),
            "federation": federation.name,
            "datasets": sorted(federation.datasets),
            "silos": sorted(federation.silos),
            "accounts": {"epsilon": epsilon, "delta": delta} if federation.silos else None,
        }
        if next_ is not None:
            document["next"] = next_
        named = ", ".join(sorted(federation.silos))
        said = f"{home.root} holds a federation " + (
            f"of {len(federation.silos)} silos ({named}); each account allows epsilon "
            f"{epsilon:g} at delta {delta:g}."
            if named
            else "that no silo has joined yet; each opens accounts of its own when it does."
        )
        out.result(
            document,
            lambda screen: screen.print(said + (f"\n{next_}" if next_ else ""), soft_wrap=True),
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
    enrolment.register(group)
    group.command()(serve)
    app.add_typer(group, name="silo")


def _address(text: str) -> tuple[str, int]:
    from federation.errors import BadInput

    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9.-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise BadInput(
            f"--exchange {text}: say the host that silos reach, and a port",
            field="exchange",
            value=text,
            allowed="HOST:PORT",
        )
    return host, int(port)

"""`tacit silo ...`: silos of several organisations enrol, sign, renew, and are revoked.

Each command says what to carry where, and which command comes next.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.reporting import HomeOption, Json, find_home, grid, pairs, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from federation.home import Home
    from federation.membership import Membership
    from infra.cli.reporting import Output
    from infra.enrolment.at_coordinator import Outcome

NameArgument = Annotated[str, typer.Argument(help="The silo.", show_default=False)]
SizeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="DATASET=TRAIN/TEST[/SUBJECTS]: rows the silo declares publicly; repeat it.",
        show_default=False,
    ),
]
FingerprintOption = Annotated[
    str | None,
    typer.Option(help="What the other side's people read out to you.", show_default=False),
]


def enrol(
    name: NameArgument,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="DATASET=SOURCE: a file, a SQL URL, or none; repeat it.", show_default=False
        ),
    ] = None,
    size: SizeOption = None,
    federation: Annotated[
        Path | None,
        typer.Option(help="The federation.yaml that the coordinator gave out, for a new home."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Capacity of each account.")] = 10.0,
    delta: Annotated[float, typer.Option(help="Delta of each account.")] = 1e-5,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """At a silo's own host: make its keys, settings and ledger, and a request to be admitted."""
    with reporting(json) as out:
        from infra.enrolment import at_silo

        where = find_home(home)
        request = at_silo.enrol(
            where,
            name,
            federation,
            pairs(source or [], "source", "DATASET=SOURCE"),
            pairs(size or [], "size", "DATASET=TRAIN/TEST"),
            epsilon=epsilon,
            delta=delta,
        )
        _asked(out, where, name, request)


def admit(
    request: Annotated[Path, typer.Argument(help="NAME.request.json.", show_default=False)],
    fingerprint: FingerprintOption = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """At the coordinator: admit a silo whose fingerprint its people read out, or renew a member."""
    with reporting(json) as out:
        from infra.enrolment import at_coordinator, documents

        where = find_home(home)
        name, outcome = at_coordinator.admit(where, documents.read(request), fingerprint)
        _published(out, outcome, f"{name} is admitted.")


def gather(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Bundles at a silo, signatures at the coordinator."),
    ] = None,
    fingerprint: FingerprintOption = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Take in what the other side sent; at the coordinator without files, begin a new version."""
    with reporting(json) as out:
        from federation.errors import BadInput
        from infra.enrolment import at_coordinator, at_silo, documents

        where = find_home(home)
        found = [documents.read(path) for path in files or []]
        kinds = {documents.kind(document) for document in found}
        if kinds == {documents.BUNDLE}:
            membership = None
            for document in found:
                membership = at_silo.install(where, document, fingerprint)
            if membership is not None:
                _installed(out, where, membership)
        elif kinds <= {documents.SIGNATURE}:
            outcome = at_coordinator.gather(where, found)
            _published(out, outcome, f"{len(found)} signatures are taken in.")
        else:
            raise BadInput(
                "these are neither all bundles nor all signatures; a request goes to "
                "`tacit silo admit`",
                field="files",
                value=[str(path) for path in files or []],
                allowed=["NAME.bundle.json at a silo", "NAME.signature.json at the coordinator"],
            )


def countersign(
    name: NameArgument,
    fingerprint: FingerprintOption = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Show whose keys the membership has; with the fingerprint that all compared, sign it."""
    with reporting(json) as out:
        from infra.enrolment import at_silo

        where = find_home(home)
        membership, signature = at_silo.countersign(where, name, fingerprint)
        signed = name in membership.signatures
        document = _parties(membership) | {"silo": name, "signed": signed}
        if signature is not None:
            document["signature"] = str(signature)
            next_ = f"At the coordinator, with that file: tacit silo gather {signature.name}"
        elif signed:
            next_ = ""
        else:
            next_ = _compare(membership, name)
        said = f"{name} has {'' if signed else 'not '}signed membership {membership.version}."
        _show(out, document | {"next": next_}, said, membership=None if signed else membership)


def renew(
    name: Annotated[
        str, typer.Argument(help="The silo, or coordinator in its own home.", show_default=False)
    ],
    size: SizeOption = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Give the coordinator a new identity key too.")
    ] = False,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Renew a party's certificate, before it ends or after: a silo asks, the coordinator issues."""
    with reporting(json) as out:
        from federation.errors import BadInput
        from infra import exchange
        from infra.enrolment import at_coordinator, at_silo

        where = find_home(home)
        if name == "coordinator":
            outcome = at_coordinator.renew(where, new_key=new_key)
            _published(out, outcome, "The coordinator has new certificates.")
            return
        if new_key:
            raise BadInput(
                f"silo {name}: its identity key is its ledger's for life, because every entry is "
                "signed by it; docs/deployment.md says what to do where it was lost or stolen",
                field="new_key",
                value=name,
                allowed="coordinator",
            )
        if exchange.is_here(where) and name in where.federation().silos and not size:
            outcome = at_coordinator.renew_here(where, name)
            _published(out, outcome, f"{name} has a new certificate.")
            return
        request = at_silo.renew(where, name, pairs(size or [], "size", "DATASET=TRAIN/TEST"))
        _asked(out, where, name, request)


def revoke(name: NameArgument, home: HomeOption = None, json: Json = False) -> None:
    """At the coordinator: cut a silo off now, and begin a membership without it."""
    with reporting(json) as out:
        from infra.enrolment import at_coordinator

        where = find_home(home)
        outcome = at_coordinator.revoke(where, name)
        closed = " The exchange has closed its connections." if outcome.reloaded else ""
        _published(out, outcome, f"{name} is no member any more.{closed}")


def register(group: typer.Typer) -> None:
    """Add the commands of this module to `tacit silo`."""
    for command in (enrol, admit, gather, countersign, renew, revoke):
        group.command()(command)


def after_init(home: Home) -> str:
    """What comes after a federation with an exchange for others was made."""
    return (
        f"Give {home.federation_file} to every organisation. At each silo: tacit silo enrol NAME "
        "--federation federation.yaml --source DATASET=SOURCE --size DATASET=TRAIN/TEST --home DIR"
    )


def _asked(out: Output, home: Home, name: str, request: Path) -> None:
    from secure.keys import SigningKey, fingerprint

    own = SigningKey.load(home.silo_config(name).key)
    federation = home.federation()
    known = federation.silos.get(name)
    if known is not None and known.public_key == own.public:
        said = f"{name} asks to stay in {federation.name}."
        next_ = (
            "Carry the request to the coordinator, who knows a member by its key and needs no "
            f"fingerprint; there: tacit silo admit {request.name}"
        )
    else:
        said = f"{name} asks to join {federation.name}."
        next_ = (
            "Carry the request to the coordinator, read the fingerprint to its people, and let "
            f"them run: tacit silo admit {request.name} --fingerprint FINGERPRINT"
        )
    document = {
        "silo": name,
        "federation": federation.name,
        "coordinator": fingerprint(federation.coordinator),
        "fingerprint": own.fingerprint,
        "request": str(request),
        "next": next_,
    }
    _show(out, document, f"{said}\nrequest      {request}\nfingerprint  {own.fingerprint}")


def _installed(out: Output, home: Home, membership: Membership) -> None:
    """What a silo does after it has taken in a bundle."""
    here = [name for name in home.silo_names() if name in membership.terms.silos]
    waiting = [name for name in here if name not in membership.signatures]
    if waiting:
        next_ = _compare(membership, waiting[0])
    elif membership.unsigned:
        next_ = (
            f"{', '.join(membership.unsigned)} did not sign yet; a last bundle comes when all did."
        )
    else:
        next_ = f"All have signed. Start, or start again: tacit silo serve {here[0]}"
    document = _parties(membership) | {"next": next_}
    said = f"Membership {membership.version} of {membership.terms.federation} is here."
    _show(out, document, said, membership=membership if waiting else None)


def _published(out: Output, outcome: Outcome, said: str) -> None:
    """What the coordinator does after it has written bundles."""
    membership = outcome.membership
    bundles = {name: str(path) for name, path in outcome.bundles.items()}
    carry = "Carry each silo its bundle; there: tacit silo gather NAME.bundle.json"
    if membership.unsigned:
        missing = f"Not signed yet by {', '.join(membership.unsigned)}."
        next_ = f"{missing} {carry}" if bundles else f"{missing} tacit silo countersign NAME"
    else:
        next_ = f"All have signed. {carry}" if bundles else "All have signed."
    document = _parties(membership) | {
        "bundles": bundles,
        "reloaded": outcome.reloaded,
        "next": next_,
    }
    if not outcome.reloaded:
        said += (
            " No exchange runs on this host; one that runs elsewhere on this configuration takes "
            "it up when it is restarted or gets a HUP signal."
        )
    lines = [f"{said} Membership {membership.version} has the fingerprint", membership.fingerprint]
    _show(out, document, "\n".join([*lines, *bundles.values()]))


def _parties(membership: Membership) -> dict[str, Any]:
    """What every party compares."""
    from secure.keys import fingerprint

    terms = membership.terms
    keys = {"coordinator": terms.coordinator} | terms.silos
    return {
        "federation": terms.federation,
        "membership": membership.version,
        "fingerprint": membership.fingerprint,
        "parties": {name: fingerprint(key) for name, key in keys.items()},
        "unsigned": list(membership.unsigned),
    }


def _compare(membership: Membership, name: str) -> str:
    return (
        "Compare the membership's fingerprint with all parties, by telephone or face to face; "
        f"then, with what they read out: tacit silo countersign {name} --fingerprint FINGERPRINT"
    )


def _show(
    out: Output, document: dict[str, Any], said: str, *, membership: Membership | None = None
) -> None:
    def text(screen: Console) -> None:
        screen.print(said, soft_wrap=True, markup=False)
        if membership is not None:
            table = grid(None, "party", "fingerprint of its key", left=2)
            for name, mark in _parties(membership)["parties"].items():
                table.add_row(name, mark)
            screen.print(table)
            screen.print(f"fingerprint of the membership\n{membership.fingerprint}")
        if document["next"]:
            screen.print(document["next"], soft_wrap=True, markup=False)

    out.result(document, text)

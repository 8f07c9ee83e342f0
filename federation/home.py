"""The home of a federation: one directory with the public facts and each party's own state.

    federation.yaml                      public facts, agreed by all
    membership.json                      who agreed, and to what
    exchange.yaml  ca.pem                where the exchange is, where silos are apart
    coordinator/  key  mirror.db  jobs/  exchange/  exchange.nk  transport.pem
    silos/NAME/   silo.yaml  key  ledger.db  ledger.head  jobs/  releases/  models/  capacities/
                  exchange.nk  transport.pem

On one machine all parties live under one home; in production each silo has its own home with
`federation.yaml`, `membership.json` and its own directory only. `coordinator` is the one name that
no silo can have: it is the coordinator's own, as a party among them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from federation.documents import load_yaml
from federation.errors import BadInput, NotFound
from federation.settings import Federation, SiloConfig
from secure.errors import KeyFileError


@dataclass(frozen=True)
class SiloPaths:
    """Where one silo keeps its state."""

    directory: Path

    @property
    def config(self) -> Path:
        """The silo's private settings."""
        return self.directory / "silo.yaml"

    @property
    def key(self) -> Path:
        """The silo's signing key, where its settings do not say otherwise."""
        return self.directory / "key"

    @property
    def ledger(self) -> Path:
        """The ledger's SQLite file, where the settings do not say otherwise."""
        return self.directory / "ledger.db"

    @property
    def head(self) -> Path:
        """The ledger's head, kept outside the database."""
        return self.directory / "ledger.head"

    @property
    def jobs(self) -> Path:
        """The silo's state of each job."""
        return self.directory / "jobs"

    @property
    def capacities(self) -> Path:
        """Proposals to raise a capacity, which wait for a second person."""
        return self.directory / "capacities"

    @property
    def models(self) -> Path:
        """Models that the silo's owner lets others ask, and how often they did."""
        return self.directory / "models"

    @property
    def releases(self) -> Path:
        """What left the silo, stored before it was sent."""
        return self.directory / "releases"


@dataclass(frozen=True)
class Home:
    """A federation's directory."""

    root: Path

    @classmethod
    def find(cls, explicit: Path | None = None) -> Home:
        """Return the home to use; it need not exist yet.

        `explicit`, else TACIT_HOME, else the nearest `federation.yaml` from here upward, else
        `./.tacit`.
        """
        said = explicit or (
            Path(os.environ["TACIT_HOME"]) if os.environ.get("TACIT_HOME") else None
        )
        if said is not None:
            return cls(said.expanduser().absolute())
        here = Path.cwd()
        for directory in (here, *here.parents):
            if (directory / "federation.yaml").is_file():
                return cls(directory)
        return cls(here / ".tacit")

    @property
    def federation_file(self) -> Path:
        """The public facts."""
        return self.root / "federation.yaml"

    @property
    def membership_file(self) -> Path:
        """The countersigned membership."""
        return self.root / "membership.json"

    @property
    def exchange_file(self) -> Path:
        """Where the exchange is; the same for all parties."""
        return self.root / "exchange.yaml"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that vouches for the exchange's server."""
        return self.root / "ca.pem"

    def own(self, party: str) -> Path:
        """The directory of a party."""
        return self.coordinator if party == "coordinator" else self.silo(party).directory

    def seed(self, party: str) -> Path:
        """The seed of a party's user at the exchange."""
        return self.own(party) / "exchange.nk"

    def transport(self, party: str) -> Path:
        """A party's certificate for transport, with the key that belongs to it."""
        return self.own(party) / "transport.pem"

    def asked_key(self, party: str) -> Path:
        """The transport key for which a certificate was asked and has not come yet."""
        return self.own(party) / "transport.key"

    @property
    def exchange(self) -> Path:
        """The coordinator's directory of the exchange: authority, server, users, streams."""
        return self.coordinator / "exchange"

    @property
    def coordinator(self) -> Path:
        """The coordinator's directory."""
        return self.root / "coordinator"

    @property
    def coordinator_key(self) -> Path:
        """The coordinator's signing key."""
        return self.coordinator / "key"

    @property
    def mirror(self) -> Path:
        """The coordinator's mirror of receipts and heads."""
        return self.coordinator / "mirror.db"

    @property
    def jobs(self) -> Path:
        """The coordinator's state and reports of each job."""
        return self.coordinator / "jobs"

    def silo(self, name: str) -> SiloPaths:
        """Where the silo of this name keeps its state."""
        return SiloPaths(self.root / "silos" / name)

    def silo_names(self) -> tuple[str, ...]:
        """The silos that live under this home, in the order of their names."""
        return tuple(sorted(path.parent.name for path in self.root.glob("silos/*/silo.yaml")))

    def federation(self) -> Federation:
        """Load `federation.yaml`; `NotFound` where there is no federation yet."""
        if not self.federation_file.is_file():
            raise NotFound(
                f"{self.root} is no federation: it has no federation.yaml; "
                "make one with `tacit init DIR --example breast-cancer`, or name it with --home",
                field="home",
                value=str(self.root),
            )
        return load_yaml(self.federation_file, Federation)

    def silo_config(self, name: str) -> SiloConfig:
        """Load the settings of one silo, every path made absolute.

        Raises `KeyFileError` where others than the owner can read the file: like the key it may
        open what is the owner's alone.
        """
        path = self.silo(name).config
        if not path.is_file():
            raise NotFound(
                f"no silo {name!r} under {self.root}; "
                f"here: {', '.join(self.silo_names()) or 'none'}",
                field="silo",
                value=name,
                allowed=list(self.silo_names()),
            )
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise KeyFileError(
                f"{path}: mode {mode:04o} lets others read the silo's settings, which can hold "
                "passwords; run chmod 600",
                field="silo.yaml",
                value=f"{mode:04o}",
                allowed="0600",
            )
        config = load_yaml(path, SiloConfig)
        if config.name != name:
            raise BadInput(
                f"{path}: name: says {config.name!r}, but its directory is {name!r}",
                field="name",
                value=config.name,
                allowed=name,
            )
        try:
            return config.anchored(path.parent)
        except BadInput as error:
            raise BadInput(
                f"{path}: {error.message}",
                field=error.field,
                value=error.value,
                allowed=error.allowed,
            ) from None

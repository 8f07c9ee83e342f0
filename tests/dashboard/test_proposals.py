"""A larger capacity that one person proposed, as the page shows it until a second one agrees."""

from contextlib import closing

import pytest
import yaml

from dashboard import queries, strings, tables
from federation import plain_yaml
from federation.init import init_example
from federation.silo import Silo
from secure.keys import SigningKey

ACCOUNT = "breast-cancer/record"
HOSTILE = "**b** <img src=x onerror=alert(1)>"


@pytest.fixture
def proposed(tmp_path):
    """Two silos; ada proposed that the first allow more, and bob is enrolled there too."""
    home = init_example(tmp_path / "fed", "breast-cancer", silos=2)
    ada, bob = SigningKey.generate(), SigningKey.generate()
    path = home.silo("silo-1").config
    said = yaml.safe_load(path.read_text())
    said["policy"]["approvers"] = {"ada": ada.public, "bob": bob.public}
    path.write_text(yaml.dump(said, Dumper=plain_yaml.Dumper))
    seen = queries.marks(home)
    with closing(Silo(home, "silo-1")) as silo:
        silo.capacities.set(ACCOUNT, 12.0, HOSTILE, ada)
    assert queries.marks(home) != seen
    return home, bob


def test_it_is_shown_with_who_why_and_over_what_until_somebody_agrees(proposed, show):
    home, bob = proposed
    (word,) = queries.overview(home).proposals
    (row,) = tables.proposals([word])
    assert row | {"until (UTC)": ""} == {
        "silo": "silo-1",
        "account": ACCOUNT,
        "allows ε": 10.0,
        "to allow ε": 12.0,
        "reason": HOSTILE,
        "proposed by": "ada",
        "until (UTC)": "",
        "signed over": word.proposal.about,
    }
    page = show(home.root)
    assert strings.PROPOSALS in [part.value for part in page.subheader]
    assert strings.PROPOSALS_COMMAND in [part.value for part in page.code]
    assert not any(HOSTILE in part.value for part in [*page.markdown, *page.caption])

    with closing(Silo(home, "silo-1")) as silo:
        silo.capacities.agree(ACCOUNT, bob)
    assert queries.overview(home).proposals == ()
    assert strings.PROPOSALS not in [part.value for part in show(home.root).subheader]


def test_no_key_is_read_and_a_silo_that_cannot_be_read_shows_none(proposed):
    home, _ = proposed
    home.silo("silo-1").key.unlink()
    assert len(queries.overview(home).proposals) == 1
    home.silo("silo-1").config.chmod(0o644)
    assert queries.overview(home).proposals == ()

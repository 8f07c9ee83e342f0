"""What a person reads in the quote of a job whose noise is in the sum alone."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from federation import lifecycle
from federation.documents import parse
from federation.embedded import Embedded
from federation.init import init_example
from federation.training.specs import Spec
from infra.cli.job import show_quote

JOB = {
    "kind": "train",
    "name": "shares",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "batch_size": 32, "learning_rate": 0.3, "weighting": "uniform"},
    "privacy": {"noise_multiplier": 2.0},
    "aggregation": {"name": "masked", "noise": "distributed"},
    "quorum": 3,
}


def test_it_says_what_the_price_rests_on_and_what_one_share_alone_leaves(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=4)
    with Embedded(home) as parties:
        document = lifecycle.quote(parse(JOB, Spec, "job"), parties)
    written = io.StringIO()
    show_quote(document, Console(file=written, width=200))
    text = " ".join(written.getvalue().split())
    alone = max(line["plan"]["shares"]["own_epsilon"] for line in document["silos"].values())
    assert "sums of 3 silos or more, 1 of which may tell what they added" in text
    assert f"its own share alone would leave epsilon {alone:.3f}" in text
    assert alone > max(line["epsilon"] for line in document["silos"].values())

"""The job of `rounds.py` on NVIDIA FLARE's simulator; prints one JSON line at the end.

The FedAvg recipe as its documentation gives it: a process per site, `flare_site.py` inside it for
all rounds, models exchanged as tensors.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import _heart
import nvflare
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import ExchangeFormat
from nvflare.recipe import SimEnv

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="flare-") as place:
        os.environ["BENCH_MARKS"] = str(Path(place) / "marks.json")
        recipe = FedAvgRecipe(
            name="heart",
            model=_heart.Logistic(),
            min_clients=len(_heart.SILOS),
            num_rounds=_heart.JOB["rounds"],
            train_script=str(Path(__file__).with_name("flare_site.py")),
            server_expected_format=ExchangeFormat.PYTORCH,
        )
        recipe.run(SimEnv(clients=_heart.SILOS, workspace_root=place))
        marks = json.loads(Path(os.environ["BENCH_MARKS"]).read_text())
    begun, *marks = marks
    answer = {
        "rounds": marks[-1] - begun,
        "alone": _heart.rounds_alone(marks),
        "version": nvflare.__version__,
    }
    print(json.dumps(answer), flush=True)

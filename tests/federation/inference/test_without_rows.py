"""Silos without rows: who has a model, and who is a node, need no data of the federation's."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load
from tests_jobs_here import SPEC, allow, drive, run
from tests_jobs_here import spec as train_spec

from federation import lifecycle
from federation.books import open_ledger, verification
from federation.check import check_silo, check_text
from federation.documents import parse
from federation.embedded import Embedded
from federation.errors import BadInput, NotFound
from federation.home import Home
from federation.inference.kept import keep
from federation.inference.specs import Spec
from federation.init import init_dataset
from federation.models import build_model
from federation.record import Job
from federation.sources.rows import load_part
from flows.checking import check

DATASET = SPEC["dataset"]


@pytest.fixture(scope="module")
def _made(_founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clinics with rows, and a vendor and a cloud without, after a train job."""
    directory = tmp_path_factory.mktemp("without") / "fed"
    schema = yaml.safe_load((_founded / "federation.yaml").read_text())["datasets"][DATASET]
    path = directory.with_name("schema.yaml")
    path.write_text(yaml.safe_dump({"name": DATASET} | schema, sort_keys=False))
    rows = {f"clinic-{n}": str(next(_founded.glob(f"silos/silo-{n}/rows.*"))) for n in (1, 2)}
    sizes = {"clinic-1": "200/80", "clinic-2": "100/40"}
    home = init_dataset(directory, path, rows | {"vendor": "none", "cloud": "none"}, sizes)
    assert home.silo_config("cloud").policy.kinds == ("infer",)
    allow(home, kinds=["train", "infer"], unencrypted_inference=True)
    result = run(home, model={"name": "mlp", "hidden": [6], "activation": "quadratic"})
    assert result["status"] == "completed"
    assert sorted(result["silos"]) == ["clinic-1", "clinic-2"]
    model = next(home.jobs.glob("small-*/model/model.safetensors"))
    keep(home, "vendor", "ward", model)
    return directory


@pytest.fixture
def home(_made: Path, tmp_path: Path) -> Home:
    shutil.copytree(_made, tmp_path / "fed")
    return Home(tmp_path / "fed")


def spec(**changes: Any) -> Spec:
    said: dict[str, Any] = {
        "kind": "infer",
        "name": "ask",
        "dataset": DATASET,
        "mode": "ckks",
        "roles": {"data": "clinic-1", "model": "vendor"},
        "model": {"own": "ward"},
        "rows": 12,
        "batch_size": 6,
    }
    return parse(said | changes, Spec, "job")


@pytest.mark.parametrize("mode", ["plain", "ckks", "equivariant"])
def test_a_vendor_and_a_cloud_without_rows_predict_a_clinics(home: Home, mode: str) -> None:
    roles = {"data": "clinic-1", "model": "vendor"}
    if mode == "equivariant":
        run(home, name="tanh", model={"name": "mlp", "hidden": [6]})
        keep(home, "vendor", "turned", next(home.jobs.glob("tanh-*/model/model.safetensors")))
        roles["node"] = "cloud"
    own = "turned" if mode == "equivariant" else "ward"
    asked = spec(mode=mode, roles=roles, model={"own": own})
    check(home, asked)
    result = drive(home, Job.create(home, asked))
    assert result["status"] == "completed", result["error"]

    description = json.loads((home.silo("vendor").models / f"{own}.json").read_text())
    model = build_model(description["model"], (30,), 2, seed=0).double()
    model.load_state_dict(load((home.silo("vendor").models / f"{own}.safetensors").read_bytes()))
    part = load_part(home.silo_config("clinic-1"), home.federation().dataset(DATASET), "test")
    with torch.no_grad():
        rows = torch.from_numpy(part.features[:12]).double()
        expected = torch.softmax(model(rows), dim=1).numpy()
    where = home.silo("clinic-1").jobs / result["job_id"] / "predictions.csv"
    with where.open(newline="") as file:
        got = [
            [float(v) for k, v in row.items() if k.startswith("p_")] for row in csv.DictReader(file)
        ]
    np.testing.assert_allclose(got, expected, atol=1e-4)

    # What left is in each one's own log, and nothing was charged.
    for silo in set(roles.values()):
        assert result["silos"][silo]["epsilon"] == 0
        assert verification(home, silo)["ok"]
        ledger = open_ledger(home, silo)
        lines = [json.loads(e.body) for e in ledger.entries() if e.kind == "egress"]
        ledger.close()
        assert any(line["job"] == result["job_id"] for line in lines)


def test_a_train_job_leaves_them_out_and_never_reads_what_is_not_there(home: Home) -> None:
    with Embedded(home) as parties:
        assert sorted(lifecycle.quote(train_spec(), parties)["silos"]) == ["clinic-1", "clinic-2"]
    assert "This silo has no rows." in check_text(check_silo(home, "cloud"))
    with pytest.raises(BadInput, match="kind none, which has no rows"):
        load_part(home.silo_config("cloud"), home.federation().dataset(DATASET), "train")


def test_their_rows_cannot_be_asked_for(home: Home) -> None:
    asked = spec(roles={"data": "cloud", "model": "vendor"})
    with pytest.raises(BadInput, match="silo cloud declares no rows") as caught:
        check(home, asked)
    assert caught.value.field == "silo" and caught.value.exit_code == 2
    assert "the job reads rows of it (role data)" in caught.value.message
    with pytest.raises(BadInput, match="these have some: clinic-2") as caught:
        check(home, spec(roles={"data": "cloud", "model": "clinic-2"}))
    assert caught.value.allowed == ["clinic-2"]
    with pytest.raises(BadInput, match="silo cloud declares no rows"):
        drive(home, Job.create(home, asked))
    assert not any(list(home.silo(silo).jobs.glob("ask-*")) for silo in home.silo_names())


def test_a_source_that_was_emptied_later_is_told_before_a_job(home: Home) -> None:
    """The owner replaced the source and not the declared sizes."""
    path = home.silo("clinic-2").config
    said = yaml.safe_load(path.read_text())
    said["sources"][DATASET] = {"datasets": [DATASET], "kind": "none"}
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(BadInput, match="kind none, which has no rows"):
        check(home, train_spec())


def test_who_declares_nothing_of_a_data_set_takes_no_part(home: Home) -> None:
    with pytest.raises(NotFound, match="'nobody' does not take part"):
        check(home, spec(roles={"data": "clinic-1", "model": "nobody"}))

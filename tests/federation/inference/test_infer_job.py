"""Infer jobs between silos of one process: right answers, where they are, who sees what."""

from __future__ import annotations

import csv
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from tests_jobs_here import allow, drive, kill, run

from federation import lifecycle
from federation.books import open_ledger, verification
from federation.documents import parse
from federation.embedded import Embedded
from federation.errors import BadInput, NotFound, PolicyRefused
from federation.home import Home
from federation.inference import served
from federation.inference.kept import keep
from federation.inference.specs import Spec
from federation.models import build_model
from federation.predict import predict_file
from federation.record import Job
from federation.sources.rows import Part, load_part
from flows.checking import check
from secure.errors import BadParameters
from secure.exchange.memory import MemoryEndpoint

DATA, MODEL = "silo-1", "silo-2"
INFER: dict[str, Any] = {
    "kind": "infer",
    "name": "ask",
    "dataset": "breast-cancer",
    "mode": "ckks",
    "roles": {"data": DATA, "model": MODEL},
    "model": {"job": "small"},
    "rows": 20,
    "batch_size": 8,
}
MLP = {"name": "mlp", "hidden": [6]}
QUICK = {"strategy": {"rounds": 1, "batch_size": 32, "learning_rate": 0.1}}


@pytest.fixture(scope="module")
def _trained(_founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small federation after a train job, whose owners let anything of this kind run."""
    directory = tmp_path_factory.mktemp("trained") / "fed"
    shutil.copytree(_founded, directory)
    assert run(Home(directory))["status"] == "completed"
    allow(Home(directory), unencrypted_inference=True)
    return directory


@pytest.fixture
def home(_trained: Path, tmp_path: Path) -> Iterator[Home]:
    shutil.copytree(_trained, tmp_path / "fed")
    yield Home(tmp_path / "fed")


def spec(**changes: Any) -> Spec:
    return parse(INFER | changes, Spec, "job")


def infer(home: Home, **changes: Any) -> dict[str, Any]:
    return drive(home, Job.create(home, spec(**changes)))


def place(home: Home, job: str, silo: str = DATA) -> Path:
    return home.silo(silo).jobs / job


def predicted(home: Home, result: dict[str, Any]) -> list[dict[str, str]]:
    with (place(home, result["job_id"]) / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def asked(home: Home, part: str = "test") -> Part:
    dataset = home.federation().dataset("breast-cancer")
    return load_part(home.silo_config(DATA), dataset, part)


def features(home: Home) -> np.ndarray:
    return asked(home).features


def expected(home: Home, job: str = "small") -> np.ndarray:
    """The probabilities of the published model for the data silo's test rows, by torch alone."""
    path = next(home.jobs.glob(f"{job}-*/model/model.safetensors"))
    said = json.loads(path.with_suffix(".json").read_text())
    model = build_model(said["model"], (30,), 2, seed=0)
    model.load_state_dict(load(path.read_bytes()))
    with torch.no_grad():
        rows = torch.from_numpy(features(home)).double()
        return torch.softmax(model.double()(rows), dim=1).numpy()


def egress(home: Home, silo: str, job: str) -> list[dict[str, Any]]:
    ledger = open_ledger(home, silo)
    lines = [json.loads(e.body) for e in ledger.entries() if e.kind == "egress"]
    ledger.close()
    return [line for line in lines if line["job"] == job]


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "plain"},
        {"mode": "ckks"},
        {"mode": "ckks", "packing": "throughput", "batch_size": 20},
    ],
    ids=["plain", "latency", "throughput"],
)
def test_the_predictions_are_the_models_own(home: Home, changes: dict[str, Any]) -> None:
    result = infer(home, **changes)
    assert result["status"] == "completed" and result["kind"] == "infer"
    lines, wanted = predicted(home, result), expected(home)[:20]
    assert [int(line["row"]) for line in lines] == asked(home).numbers[:20].tolist()
    got = np.array([[float(line["p_benign"]), float(line["p_malignant"])] for line in lines])
    tolerance = 1e-6 if changes["mode"] == "plain" else 1e-4
    np.testing.assert_allclose(got, wanted, atol=tolerance)
    names = np.array(["benign", "malignant"])
    assert [line["predicted"] for line in lines] == names[wanted.argmax(axis=1)].tolist()
    if changes["mode"] == "ckks":
        assert [line["certified"] for line in lines] == ["yes"] * 20
        assert all(0 < float(line["error"]) < 0.01 for line in lines)
        assert result["details"]["error"] < 0.01
    assert (
        result["details"]["batches"] == result["rounds"] == -(-20 // changes.get("batch_size", 8))
    )


def test_rows_without_a_label_are_predicted_by_their_number_in_the_source(home: Home) -> None:
    source = home.silo_config(DATA).sources["breast-cancer"]
    lines = source.path.read_text().splitlines()
    label = lines[0].split(",").index("diagnosis")
    blank = [3, 50, 51]
    for row in blank:
        cells = lines[row + 1].split(",")
        lines[row + 1] = ",".join([*cells[:label], "", *cells[label + 1 :]])
    source.path.write_text("\n".join(lines) + "\n")
    result = infer(home, mode="plain", part="unlabelled", rows=5, batch_size=2)
    found = predicted(home, result)
    assert [int(line["row"]) for line in found] == blank
    # As `tacit model predict`, which needs no label, says of the same rows here.
    model = next(home.jobs.glob("small-*/model/model.safetensors"))
    predict_file(model, source.path, home.root / "here.csv")
    with (home.root / "here.csv").open(newline="") as file:
        here = {int(line["row"]): line for line in csv.DictReader(file)}
    assert [line["predicted"] for line in found] == [here[row]["predicted"] for row in blank]
    for part in ("train", "test"):
        assert not set(blank) & set(asked(home, part).numbers.tolist())


def test_nothing_is_charged_and_all_that_left_is_logged(home: Home) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(), parties)
    assert quoted["admissible"] and sorted(quoted["silos"]) == [DATA, MODEL]
    assert all(line["epsilon"] == line["charge"] == 0 for line in quoted["silos"].values())
    used = {silo: line["accounts"] for silo, line in quoted["silos"].items()}
    result = infer(home)
    for silo, name in ((DATA, "rows"), (MODEL, "answers")):
        assert result["silos"][silo]["epsilon"] == 0
        assert result["silos"][silo]["unprotected"] == 0
        assert result["silos"][silo]["used"] == max(a["used_after"] for a in used[silo].values())
        lines = egress(home, silo, result["job_id"])
        assert [(line["name"], line["protection"]) for line in lines] == [(name, "encrypted")] * 3
    assert egress(home, "silo-3", result["job_id"]) == []
    assert verification(home, None)["ok"]


def test_plain_inference_marks_both_accounts(home: Home) -> None:
    result = infer(home, mode="plain")
    for silo in (DATA, MODEL):
        assert result["silos"][silo]["unprotected"] == 3
    report = Path(result["report"]).read_text()
    assert "saw the rows and the answers as they are" in report
    assert "excludes 6 unprotected releases" in report


def test_predictions_are_the_owners_file_and_say_what_had_no_place(home: Home) -> None:
    rows = len(features(home))
    for places in (rows - 3, rows + 9):
        result = infer(home, mode="plain", rows=places, batch_size=7)
        directory = place(home, result["job_id"])
        assert len(predicted(home, result)) == min(rows, places)
        summary = json.loads((directory / "predictions.json").read_text())
        assert summary["rows"] == min(rows, places)
        assert summary["left_out"] == max(0, rows - places)
        for name in ("predictions.csv", "predictions.json"):
            assert (directory / name).stat().st_mode & 0o777 == 0o600
        # Places are public, rows are not: what the coordinator has is the same either way.
        assert result["details"]["places"] == places
        assert len(egress(home, DATA, result["job_id"])) == -(-places // 7)
        report = Path(result["report"]).read_text()
        assert "predictions.csv" in report and "left_out" not in report


# What the others see


class Wire:
    """Every message between the parties of a job."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, str, str, bytes]] = []
        send = MemoryEndpoint.send

        def listening(end: MemoryEndpoint, receiver: str, **said: Any) -> None:
            self.sent.append((end.party, receiver, said["name"], said["body"]))
            send(end, receiver, **said)

        monkeypatch.setattr(MemoryEndpoint, "send", listening)


def traces(home: Home) -> list[bytes]:
    """Every test row of the data silo in the shapes in which it could lie in a file or message."""
    found = []
    for row in features(home):
        four = [float(value) for value in row[:4]]
        found += [struct.pack("<4d", *four), struct.pack("<4f", *four)]
    with (home.silo(DATA).directory / "rows.csv").open() as file:
        next(file)
        found += [",".join(line.split(",")[:4]).encode() for line in file]
    return found


def holding(home: Home, wanted: list[bytes]) -> set[str]:
    """The files outside the data silo's directory that hold one of these."""
    own = home.silo(DATA).directory
    files = [p for p in home.root.rglob("*") if p.is_file() and own not in p.parents]
    assert len(files) > 20
    return {
        str(path.relative_to(home.root))
        for path in files
        if any(trace in body for body in [path.read_bytes()] for trace in wanted)
    }


def test_no_row_and_no_prediction_is_found_outside_the_data_silo(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)
    result = infer(home)
    assert result["status"] == "completed"
    lines = (place(home, result["job_id"]) / "predictions.csv").read_bytes().splitlines()[1:]
    scores = [b",".join(line.split(b",")[2:4]) for line in lines]
    wanted = traces(home) + scores
    assert holding(home, wanted) == set()
    assert not any(trace in body for *_, body in wire.sent for trace in wanted)
    # The same search finds what plain inference shows, and to whom.
    wire.sent.clear()
    infer(home, mode="plain")
    shown = {said[:3] for said in wire.sent if any(trace in said[3] for trace in traces(home))}
    assert shown == {(DATA, MODEL, "rows")}


def test_the_coordinator_hears_nothing_of_a_batch(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)
    infer(home)
    told = {body for sender, to, _, body in wire.sent if (sender, to) == (DATA, "coordinator")}
    assert told == {b""}
    told = {
        b for s, to, name, b in wire.sent if (s, to) == (MODEL, "coordinator") and name != "offer"
    }
    assert told == {b""}


def test_rows_and_filled_places_look_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = len(features(home))
    wire = Wire(monkeypatch)
    infer(home, rows=rows + 16, batch_size=rows + 8)  # the second batch holds no row at all
    sizes = [len(b) for s, to, name, b in wire.sent if (s, to, name) == (DATA, MODEL, "rows")]
    assert len(sizes) == 2
    assert sizes[0] / (rows + 8) == pytest.approx(sizes[1] / 8, rel=0.01)


# Refusals


def refused(home: Home, **changes: Any) -> dict[str, Any]:
    """The error of a job that ends on it."""
    result = infer(home, **changes)
    assert result["status"] == "failed" and result["error"] is not None
    assert all(line["epsilon"] == 0 for line in result["silos"].values())
    error: dict[str, Any] = result["error"]
    return error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": {"data": DATA, "model": DATA}}, "tacit model predict"),
        ({"roles": {"data": DATA}}, "model"),
        ({"model": {}}, "exactly one of job"),
        ({"model": {"job": "small", "own": "m"}}, "exactly one of job"),
        ({"model": {"own": "../m"}}, "own"),
        ({"mode": "plain", "packing": "latency"}, "packing belongs to mode ckks"),
        ({"rows": 1_000_000, "batch_size": 1}, "batch_size: 8"),
        ({"mode": "fhe"}, "mode"),
        ({"rows": 0}, "rows"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        spec(**changes)


def test_an_unknown_silo_is_refused_by_name(home: Home) -> None:
    asked = spec(roles={"data": DATA, "model": "silo-9"})
    with pytest.raises(
        NotFound, match="'silo-9' does not take part in jobs on 'breast-cancer'"
    ) as caught:
        check(home, asked)
    assert caught.value.allowed == ["silo-1", "silo-2", "silo-3"]
    with pytest.raises(NotFound), Embedded(home) as parties:
        lifecycle.quote(asked, parties)


def test_a_train_job_that_is_not_there_is_refused_before_anything(home: Home) -> None:
    with pytest.raises(NotFound, match="no finished train job 'large'") as caught:
        check(home, spec(model={"job": "large"}))
    assert caught.value.exit_code == 2
    error = refused(home, model={"job": "large"})
    assert error["code"] == "FED-002"


def test_an_own_model_that_is_not_there_is_refused_by_its_silo(home: Home) -> None:
    error = refused(home, model={"own": "ward"})
    assert error["code"] == "FED-002" and MODEL in error["message"]
    assert "own model 'ward'" in (place(home, _last(home), MODEL) / "fault.log").read_text()


def test_an_owner_keeps_a_model_and_jobs_ask_it(home: Home) -> None:
    trained = next(home.jobs.glob("*/model/model.safetensors"))
    kept = keep(home, MODEL, "ward", trained)
    assert kept["datasets"] == ["breast-cancer"]
    for suffix in (".safetensors", ".json"):
        path = home.silo(MODEL).models / f"ward{suffix}"
        assert path.read_bytes() == trained.with_suffix(suffix).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    own = infer(home, model={"own": "ward"}, rows=4)
    published = infer(home, rows=4)
    lines = [(place(home, r["job_id"]) / "predictions.csv").read_text() for r in (own, published)]
    assert own["status"] == "completed" and _classes(lines[0]) == _classes(lines[1])
    with pytest.raises(BadInput, match="keeps a model 'ward' already"):
        keep(home, MODEL, "ward", trained)
    with pytest.raises(BadInput, match="own"):
        keep(home, MODEL, "../ward", trained)
    with pytest.raises(NotFound, match="are not both there"):
        keep(home, MODEL, "other", trained.with_name("none.safetensors"))


def _classes(predictions: str) -> list[str]:
    return [line.split(",")[1] for line in predictions.splitlines()]


def _last(home: Home) -> str:
    return max(home.jobs.glob("ask-*"), key=lambda path: path.stat().st_mtime).name


def test_a_layer_without_an_encrypted_form_is_refused_by_name(home: Home) -> None:
    run(home, name="tanh", model=MLP, **QUICK)
    with pytest.raises(BadParameters, match=r"model\.2: Tanh .* no bound and degree") as caught:
        check(home, spec(model={"job": "tanh"}))
    assert caught.value.exit_code == 2
    assert refused(home, model={"job": "tanh"})["code"] == "SECURE-006"
    # With a range and degree it is computed, as a polynomial.
    result = infer(home, model={"job": "tanh"}, rows=2, approximation={"bound": 16.0, "degree": 7})
    assert result["status"] == "completed" and result["details"]["approximation"] > 0


@pytest.mark.parametrize("activation", ["square", "quadratic"])
def test_a_model_trained_for_it_goes_straight_in(home: Home, activation: str) -> None:
    run(home, name="even", model=MLP | {"activation": activation}, **QUICK)
    result = infer(home, model={"job": "even"}, rows=4)
    assert result["status"] == "completed" and result["details"]["approximation"] == 0
    got = [[float(x["p_benign"]), float(x["p_malignant"])] for x in predicted(home, result)]
    np.testing.assert_allclose(got, expected(home, "even")[:4], atol=1e-3)


def test_what_a_policy_does_not_allow_is_refused_before_anything_is_made(home: Home) -> None:
    allow(home, unencrypted_inference=False)
    job = Job.create(home, spec(mode="plain"))
    with pytest.raises(PolicyRefused, match="does not allow inference without encryption"):
        drive(home, job)
    assert job.status == "refused"
    allow(home, protections=["dp"])
    with pytest.raises(PolicyRefused, match="nothing leave under protection 'encrypted'"):
        drive(home, Job.create(home, spec()))
    allow(home, kinds=["train"])
    with pytest.raises(PolicyRefused, match="not 'infer'"):
        drive(home, Job.create(home, spec()))
    assert not list(home.silo(DATA).jobs.glob("ask-*/sessions"))


def own_model(home: Home, job: str = "small", **changes: Any) -> None:
    """The model silo's owner keeps a copy of a published model, with a changed description."""
    path = next(home.jobs.glob(f"{job}-*/model/model.safetensors"))
    said = json.loads(path.with_suffix(".json").read_text()) | changes
    models = home.silo(MODEL).models
    models.mkdir(exist_ok=True)
    shutil.copy(path, models / "ward.safetensors")
    (models / "ward.json").write_text(json.dumps(said))


def test_a_silos_own_model_is_asked_and_never_leaves_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_model(home)
    wire = Wire(monkeypatch)
    result = infer(home, model={"own": "ward"})
    assert result["status"] == "completed" and len(predicted(home, result)) == 20
    weights = load((home.silo(MODEL).models / "ward.safetensors").read_bytes())
    pieces = [value.numpy().tobytes()[:16] for value in weights.values() if value.numel() > 3]
    pieces += [value.double().numpy().tobytes()[:32] for value in weights.values()]
    assert not any(piece in body for *_, body in wire.sent for piece in pieces)


def test_a_model_of_another_schema_or_damaged_is_refused(home: Home) -> None:
    schema = home.federation().dataset("breast-cancer").model_dump(mode="json")
    schema["features"].popitem()
    own_model(home, dataset=schema)
    assert refused(home, model={"own": "ward"})["code"] == "FED-001"
    fault = place(home, _last(home), MODEL) / "fault.log"
    assert "rows of shape [29] and 2 classes, here [30] and 2" in fault.read_text()
    own_model(home, model={"name": "mlp", "hidden": [3]})
    assert refused(home, model={"own": "ward"})["code"] == "FED-001"
    own_model(home)
    nan = {name: value * float("nan") for name, value in _own_weights(home).items()}
    save_file(nan, home.silo(MODEL).models / "ward.safetensors")
    assert refused(home, model={"own": "ward"})["code"] == "FED-001"
    (home.silo(MODEL).models / "ward.safetensors").write_bytes(b"no weights")
    assert refused(home, model={"own": "ward"})["code"] == "FED-001"


def _own_weights(home: Home) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load(
        (home.silo(MODEL).models / "ward.safetensors").read_bytes()
    )
    return weights


def test_a_silo_is_answered_up_to_its_quota_over_all_jobs(home: Home) -> None:
    allow(home, queries=50)
    assert [infer(home, mode=mode)["status"] for mode in ("ckks", "plain")] == ["completed"] * 2
    error = refused(home)
    assert error["code"] == "FED-003"
    assert f"predict 10 more rows of {DATA}; the job asks for 20" in error["message"]
    counted = json.loads((home.silo(MODEL).models / ".queries.json").read_text())
    assert sum(counted[DATA].values()) == 40
    # A slot of a ciphertext can hold a row that nobody sees: all of them count.
    allow(home, queries=3000)
    assert refused(home, packing="throughput")["code"] == "FED-003"
    # Another silo has a quota of its own.
    roles = {"data": "silo-3", "model": MODEL}
    assert infer(home, mode="plain", roles=roles)["status"] == "completed"


# Hostile bytes


def test_a_plan_for_another_box_is_refused_before_a_row_leaves(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = served.input_box
    monkeypatch.setattr(served, "input_box", lambda schema: tuple(0.9 * x for x in box(schema)))
    error = refused(home)
    assert error["code"] == "FED-006" and f"{DATA} stopped with SECURE-002" in error["message"]
    assert egress(home, DATA, _last(home)) == []


@pytest.mark.parametrize(
    ("sender", "name", "stops"),
    [(DATA, "rows", MODEL), (DATA, "keys", MODEL), (MODEL, "plan", DATA), (MODEL, "rows", DATA)],
)
def test_a_damaged_message_ends_the_job_and_nothing_is_opened(
    home: Home, monkeypatch: pytest.MonkeyPatch, sender: str, name: str, stops: str
) -> None:
    send = MemoryEndpoint.send

    def damaged(end: MemoryEndpoint, receiver: str, *, round: int, name: str, body: bytes) -> None:
        hit = (end.party, name) == (sender, wanted)
        body = body[: len(body) // 2] if hit else body
        send(end, receiver, round=round, name=name, body=body)

    wanted = name
    monkeypatch.setattr(MemoryEndpoint, "send", damaged)
    assert f"{stops} stopped with SECURE-002" in refused(home)["message"]
    lines = (place(home, _last(home)) / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1  # the header


# Sealed

SEALED: dict[str, Any] = {
    "mode": "equivariant",
    "roles": {"data": DATA, "model": MODEL, "node": "silo-3"},
    "model": {"own": "ward"},
}


def test_a_sealed_model_gives_the_plain_answers_and_says_what_it_is_worth(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home, name="tanh", model=MLP, **QUICK)
    own_model(home, "tanh")
    wire = Wire(monkeypatch)
    result = infer(home, **SEALED)
    assert result["status"] == "completed"
    got = [[float(x["p_benign"]), float(x["p_malignant"])] for x in predicted(home, result)]
    np.testing.assert_allclose(got, expected(home, "tanh")[:20], atol=1e-6)
    assert result["details"]["protection"] == "obfuscation, not encryption"
    report = Path(result["report"]).read_text()
    assert report.lower().count("obfuscation, not encryption") == 2
    assert "silo-2 together with silo-3" in report and "anybody who sees the sealed" in report
    # With the base model all is known, and the report says so.
    known = {k: v for k, v in result["details"].items() if k.startswith("weight matching, public")}
    assert list(known.values()) == [1.0] and "| weight matching | public base |" in report
    # The node was sent neither rows nor weights as they are.
    weights = load(next(home.jobs.glob("tanh-*/model/model.safetensors")).read_bytes())
    pieces = traces(home) + [v.double().numpy().tobytes()[:32] for v in weights.values()]
    pieces += [value.numpy().tobytes()[:16] for value in weights.values()]
    to_node = [body for _, to, _, body in wire.sent if to == "silo-3"]
    assert not any(piece in body for body in to_node for piece in pieces)
    for silo, names in ((DATA, ["rows"] * 3), (MODEL, ["sealed"]), ("silo-3", ["answers"] * 3)):
        lines = egress(home, silo, result["job_id"])
        assert [line["name"] for line in lines] == names
        assert {line["protection"] for line in lines} == {"unprotected"}
        assert not list(place(home, result["job_id"], silo).glob("sealed*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": {"data": DATA, "model": MODEL, "node": MODEL}}, "both together undo"),
        ({"roles": {"data": DATA, "model": MODEL, "node": DATA}}, "both together undo"),
        ({"roles": {"data": DATA, "model": MODEL}}, "roles.node belongs to mode equivariant"),
        ({"mode": "ckks"}, "roles.node belongs to mode equivariant"),
        # Who trained a model has it: the node would, too.
        ({"model": {"job": "small"}}, "hides nothing from a node that has the base model"),
    ],
)
def test_a_node_is_a_third_party(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        spec(**SEALED | changes)


# Crashes


@pytest.mark.parametrize(
    ("mode", "point", "times"),
    [
        ("ckks", "federation.inference.predictions:Predictions.add:before", 2),
        ("plain", "federation.inference.predictions:Predictions.add:after", 2),
        ("equivariant", "federation.inference.party:Party.answers:before", 2),
    ],
)
def test_a_killed_job_goes_on_and_every_row_is_predicted_once(
    home: Home, mode: str, point: str, times: int
) -> None:
    own_model(home)
    job = Job.create(home, spec(**SEALED) if mode == "equivariant" else spec(mode=mode))
    kill(home, job, point, times)
    assert not (place(home, job.id) / "predictions.json").exists()
    result = drive(home, Job(home, job.id))
    assert result["status"] == "completed"
    lines = predicted(home, result)
    assert [int(line["row"]) for line in lines] == asked(home).numbers[:20].tolist()
    got = np.array([[float(line["p_benign"]), float(line["p_malignant"])] for line in lines])
    np.testing.assert_allclose(got, expected(home)[:20], atol=1e-4)
    rounds = sorted(line["round"] for line in egress(home, DATA, job.id))
    # A key dies with its process: what was under way is encrypted again, under another one.
    assert rounds == ([0, 1, 4, 5] if mode == "ckks" else [0, 1, 2])
    left = {path.name for path in place(home, job.id, MODEL).iterdir()}
    assert not left & {"offered", "evaluation.keys"}

"""The parts of an infer job: the box of a schema, the predictions' file, quotas, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import save as save_weights
from tests_tabular import BY_COLUMN, FEATURES, dataset, write_csv

from federation.documents import parse
from federation.errors import NotFound, PolicyRefused
from federation.inference.predictions import Answers, Predictions
from federation.inference.quota import take
from federation.inference.served import (
    EncryptedServed,
    Files,
    array_of,
    input_box,
    published,
    read_model,
    unpacked,
)
from federation.inference.specs import SESSIONS, Spec
from federation.models import build_model
from federation.release import LAST_ROUND
from federation.schema import Dataset
from federation.sources.rows import load_part
from federation.training.specs import ModelSpec
from secure.ckks.client import Client
from secure.errors import BadMessage

CELLS = st.one_of(
    st.none(), st.floats(), st.integers(-(10**9), 10**9), st.sampled_from(["1", "f", "zz", "a", ""])
)


@given(st.lists(st.tuples(*[CELLS] * len(FEATURES)), max_size=8))
def test_whatever_a_source_holds_its_rows_lie_in_the_box(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "box.csv"
    rows = [[*map(str, row), 1, "test"] for row in cells]
    config = write_csv(path, [*FEATURES, "num", "part"], rows)
    schema = dataset(split=BY_COLUMN)
    low, high = input_box(schema)
    assert low.shape == high.shape == schema.input_shape
    features = load_part(config, schema, "test").features
    assert ((features >= low) & (features <= high)).all()


def images(height: int, width: int) -> Dataset:
    said = {
        "name": "d",
        "features": {"image": {"type": "image", "shape": [height, width]}},
        "label": {"column": "y", "classes": ["a", "b"]},
        "split": {"by": "files"},
    }
    return parse(said, Dataset, "d")


def test_the_box_of_images_and_of_numbers() -> None:
    low, high = input_box(images(4, 5))
    assert low.tolist() == [0.0] * 20 and high.tolist() == [1.0] * 20
    low, high = input_box(dataset())
    assert low.tolist() == [-1.0, -1.0] + [0.0] * 8 and set(high.tolist()) == {1.0}


def test_images_are_predicted_on_ciphertexts_as_by_the_model() -> None:
    schema = images(8, 8)
    said = ModelSpec(name="cnn", channels=(2,), activation="square").model_dump(mode="json")
    weights = build_model(said, schema.input_shape, 2, seed=1).state_dict()
    document = {"model": said, "dataset": schema.model_dump(mode="json")}
    files = Files(save_weights(weights), json.dumps(document).encode())
    model = read_model(Files.unpack(files.pack()), schema, ours=True)
    asked = {"mode": "ckks", "roles": {"data": "a", "model": "b"}, "model": {"job": "j"}}
    spec = Spec.model_validate({"name": "a", "dataset": "d", "rows": 1, "batch_size": 1} | asked)
    served = EncryptedServed(spec, model, schema)
    client = Client(served.compiled.plan)
    served.server.register(client.keys())
    rows = np.random.default_rng(0).uniform(*input_box(schema), (1, 64))
    packed = served.answer(0, msgpack.packb([client.encrypt(rows)]))
    opened = client.open(unpacked(packed, 1, "answers")[0])
    with torch.no_grad():
        plain = model(torch.from_numpy(rows).reshape(1, 1, 8, 8)).numpy()
    assert np.abs(opened.values - plain).max() <= opened.errors[0] < 1e-3


def answers(n: int, start: int = 0) -> Answers:
    logits = np.arange(start, start + 2 * n, dtype=float).reshape(n, 2)
    return Answers(logits, np.arange(n) % 2 == 0, np.full(n, 0.25))


def test_a_file_grows_by_whole_batches_and_forgets_half_ones(tmp_path: Path) -> None:
    first = Predictions(tmp_path, ["a", "b"], encrypted=True)
    first.add(answers(3), np.array([0, 4, 5]))
    whole = (tmp_path / "predictions.csv").read_bytes()
    assert whole.splitlines()[0] == b"row,predicted,p_a,p_b,certified,error"
    assert whole.splitlines()[1] == b"0,b,0.268941,0.731059,yes,0.25"
    with (tmp_path / "predictions.csv").open("ab") as file:
        file.write(b"3,b,0.2")  # a crash in the middle of a batch
    again = Predictions(tmp_path, ["a", "b"], encrypted=True)
    assert again.batches == 1 and (tmp_path / "predictions.csv").read_bytes() == whole
    again.add(answers(4), np.array([9]))  # three places were filled
    again.add(answers(4), np.array([], int))
    again.close(left_out=2)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "4", "5", "9"]
    assert json.loads((tmp_path / "predictions.json").read_text())["rows"] == 4
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def test_answers_that_are_no_numbers_are_written_and_raise_nothing(tmp_path: Path) -> None:
    # A server can answer anything; the data silo shows by nothing that it noticed.
    wild = Answers(np.array([[np.nan, 1.0], [np.inf, -np.inf], [1e308, -1e308]]))
    file = Predictions(tmp_path, ["a", "b"], encrypted=False)
    with np.errstate(all="ignore"):
        file.add(wild, np.arange(3))
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4


def test_work_is_counted_once_and_not_beyond_the_limit(tmp_path: Path) -> None:
    for _ in range(3):
        take(tmp_path / "m", "north", work="job-1/0", rows=60, limit=100)
    with pytest.raises(PolicyRefused, match="predict 40 more rows of north; the job asks for 41"):
        take(tmp_path / "m", "north", work="job-2/0", rows=41, limit=100)
    take(tmp_path / "m", "north", work="job-2/0", rows=40, limit=100)
    take(tmp_path / "m", "east", work="job-3/0", rows=100, limit=100)
    with pytest.raises(PolicyRefused, match="predict 0 more rows"):
        take(tmp_path / "m", "north", work="job-4/0", rows=1, limit=50)  # lowered by its owner


@pytest.mark.parametrize(
    "packed", [b"", b"\xc1", msgpack.packb([b"a"]), msgpack.packb([b"a", "b"]), msgpack.packb(7)]
)
def test_a_list_of_other_parts_is_no_message(packed: bytes) -> None:
    with pytest.raises(BadMessage):
        unpacked(packed, 2, "rows")
    assert unpacked(msgpack.packb([b"a", b"b"]), 2, "rows") == [b"a", b"b"]


@pytest.mark.parametrize(
    "packed",
    [
        b"not safetensors",
        save({"rows": np.zeros((2, 3), np.float64)}),
        save({"rows": np.zeros((3, 2), np.float32)}),
        save({"cols": np.zeros((2, 3), np.float32)}),
        save({"rows": np.zeros((2, 3), np.float32), "more": np.zeros(1)}),
    ],
)
def test_another_array_is_no_message(packed: bytes) -> None:
    with pytest.raises(BadMessage):
        array_of(packed, "rows", np.dtype(np.float32), (2, 3))


@given(st.integers(1, 1_000_000), st.integers(1, 2_000_000))
def test_batches_cover_every_place_once(rows: int, batch: int) -> None:
    asked = {
        "name": "a",
        "dataset": "d",
        "mode": "plain",
        "roles": {"data": "a", "model": "b"},
        "model": {"job": "j"},
        "rows": rows,
        "batch_size": batch,
    }
    batches = -(-rows // batch)
    if batches * SESSIONS > LAST_ROUND + 1:
        return
    spec = Spec.model_validate(asked)
    assert spec.batches == batches
    assert 1 <= spec.places(batches - 1) <= batch
    assert (batches - 1) * batch + spec.places(batches - 1) == rows


def test_the_latest_finished_train_job_of_a_name_is_found(tmp_path: Path) -> None:
    def record(id: str, name: str, created: str, **changes: Any) -> None:
        said = {"id": id, "name": name, "kind": "train", "status": "completed", "created": created}
        (tmp_path / id).mkdir()
        (tmp_path / id / "job.json").write_text(json.dumps(said | changes))

    record("heart-20260101-aa", "heart", "2026-01-01")
    record("heart-20260301-bb", "heart", "2026-03-01")
    record("heart-20260401-cc", "heart", "2026-04-01", status="failed")
    record("heart-20260501-dd", "heart", "2026-05-01", kind="infer")
    assert published(tmp_path, "heart").parts[-3] == "heart-20260301-bb"
    assert published(tmp_path, "heart-20260101-aa").parts[-3] == "heart-20260101-aa"
    for named in ("heart-20260401-cc", "lung"):
        with pytest.raises(NotFound) as caught:
            published(tmp_path, named)
        assert caught.value.allowed == ["heart-20260101-aa", "heart-20260301-bb"]

"""The predictions of an infer job: files of mode 0600 at the silo that has the rows, nowhere else.

    predictions.csv   a line per row of the part: its number in the source, from 0, the class, and a
                      probability per class
    predictions.json  how many there are, once the job has ended, and how many had no place

Encrypted inference adds two columns: whether the class is certified to be the plain model's, and
the bound of the answer's error. Both files are the owner's: how many rows are certified is for
nobody else.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privacy.ledger.durable import write_durably


@dataclass(frozen=True)
class Answers:
    """A batch of answers: `logits` [n, classes].

    Of encrypted ones also which are `certified` [n], and the bound of their distance from the plain
    model's, `errors` [n].
    """

    logits: npt.NDArray[np.float64]
    certified: npt.NDArray[np.bool_] | None = None
    errors: npt.NDArray[np.float64] | None = None

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits, [n, classes]."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


class Predictions:
    """The file as it grows by whole batches; what a crash left half written is written again."""

    def __init__(self, directory: Path, classes: Sequence[str], *, encrypted: bool) -> None:
        self._path = directory / "predictions.csv"
        self._summary = directory / "predictions.json"
        self._count = directory / "predicted"
        self._classes = classes
        self._columns = ["row", "predicted", *(f"p_{name}" for name in classes)]
        if encrypted:
            self._columns += ["certified", "error"]
        self.batches, self._lines = self._kept()

    def _kept(self) -> tuple[int, int]:
        """Batches and lines that were finished."""
        if not (self._count.exists() and self._path.exists()):
            write_durably(self._path, _csv([self._columns]))
            return 0, 0
        batches, lines, size = json.loads(self._count.read_bytes())
        os.truncate(self._path, size)
        return batches, lines

    def add(self, answers: Answers, rows: npt.NDArray[np.int64]) -> None:
        """Write the next batch: the first answers are of `rows`, the rest filled places."""
        lines = []
        scores = answers.probabilities()
        for place, row in enumerate(rows):
            line: list[object] = [int(row), self._classes[int(scores[place].argmax())]]
            line += [f"{score:.6f}" for score in scores[place]]
            if answers.certified is not None and answers.errors is not None:
                line += ["yes" if answers.certified[place] else "no"]
                line += [f"{answers.errors[place]:.3g}"]
            lines.append(line)
        with self._path.open("ab") as file:
            file.write(_csv(lines))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        self.batches, self._lines = self.batches + 1, self._lines + len(rows)
        write_durably(self._count, json.dumps([self.batches, self._lines, size]).encode())

    def close(self, left_out: int) -> None:
        """Tell the owner how many rows were predicted and how many had no place."""
        summary = {"predictions": str(self._path), "rows": self._lines, "left_out": left_out}
        write_durably(self._summary, json.dumps(summary, indent=1).encode())


def _csv(lines: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()

"""The spec of an infer job and its blocks: plain data, checked before anything is priced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from federation.errors import NotFound
from federation.limits import Count, Within
from federation.release import LAST_ROUND
from federation.spec import Block, JobSpec, Name

if TYPE_CHECKING:
    from federation.schema import Dataset

SESSIONS = 8
"""How often a silo may make a new key in one job: a key dies with the process that made it."""

_GUARANTEES = {
    "plain": (
        "Silo {model} saw the rows and the answers as they are, and how many rows there were. "
        "Nothing keeps it from storing them: no epsilon bounds what it learned. The coordinator "
        "and the network saw neither."
    ),
    "equivariant": (
        "**Obfuscation, not encryption.** Silo {node} computed on rows and weights that are turned "
        "by secret matrices; without the base model it saw neither as numbers, but which rows are "
        "equal and how alike any two are. Undone by: {model} together with {node}; {data} together "
        "with {node}; anybody who sees the sealed model and has its base, or one close to it. "
        "Nothing proves the answers, and {node} can use the sealed model itself."
    ),
    "ckks": (
        "Silo {model} computed on ciphertexts under a key that silo {data} made and kept (CKKS, "
        "128 bits by ePrint 2024/463), and saw neither rows nor answers nor how many places were "
        "filled. Not protected: the model, of which every answer tells something (silo {model} "
        "counts them), and the correctness of the answers, which nothing proves."
    ),
}


class RolesSpec(Block):
    """Who does what: `data` holds the rows and gets the predictions, `model` has the model.

    `node` computes under equivariant sealing, and is neither of the two.
    """

    data: Name
    model: Name
    node: Name | None = None

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.node is not None and self.node in (self.data, self.model):
            raise ValueError(
                f"node is also {'data' if self.node == self.data else 'model'}; both together "
                "undo a sealing"
            )
        if self.data == self.model:
            raise ValueError(
                f"data and model are both {self.data}, which can run `tacit model predict`"
            )
        return self


class ServedSpec(Block):
    """The model that is asked: exactly one of `job` and `own`.

    `job` is the id of a finished train job, or its name (the latest of it); its model is published
    and is sent to the model's silo. `own` is a model that this silo keeps as
    `models/OWN.safetensors` and shows nobody.
    """

    job: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,80}$")] | None = None
    own: Name | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.job is None) == (self.own is None):
            raise ValueError("give exactly one of job: a finished train job, and own: a name")
        return self


class ApproximationSpec(Block):
    """The polynomial in place of ReLU or tanh: of which `degree`, on [-`bound`, `bound`]."""

    bound: Annotated[float, Within(0.01, 1e4)]
    degree: Annotated[int, Within(2, 127)]


class Spec(JobSpec):
    """An infer job: the first `rows` rows of a part, predicted by another silo's model.

    Part `unlabelled` are the rows that have no label, and so are in no train job.
    `rows` is the public number of places: fewer rows are filled up with the middle of the schema's
    bounds, of more the first are predicted. `batch_size` of them go in one message. `packing` and
    `approximation` belong to ckks: how rows lie in ciphertexts (chosen by the batch size where it
    is not said), and what stands in for activations that are no polynomials.
    """

    kind: str = "infer"
    mode: Literal["plain", "ckks", "equivariant"]
    roles: RolesSpec
    model: ServedSpec
    part: Literal["train", "test", "unlabelled"] = "test"
    rows: Annotated[int, Within(1, 1_000_000)]
    batch_size: Count = 16
    packing: Literal["latency", "throughput"] | None = None
    approximation: ApproximationSpec | None = None

    @model_validator(mode="after")
    def _of_its_mode(self) -> Self:
        for name in ("packing", "approximation"):
            if getattr(self, name) is not None and self.mode != "ckks":
                raise ValueError(f"{name} belongs to mode ckks; here: {self.mode}")
        if (self.roles.node is not None) != (self.mode == "equivariant"):
            raise ValueError("roles.node belongs to mode equivariant, which needs it")
        if self.mode == "equivariant" and self.model.own is None:
            raise ValueError(
                "a sealing hides nothing from a node that has the base model, and every silo has "
                "the models of train jobs; give model: {own: NAME}"
            )
        return self

    @model_validator(mode="after")
    def _so_many_messages(self) -> Self:
        if self.batches * SESSIONS > LAST_ROUND + 1:
            least = -(-self.rows * SESSIONS // (LAST_ROUND + 1))
            raise ValueError(f"a job has at most {LAST_ROUND + 1} messages; batch_size: {least}")
        return self

    @property
    def batches(self) -> int:
        """How many messages with rows there are."""
        return -(-self.rows // self.batch_size)

    def places(self, batch: int) -> int:
        """How many rows a batch holds."""
        return min(self.batch_size, self.rows - batch * self.batch_size)

    @property
    def sessions(self) -> int:
        """How often rows may be sent again under another key."""
        return SESSIONS if self.mode == "ckks" else 1

    @property
    def silos(self) -> frozenset[str]:
        """The silos with a role."""
        return frozenset(self.roles.model_dump(exclude_none=True).values())

    @property
    def server(self) -> str:
        """The silo that rows are sent to."""
        return self.roles.node or self.roles.model

    def role(self, silo: str) -> str:
        """What a silo does; `NotFound` where it has no role."""
        for role, name in self.roles.model_dump().items():
            if name == silo:
                return str(role)
        raise NotFound(
            f"roles: silo {silo!r} has none in this job",
            field="roles",
            value=silo,
            allowed=sorted(self.silos),
        )

    def reads_rows(self, silo: str) -> bool:
        """The rows of the role `data`, and no others."""
        return silo == self.roles.data

    def check(self, jobs: Path, dataset: Dataset) -> None:
        """Refuse a train job that is not there or not finished, and a model that does not fit."""
        from federation.inference.served import check_published

        check_published(self, jobs, dataset)

    @property
    def unencrypted_inference(self) -> bool:
        """Whether another silo sees rows, as they are or sealed, which is no encryption."""
        return self.mode != "ckks"

    @property
    def protection(self) -> str:
        """The protection under which rows and answers leave."""
        return "unprotected" if self.unencrypted_inference else "encrypted"

    @property
    def leaving(self) -> frozenset[str]:
        """The protections under which the job's releases leave a silo."""
        return frozenset({self.protection})

    def least_quorum(self, silos: int) -> int:
        """Every role is needed."""
        return silos

    @property
    def guarantee(self) -> str:
        """Who saw what, and what rests on that, in words for the report."""
        return _GUARANTEES[self.mode].format(**self.roles.model_dump())

"""What the clipper takes, what it hands to Opacus, and what it refuses."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from privacy.errors import UnsafeModel
from privacy.mechanisms.clipping import engine
from privacy.mechanisms.clipping.clip import Clip
from privacy.mechanisms.clipping.engine import Clipper, layers
from privacy.mechanisms.clipping.products import ghost_is_cheaper

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def dense(*widths: int) -> nn.Sequential:
    steps = [step for a, b in itertools.pairwise(widths) for step in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*steps[:-1])


def batch(n: int, *shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, *shape), torch.randint(0, classes, (n,))


def one_by_one(
    model: nn.Module, features: Tensor, labels: Tensor, bound: float
) -> tuple[Tensor, Tensor]:
    """Sum of clipped gradients and norms, by plain autograd on one row at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    norms = []
    for x, y in zip(features, labels, strict=True):
        loss = cross_entropy(model(x[None]), y[None], reduction="none").sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        flat = [(torch.zeros_like(p) if g is None else g).reshape(-1).double() for p, g in pairs]
        gradient = torch.cat(flat)
        norms.append(float(gradient.norm()))
        total += gradient * min(1.0, bound / norms[-1])
    return total, torch.tensor(norms, dtype=torch.float64)


def agrees(model: nn.Module, features: Tensor, labels: Tensor, *, hooked: bool = False) -> Clipper:
    bound = float(one_by_one(model, features, labels, 1.0)[1].median())
    expected, norms = one_by_one(model, features, labels, bound)
    clipper = Clipper(model, cross_entropy, Clip((bound,)))
    clipped = clipper(features, labels)
    assert (clipper._hooked is not None) is hooked
    assert float((clipped.total - expected).norm() / expected.norm()) < 3e-6
    torch.testing.assert_close(clipped.norms, norms, rtol=1e-5, atol=1e-8)
    return clipper


class Own(nn.Module):
    """A weight that no layer of torch holds."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.weight


class ByFunction(nn.Module):
    """A weight that only an autograd function sees."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(rows, weight)
            return rows * weight

        @staticmethod
        def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
            rows, weight = ctx.saved_tensors
            return gradient * weight, (gradient * rows).sum(0)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, rows: Tensor) -> Tensor:
        return self.Scale.apply(rows, self.weight)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_parameter_of_no_known_layer_goes_to_opacus(place: str) -> None:
    model = (
        nn.Sequential(Own(4), dense(4, 3))
        if place == "first"
        else nn.Sequential(dense(4, 3), Own(3))
    )
    clipper = agrees(model, *batch(9, 4), hooked=True)
    features, labels = batch(5, 4)  # and again, on another batch
    total, _ = one_by_one(model, features, labels, clipper.clip.bounds[0])
    assert float((clipper(features, labels).total - total).norm()) < 1e-5 * float(total.norm())


def test_opacus_fallback_averages_the_rows_of_a_unit() -> None:
    model = nn.Sequential(Own(4), dense(4, 3))
    features, labels = batch(3, 4)
    owners = torch.tensor([0, 0, 1])
    clipped = Clipper(model, cross_entropy, Clip((1e9,)))(features, labels, owners).total
    parts = [one_by_one(model, features[i], labels[i], 1e9)[0] for i in ([0, 1], [2])]
    torch.testing.assert_close(clipped, parts[0] / 2 + parts[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape", "named"),
    [
        (nn.Sequential(ByFunction(), dense(4, 3)), (4,), "parameter 0.weight"),
        (nn.Sequential(nn.LSTM(4, 3), Apply(lambda x: x[0][:, -1])), (5, 4), "module 0"),
        (
            nn.Sequential(
                Apply(lambda x: x.transpose(0, 1)),
                nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
                Apply(lambda x: x.mean(0)),
            ),
            (5, 4),
            "1.self_attn",
        ),
    ],
    ids=["autograd function", "recurrent", "batch second"],
)
def test_what_neither_knows_is_refused_by_name(
    model: nn.Module, shape: tuple[int, ...], named: str
) -> None:
    with pytest.raises(UnsafeModel, match="no per-sample gradients") as caught:
        Clipper(model, cross_entropy, Clip((1.0,)))(*batch(5, *shape))
    assert named in str(caught.value)


def test_an_input_changed_after_its_layer_is_not_taken_for_what_it_was() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, rows: Tensor) -> Tensor:
            x = torch.tanh(self.first(rows))
            y = self.second(x.detach())
            with torch.no_grad():
                x.mul_(2.0)
            return y

    with pytest.raises((UnsafeModel, RuntimeError)):
        Clipper(Changes(), cross_entropy, Clip((1.0,)))(*batch(5, 4))


def test_a_gradient_that_does_not_arrive_is_noticed() -> None:
    """Rows that ask for a gradient of their own cut the layer off from where backward ends."""

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.layer(rows.clone().requires_grad_() * 1.0)

    agrees(Asks(), *batch(5, 4), hooked=True)


def test_a_layer_that_is_not_used_has_no_gradient() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, rows: Tensor) -> Tensor:
            self.idle(rows)
            return self.used(rows)

    agrees(Idle(), *batch(5, 4))


def test_frozen_layers_are_passed_and_nothing_of_them_is_kept() -> None:
    model = dense(6, 50, 50, 3)
    clipper = agrees(model, *batch(9, 6))
    held = sum(part.held() for part in clipper._parts(*batch(8, 6), None))
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    clipper = agrees(model, *batch(9, 6))
    assert clipper.size == 50 * 3 + 3
    assert sum(part.held() for part in clipper._parts(*batch(8, 6), None)) < held / 3


class Adapted(nn.Module):
    """A frozen layer with a trainable adapter of low rank beside it (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.base(rows) + 0.5 * self.up(self.down(rows))


def test_adapters_train_beside_frozen_layers() -> None:
    model = nn.Sequential(
        Adapted(nn.Linear(6, 32), 2), nn.Tanh(), nn.Flatten(), Adapted(nn.Linear(160, 3), 2)
    )
    clipper = agrees(model, *batch(9, 5, 6))
    assert clipper.size == sum(p.numel() for n, p in model.named_parameters() if "base" not in n)


def test_bias_alone_may_train() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    agrees(model, *batch(9, 1, 6, 6))


class Attends(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.out = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        blank = rows[:, :, 0] > 1.0
        blank[:, 0] = False
        ahead = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool).triu(1)
        x, _ = self.attention(rows, rows, rows, key_padding_mask=blank, attn_mask=ahead)
        return self.out(x.mean(1))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_zero_attn": True}])
def test_attention_with_masks(options: dict[str, object]) -> None:
    agrees(Attends(**options), *batch(9, 5, 8))


def test_attention_on_keys_and_values_of_other_widths() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.out(self.attention(rows, rows[:, :, :4], rows[:, :, 2:])[0].mean(1))

    agrees(Three(), *batch(9, 5, 8))


def test_attention_with_learned_keys_is_refused() -> None:
    with pytest.raises(UnsafeModel, match=r"attention\.bias_k"):
        Clipper(Attends(add_bias_kv=True), cross_entropy, Clip((1.0,)))(*batch(5, 5, 8))


def opacus(model: nn.Module, features: Tensor, labels: Tensor, bound: float) -> Tensor:
    hooked = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    cross_entropy(hooked(features), labels, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    return torch.cat([p.summed_grad.reshape(-1) for p in hooked.parameters()]).double()


@pytest.mark.parametrize(
    ("model", "features"),
    [
        (dense(6, 12, 3), torch.randn(9, 6)),
        (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.GroupNorm(2, 4), nn.Tanh(),
                nn.Conv2d(4, 4, 2, dilation=2, padding=1), nn.Flatten(), nn.Linear(64, 3),
            ),
            torch.randn(9, 2, 9, 9),
        ),
        (
            nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.RMSNorm(6),
                          nn.Flatten(), nn.Linear(30, 3)),
            torch.randint(0, 11, (9, 5)),
        ),
    ],
    ids=["dense", "images", "words"],
)  # fmt: skip
def test_the_clipped_sum_is_that_of_opacus(model: nn.Module, features: Tensor) -> None:
    labels = torch.randint(0, 3, (9,))
    ours = Clipper(model, cross_entropy, Clip((0.7,)))(features, labels).total
    theirs = opacus(model, features, labels, 0.7)
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6  # Opacus adds 1e-6 to norms


def test_sums_accumulate_over_pieces_of_a_batch() -> None:
    model, (features, labels) = dense(6, 12, 3), batch(30, 6)
    clipper = Clipper(model, cross_entropy, Clip((0.5,)))
    whole = clipper(features, labels).total
    total = torch.zeros_like(whole)
    for start in range(0, 30, 8):
        clipper(features[start : start + 8], labels[start : start + 8], into=total)
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-10])
def test_loss_scaling_is_undone_before_the_clip(scale: float) -> None:
    model, (features, labels) = dense(6, 12, 3), batch(20, 6)

    def scaled(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return scale * cross_entropy(outputs, labels, reduction=reduction)

    plain = Clipper(model, cross_entropy, Clip((0.5,)))(features, labels)
    undone = Clipper(model, scaled, Clip((0.5,)))(features, labels, loss_scale=scale)
    torch.testing.assert_close(undone.total, plain.total, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(undone.norms, plain.norms, rtol=1e-6, atol=1e-9)


def test_a_loss_scale_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Clipper(dense(6, 3), cross_entropy, Clip((1.0,)))(*batch(5, 6), loss_scale=3.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_formats_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsafeModel, match="no slack of the clip covers"):
        Clipper(dense(6, 3).to(dtype), cross_entropy, Clip((1.0,)))
    clipper = Clipper(dense(6, 3), cross_entropy, Clip((1.0,)))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(UnsafeModel, match="slack"):
        clipper(*batch(5, 6))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_in_short_formats_are_refused(precision: str) -> None:
    clipper = Clipper(dense(6, 3), cross_entropy, Clip((1.0,)))
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(UnsafeModel, match="precision"):
            clipper(*batch(5, 6))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(clipper(*batch(5, 6)).norms) == 5


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_an_embedding_in_which_rows_meet_is_refused(option: dict[str, object]) -> None:
    model = nn.Sequential(nn.Embedding(5, 4, **option), nn.Flatten(), nn.Linear(8, 3))
    features = torch.randint(0, 5, (6, 2))
    with pytest.raises(UnsafeModel, match="change one another's gradients"):
        Clipper(model, cross_entropy, Clip((1.0,)))(features, torch.zeros(6, dtype=torch.int64))


def test_a_loss_that_is_one_number_or_knows_the_weights_is_refused() -> None:
    model = dense(6, 3)
    with pytest.raises(UnsafeModel, match="no number for every row"):
        Clipper(model, lambda o, y, reduction: cross_entropy(o, y), Clip((1.0,)))(*batch(8, 6))

    def decayed(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return cross_entropy(outputs, labels, reduction="none") + model[0].weight.square().sum()

    with pytest.raises(UnsafeModel):
        Clipper(model, decayed, Clip((1.0,)))(*batch(8, 6))


def test_automatic_clipping_scales_every_gradient() -> None:
    model, (features, labels) = dense(6, 3), batch(4, 6)
    rows = [one_by_one(model, features[[i]], labels[[i]], 1e9)[0] for i in range(4)]
    expected = sum(2.0 * g / (g.norm() + 0.01) for g in rows)
    clipped = Clipper(model, cross_entropy, Clip((2.0,), automatic=True))(features, labels)
    torch.testing.assert_close(clipped.total, expected, rtol=1e-5, atol=1e-7)


def test_layers_are_bounded_each_by_its_own_and_priced_together() -> None:
    model, (features, labels) = dense(6, 12, 3), batch(1, 6)
    assert layers(model) == ["0", "2"]
    clip = Clip((0.03, 0.04))
    assert clip.sensitivity == pytest.approx(0.05)
    total = Clipper(model, cross_entropy, clip)(features, labels).total
    first = 6 * 12 + 12
    assert float(total[:first].norm()) == pytest.approx(0.03)
    assert float(total[first:].norm()) == pytest.approx(0.04)
    assert Clip.per_layer(0.6, 9).sensitivity == pytest.approx(0.6)
    with pytest.raises(ValueError, match="3 bounds for 2 layers"):
        Clipper(model, cross_entropy, Clip((1.0, 1.0, 1.0)))


def test_the_cheaper_form_is_chosen_by_shape() -> None:
    assert ghost_is_cheaper(4, 512, 512)  # few positions, a wide layer
    assert not ghost_is_cheaper(784, 16, 9)  # an image, a small kernel
    assert not ghost_is_cheaper(1000, 4096, 4096)


def test_both_forms_give_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Tanh(), nn.Flatten(2), nn.Linear(16, 5),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    features, labels = batch(9, 2, 6, 6)
    sums = []
    for ghost in (True, False):
        monkeypatch.setattr(
            "privacy.mechanisms.clipping.products.ghost_is_cheaper", lambda *_, g=ghost: g
        )
        sums.append(Clipper(model, cross_entropy, Clip((0.5,)))(features, labels))
    torch.testing.assert_close(sums[0].total, sums[1].total, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(sums[0].norms, sums[1].norms, rtol=1e-6, atol=1e-8)


def test_a_piece_is_as_large_as_what_is_kept_of_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    clipper = Clipper(model, cross_entropy, Clip((1.0,)))
    features, labels = batch(1, 1, 6, 6)
    assert clipper.at_once(features, labels) == engine.ROWS_AT_ONCE
    monkeypatch.setattr(engine, "HELD_AT_ONCE", 5000)
    assert clipper.at_once(features, labels) == engine.BESIDE
    monkeypatch.setattr(engine, "HELD_AT_ONCE", 1)
    assert clipper.at_once(features, labels) == 8


def test_more_units_than_the_slack_covers_are_refused() -> None:
    clipper, (features, labels) = Clipper(dense(2, 3), cross_entropy, Clip((1.0,))), batch(1025, 2)
    with pytest.raises(ValueError, match="at most 1024"):
        clipper(features, labels)
    assert len(clipper(features, labels, torch.zeros(1025, dtype=torch.int64)).norms) == 1


def test_no_rows_are_no_gradient() -> None:
    clipped = Clipper(dense(2, 3), cross_entropy, Clip((1.0,)))(*batch(0, 2))
    assert not clipped.total.any() and len(clipped.norms) == 0


def test_nothing_of_a_batch_outlives_its_call() -> None:
    clipper = Clipper(dense(6, 12, 3), cross_entropy, Clip((1.0,)))
    features, labels = batch(8, 6)
    seen = weakref.ref(features)
    gc.disable()
    try:
        clipper(features, labels)
        del features
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_same_code_on_a_gpu(kind: str) -> None:
    """Convolutions too: in TF32, their default there, they would be off by a thousandth."""
    conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 3))
    model, shape = (dense(6, 12, 3), (6,)) if kind == "dense" else (conv, (1, 8, 8))
    features, labels = batch(20, *shape)
    here = Clipper(model, cross_entropy, Clip((0.5,)))(features, labels).total
    there = Clipper(model.cuda(), cross_entropy, Clip((0.5,)))(features.cuda(), labels.cuda()).total
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6)


def test_a_model_in_evaluation_is_clipped_as_well() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model = nn.Sequential(layer, Apply(lambda x: functional.gelu(x).mean(1)), nn.Linear(8, 3))
    agrees(model, *batch(9, 5, 8))

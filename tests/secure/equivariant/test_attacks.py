"""The attacks recover what they claim, and no more than chance where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests_models import decoder, drawn, encoder, network, rows, tokens

from secure.equivariant import Model, Probes, attack
from secure.equivariant.attacks import alignment, features, inversion, matching, traffic
from secure.equivariant.errors import BadInput
from secure.equivariant.groups import PERMUTATION
from secure.equivariant.network import folded
from secure.equivariant.report import LABEL
from secure.equivariant.stream import Stream

SECRET = b"a" * 32
BASE, NO_BASE = "public base", "no base"


def moved(model, size, seed=9):
    """A fine-tuned version: every weight moved by a share of its spread."""
    chance = torch.Generator().manual_seed(seed)
    return Model(
        model.architecture,
        {
            name: w + size * w.std() * torch.randn(w.shape, generator=chance).to(w.dtype)
            for name, w in model.weights.items()
        },
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("make", [decoder, encoder])
def test_with_the_base_every_token_is_known(make, dtype):
    model = make(dtype)
    sealed, done = model.transform(SECRET)
    guess, basis = matching.match_tokens(sealed, model)
    assert float((guess == done.input.order).double().mean()) >= 0.99
    residual = done.keys["residual"].rows(torch.eye(48).double())
    assert torch.allclose(basis, residual, atol=1e-4)


@pytest.mark.parametrize("make", [decoder, encoder])
def test_a_fine_tuned_model_falls_to_its_base(make):
    base = make()
    model = moved(base, 0.2)
    sealed, done = model.transform(SECRET)
    guess, _ = matching.match_tokens(sealed, base)
    assert float((guess == done.input.order).double().mean()) >= 0.95


def test_a_stranger_tells_nothing():
    model = decoder()
    sealed, done = model.transform(SECRET)
    guess, _ = matching.match_tokens(sealed, drawn(model.architecture, seed=77))
    assert float((guess == done.input.order).double().mean()) < 0.03


@pytest.mark.parametrize("kind", ["mlp", "deep-linear", "digits8", "digits28", "colour"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_with_the_base_every_key_of_a_network_is_known(kind, dtype):
    model = network(kind, dtype)
    sealed, done = model.transform(SECRET)
    base = folded(model)
    found = matching.match_network(sealed, base)
    for name, guess in found.items():
        truth = done.keys[name]
        n = truth.size
        # An answer wider than what enters it is known only where states can lie.
        states = base.weights[f"{name}.weight"].double().flatten(1)
        wanted, got = truth.rows(states), guess.rows(states)
        assert torch.allclose(got, wanted, atol=1e-3 * wanted.abs().max()), (name, n)
    back, visible = matching.unturned(sealed, base, found)
    x = rows(model, 50)
    entering = model.architecture.takes.sealed({"rows": x}, done.input)["rows"]
    flat, sealed_flat = (r.movedim(1, -1).flatten(0, -2) for r in (x, entering))
    assert torch.allclose(sealed_flat @ back.T, flat @ visible.T, atol=1e-3)


def test_moments_undo_a_turn():
    """Rows and other rows of one skewed distribution, under an unknown turn."""
    rng = np.random.default_rng(5)
    factors = rng.exponential(size=(40_000, 6)) * np.array([6.0, 4.0, 2.5, 1.5, 1.0, 0.5])
    mixing = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = torch.from_numpy(factors @ mixing)
    turn = Stream(b"t" * 32).orthogonal(6)
    back = traffic.turned_back(x[:20_000] @ turn.T, x[20_000:])
    assert torch.allclose(back, turn, atol=0.05)


def test_procrustes_finds_a_turn_and_nearest_a_row():
    x = torch.randn(60, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    turn = Stream(b"p" * 32).orthogonal(7)
    assert torch.allclose(alignment.procrustes(x @ turn.T, x), turn, atol=1e-12)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(6))
    brute = torch.cdist(x[order] + 0.01, x).argmin(1)
    assert torch.equal(alignment.nearest(x[order] + 0.01, x, chunk=7), brute)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (5, 30)])
def test_ridge_is_that_of_the_normal_equations(n, d):
    chance = torch.Generator().manual_seed(8)
    x, y = (torch.randn(n, k, generator=chance, dtype=torch.float64) for k in (d, 3))
    gram = x.T @ x
    mean = gram.diagonal().mean() if n >= d else (x @ x.T).diagonal().mean()
    expected = torch.linalg.inv(gram + 1e-4 * mean * torch.eye(d).double()) @ x.T @ y
    assert torch.allclose(alignment.ridge(x, y), expected, atol=1e-8)


def test_known_pairs_solve_a_dense_key():
    turn = Stream(b"k" * 32).orthogonal(40)
    x = torch.randn(100, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solved = traffic.solved((x @ turn.T)[:40], x[:40])
    assert torch.allclose((x @ turn.T)[40:] @ solved, x[40:], atol=1e-10)
    few = traffic.solved((x @ turn.T)[:20], x[:20])
    assert alignment.explained(x[40:], (x @ turn.T)[40:] @ few) < 0.7


def test_frequencies_and_successions_read_a_substitution():
    probes = Probes.synthetic(decoder().architecture.takes)
    key = PERMUTATION.draw(Stream(b"f" * 32), 300)
    sealed = key.inverted().order[probes.observed]
    guess = traffic.read_by_frequency(sealed, probes.reference, 300)
    assert float((guess[sealed] == probes.observed).double().mean()) > 0.8
    # Unigram ranks alone do worse: successions carry it.
    ranks = [
        torch.bincount(t.flatten(), minlength=300).argsort(descending=True)
        for t in (sealed, probes.reference)
    ]
    by_rank = torch.empty(300, dtype=torch.int64)
    by_rank[ranks[0]] = ranks[1]
    assert float((by_rank[sealed] == probes.observed).double().mean()) < 0.7
    # Text without structure gives nothing beyond its frequencies.
    flat = torch.randint(300, (400, 64), generator=torch.Generator().manual_seed(3))
    guess = traffic.read_by_frequency(key.inverted().order[flat[::2]], flat[1::2], 300)
    assert float((guess[key.inverted().order[flat[::2]]] == flat[::2]).double().mean()) < 0.05


def test_states_of_the_last_layer_give_the_text():
    base = decoder()
    sealed, done = base.transform(SECRET)
    ids = tokens(base, 3, 6)
    entering = base.architecture.takes.sealed({"tokens": ids}, done.input)["tokens"]
    basis = done.keys["residual"].rows(torch.eye(48).double())
    states = inversion.last_states(sealed, entering) @ basis
    assert torch.allclose(states, inversion.last_states(base, ids), atol=1e-10)
    ranking = inversion.ranked(states, base, tokens(base, 30, 20, seed=4))
    assert sorted(ranking[0, 0].tolist()) == list(range(300))
    assert torch.equal(inversion.searched(states, base, ranking), ids)


def reference_ssim(a, b, window):
    """The definition, window by window."""
    values = []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            p, q = a[i : i + window, j : j + window], b[i : i + window, j : j + window]
            cov = ((p - p.mean()) * (q - q.mean())).mean()
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * cov + 9e-4)
            low = (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)
            values.append(top / low)
    return np.mean(values)


def test_similarity_is_that_of_its_definition():
    rng = np.random.default_rng(2)
    for shape in ((12, 10), (7, 7), (5, 6)):
        a, b = rng.random(shape), rng.random(shape)
        found = float(features.ssim(torch.from_numpy(a), torch.from_numpy(b)))
        assert found == pytest.approx(reference_ssim(a, b, min(7, *shape)), abs=1e-12)
    assert float(features.ssim(torch.from_numpy(a), torch.from_numpy(a))) == pytest.approx(1)


def test_a_map_that_is_the_image_is_recognised_and_noise_is_not():
    images = Probes.synthetic(network("digits28").architecture.takes).observed[:16]
    noise = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    own, others, told_apart = features.recognised(torch.cat([noise, 3 - 2 * images], 1), images)
    assert own == pytest.approx(1) and others < 0.5 and told_apart == 1
    own, others, told_apart = features.recognised(noise, images)
    assert own < 0.2 and told_apart < 0.5


@pytest.mark.parametrize("make", [decoder, encoder])
def test_the_report_on_tokens(make):
    model = make(torch.float32)
    sealed, done = model.transform(SECRET)
    report = attack(model, sealed, done, base=model)
    value = {(f.attack, f.knows): f.value for f in report.findings}
    assert value["weight matching", BASE] >= 0.99
    assert value["weight matching", NO_BASE] < 0.03
    assert value["hidden-state inversion", BASE] > 0.8
    assert value["token frequency", "32768 tokens of public text"] > 0.8
    assert any(f.attack == "known plaintext" and f.value > 0.9 for f in report.findings)
    document = report.document()
    assert document["label"] == LABEL and "synthetic" in document["probes"]
    assert "100.0% of 300 tokens are known" in report.findings[0].says


def test_the_report_on_rows_and_images():
    for kind in ("mlp", "digits28"):
        model = network(kind, torch.float32)
        sealed, done = model.transform(SECRET)
        report = attack(model, sealed, done, base=model)
        value = {(f.attack, f.knows): f.value for f in report.findings}
        assert value["weight matching", BASE] >= 0.99
        assert value["weight matching", NO_BASE] < 0.2
        assert value["weight matching on inputs", BASE] > 0.99
        assert value["hidden-state inversion", BASE] > 0.5
        known = next(f for f in report.findings if f.attack == "known plaintext")
        assert known.value > 0.999
        shown = [f for f in report.findings if f.attack == "feature maps"]
        assert bool(shown) == (kind == "digits28")
        assert all(f.value > f.chance for f in shown)
    assert shown[0].value == pytest.approx(1, abs=1e-3)  # one channel: the node sees the image


def test_probes_of_the_owner():
    model = network("mlp")
    sample = rows(model, 300)
    probes = Probes.of(model.architecture.takes, sample)
    assert torch.equal(probes.observed, sample[::2]) and "300" in probes.source
    sealed, done = model.transform(SECRET)
    assert attack(model, sealed, done, base=model, probes=probes).probes == probes.source
    with pytest.raises(BadInput, match="too few"):
        Probes.of(model.architecture.takes, sample[:5])
    with pytest.raises(BadInput, match="rows"):
        Probes.of(model.architecture.takes, sample[:, :5])


def test_a_base_of_another_kind_is_refused():
    model = network("mlp")
    sealed, done = model.transform(SECRET)
    with pytest.raises(BadInput, match="base"):
        attack(model, sealed, done, base=network("logistic"))

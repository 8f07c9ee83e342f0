"""Answers that leave the key owner: their noise against its proof, and how many there may be."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm
from torch import nn

from secure.ckks.client import Client
from secure.ckks.compiler import compile_network
from secure.ckks.gaussian import discrete_gaussian
from secure.ckks.network import read
from secure.ckks.plan import Release
from secure.ckks.server import Server
from secure.errors import BadParameters, KeyRetired

ROW = np.full((1, 4), 0.5)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    network = read(nn.Linear(4, 2), (4,))
    return compile_network(network, 0.0, 1.0, tolerance=0.5, release=Release(answers=40))


def test_the_deviation_drowns_the_error():
    """Statistical distance of N(0, s^2) and N(e, s^2) in closed form, over all answers together."""
    for answers, outputs, bits in [(1, 1, 30), (128, 10, 30), (1000, 3, 40)]:
        error = 1e-6
        deviation = Release(answers, bits).deviation(error, outputs)
        shift = 1.25 * error * math.sqrt(outputs * answers)  # of one Gaussian in all directions
        distance = 2 * norm.cdf(shift / (2 * deviation)) - 1
        assert distance <= 2.0**-bits
        assert distance >= 2.0**-bits / 2  # and not a bit more noise than that


@pytest.mark.parametrize("deviation", [1, 2, 7])
def test_the_discrete_gaussian_has_the_chances_that_it_should(deviation):
    draws = np.array([discrete_gaussian(deviation) for _ in range(6000)])
    spots = np.arange(-4 * deviation, 4 * deviation + 1)
    chances = np.exp(-(spots**2) / (2 * deviation**2))
    chances /= np.exp(-(np.arange(-200, 201) ** 2) / (2 * deviation**2)).sum()
    counts = np.array([(draws == spot).sum() for spot in spots])
    kept = chances * 6000 > 10
    score = ((counts - 6000 * chances)[kept] ** 2 / (6000 * chances[kept])).sum()
    assert chi2.sf(score, kept.sum()) > 1e-6


def test_the_divergence_of_shifted_discrete_gaussians_is_the_one_used():
    spots = np.arange(-600, 601)
    for deviation, shift in [(3, 1), (20, 7)]:
        chances = np.exp(-(spots**2) / (2 * deviation**2))
        chances /= chances.sum()
        moved = np.exp(-((spots - shift) ** 2) / (2 * deviation**2))
        moved /= moved.sum()
        kept = (chances > 1e-300) & (moved > 1e-300)
        divergence = (chances[kept] * np.log(chances[kept] / moved[kept])).sum()
        assert divergence == pytest.approx(shift**2 / (2 * deviation**2), rel=1e-9)
        distance = np.abs(chances - moved).sum() / 2
        assert distance <= shift / (2 * deviation)


def test_released_answers_carry_the_stated_noise(compiled):
    plan = compiled.plan
    noise = plan.deviation * plan.grid
    assert noise == pytest.approx(plan.release.deviation(plan.error, 2), rel=1e-6)
    client, server = Client(plan), Server(compiled)
    server.register(client.keys())
    exact = compiled.network.plain(ROW)
    values = np.concatenate([client.release(server.answer(client.encrypt(ROW))) for _ in range(40)])
    # 80 draws; a right sampler fails once in a hundred thousand times.
    assert kstest(((values - exact) / noise).ravel(), "norm").pvalue > 1e-5
    steps = values / plan.grid
    np.testing.assert_array_equal(steps, np.rint(steps))
    answer = server.answer(client.encrypt(ROW))
    with pytest.raises(KeyRetired) as caught:
        client.release(answer)
    assert caught.value.exit_code == 3
    assert caught.value.allowed == 40
    # The owner itself may still look: nothing left.
    np.testing.assert_allclose(client.open(answer).values, exact, atol=plan.error)


def test_a_released_answer_cannot_be_asked_for_again(compiled):
    client, server = Client(compiled.plan), Server(compiled)
    server.register(client.keys())
    answer = server.answer(client.encrypt(ROW))
    client.release(answer)
    with pytest.raises(Exception, match="no open request"):
        client.release(answer)


def test_the_tolerance_holds_for_released_answers(compiled):
    assert compiled.plan.error + 7.2 * compiled.plan.deviation * compiled.plan.grid <= 0.5
    quiet = compile_network(compiled.network, 0.0, 1.0, tolerance=0.5)
    assert quiet.plan.ring <= compiled.plan.ring
    assert quiet.plan.deviation == 0


def test_a_plan_without_release_releases_nothing(compiled):
    quiet = compile_network(compiled.network, 0.0, 1.0)
    client, server = Client(quiet.plan), Server(quiet)
    server.register(client.keys())
    answer = server.answer(client.encrypt(ROW))
    with pytest.raises(BadParameters) as caught:
        client.release(answer)
    assert caught.value.field == "release"
    assert client.open(answer).values.shape == (1, 2)


@pytest.mark.parametrize("answers, bits", [(0, 30), (1.5, 30), (5, 29), (5, 65), (1 << 21, 30)])
def test_senseless_releases_are_refused(answers, bits):
    with pytest.raises(BadParameters):
        Release(answers, bits)


def test_a_release_needs_a_tolerance(compiled):
    with pytest.raises(BadParameters) as caught:
        compile_network(compiled.network, 0.0, 1.0, release=Release(10))
    assert caught.value.field == "tolerance"

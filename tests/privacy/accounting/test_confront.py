"""A Renyi price that is too low is found before a ledger writes it down."""

import numpy as np
import pytest

from privacy.accounting import rdp
from privacy.accounting.confront import confront
from privacy.errors import AccountantsDisagree
from privacy.events import (
    All,
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Laplace,
    Poisson,
    Relation,
    Repeat,
    SampledRows,
    Skellam,
)
from privacy.ledger.filters.renyi import Renyi

ADD = Relation.ADD_REMOVE
ACCOUNT = Renyi.opened("renyi", relation=ADD, epsilon=10.0, delta=1e-5, delta0=0.0)
ORDERS = tuple(ACCOUNT.parameters()["orders"] + ACCOUNT.parameters()["watched"])
STEP = Poisson(rate=0.1, of=Gaussian(sigma=2.0))
JOBS = [
    Repeat(times=200, of=STEP),
    Repeat(times=100, of=Gaussian(sigma=20.0)),
    All(of=(Repeat(times=50, of=STEP), DiscreteGaussian(sigma=20.0))),
    Repeat(times=30, of=Laplace(scale=20.0)),
    Repeat(times=20, of=Exchanged(of=STEP)),
    Repeat(times=50, of=SampledRows(rate=0.1, sigma=6.0, rows=4)),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: str(job.of)[:30])
def test_right_prices_pass_and_prices_that_are_much_too_low_do_not(job, monkeypatch):
    confront(job, ORDERS, ADD)
    true = rdp.rdp
    # An exchange is priced by a triangle inequality, far above what it costs.
    factor = 0.3 if isinstance(job.of, Exchanged) else 0.7
    monkeypatch.setattr(rdp, "rdp", lambda *asked: factor * true(*asked))
    with pytest.raises(AccountantsDisagree) as caught:
        confront(job, ORDERS, ADD)
    assert caught.value.exit_code == 4 and caught.value.field == "event"


def test_one_order_that_is_wrong_is_enough(monkeypatch):
    true = rdp.rdp

    def wrong(event, orders, relation):
        curve = true(event, orders, relation)
        curve[np.argmin(np.abs(np.asarray(orders) - 5.0))] *= 0.5
        return curve

    monkeypatch.setattr(rdp, "rdp", wrong)
    with pytest.raises(AccountantsDisagree):
        confront(JOBS[0], ORDERS, ADD)


@pytest.mark.parametrize(
    "event",
    [
        Repeat(times=0, of=STEP),
        Gaussian(sigma=0.001),  # an epsilon that says nothing
        Skellam(l1=10, l2_squared=10, variance=1e4),  # no distribution
    ],
)
def test_what_has_nothing_to_be_held_against_passes(event):
    confront(event, ORDERS, ADD)


def test_under_replace_too(monkeypatch):
    confront(Repeat(times=20, of=STEP), ORDERS, Relation.REPLACE)
    true = rdp.rdp
    halved = lambda event, orders, relation: true(event, orders, ADD)  # noqa: E731
    monkeypatch.setattr(rdp, "rdp", halved)
    with pytest.raises(AccountantsDisagree):
        confront(Repeat(times=20, of=STEP), ORDERS, Relation.REPLACE)

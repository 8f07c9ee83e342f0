"""Basic composition over whole jobs: nothing that is run is free."""

import pytest

from privacy.errors import Refused
from privacy.events import NOTHING, All, Approximate, Gaussian, Repeat


@pytest.mark.parametrize(
    "event", [Approximate(epsilon=0.0, delta=1e-6), Gaussian(sigma=5e4), Gaussian(sigma=1e6)]
)
def test_a_job_of_epsilon_nought_takes_its_share_of_delta(place, event):
    ledger = place.create()
    ledger.open_account(place.terms(filter="basic", epsilon=1.0, delta=1e-5))
    place.reserve(ledger, events={place.account: event}, releases={})
    assert ledger.account("heart", "record").used > 0
    ledger.close()


def test_their_deltas_add_up_and_the_last_one_is_refused(place):
    ledger = place.create()
    ledger.open_account(place.terms(filter="basic", epsilon=1.0, delta=1e-5))
    event = {place.account: Approximate(epsilon=0.0, delta=3e-6)}
    for number in range(3):
        place.reserve(ledger, f"job-{number}", events=event, releases={})
    with pytest.raises(Refused):
        place.reserve(ledger, "job-3", events=event, releases={})
    ledger.close()


@pytest.mark.parametrize("event", [NOTHING, Repeat(times=0, of=Gaussian(sigma=1.0)), All(of=())])
def test_what_is_never_run_is_free(place, event):
    ledger = place.create()
    ledger.open_account(place.terms(filter="basic"))
    place.reserve(ledger, events={place.account: event}, releases={})
    assert ledger.account("heart", "record").used == 0
    ledger.close()

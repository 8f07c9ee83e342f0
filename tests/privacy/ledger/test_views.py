"""What is shown of an account agrees with what its filter would say."""

import pytest

from privacy.errors import Refused
from privacy.events import Gaussian


def test_an_account_that_holds_nothing_at_a_lowered_capacity_has_nothing_left(place):
    """Its orders stay those of its opening, and none of them converts so small a claim."""
    ledger = place.create()
    ledger.open_account(place.terms(epsilon=10.0))
    assert ledger.account("heart", "record").remaining_epsilon == 10.0
    ledger.set_capacity(place.account, 3.0, "a test")
    lowered = ledger.account("heart", "record")
    assert (lowered.remaining_epsilon, lowered.status) == (0.0, "exhausted")
    assert not ledger.would_admit(place.account, Gaussian(sigma=50.0)).admissible
    with pytest.raises(Refused):
        place.reserve(ledger, releases={})
    ledger.close()

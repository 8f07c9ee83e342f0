"""The privacy ledger: durable charges, a proven filter, a chain that shows what was changed."""

from privacy.ledger.chain import Entry, Head, Receipt
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.ledger import Ledger
from privacy.ledger.signing import Signer, Verifier
from privacy.ledger.states import ChargeState, State, Stop
from privacy.ledger.terms import AccountTerms
from privacy.ledger.verify import Verification
from privacy.ledger.views import Account, Admission, Spend

__all__ = [
    "Account",
    "AccountTerms",
    "Admission",
    "Charge",
    "ChargeState",
    "Entry",
    "Head",
    "Ledger",
    "Receipt",
    "Signer",
    "Spend",
    "State",
    "Stop",
    "Verification",
    "Verifier",
]

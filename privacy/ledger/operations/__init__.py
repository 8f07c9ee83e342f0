"""What each operation decides: a look at the books, a body for the next entry, or an error.

Nothing here writes; `privacy.ledger.ledger` seals the body and applies it. An operation that was
done already, with the same content, answers with the number of the entry that did it.
"""

from privacy.ledger.states import Stop

__all__ = ["Stop"]

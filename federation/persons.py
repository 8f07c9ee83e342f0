"""The persons whom a silo's policy enrols, each by a name and a public key of their own."""

from __future__ import annotations

from federation.errors import BadInput
from federation.membership import Terms
from federation.policy import Policy


class Persons:
    """Who may sign for a silo, as its policy says now."""

    def __init__(self, silo: str, policy: Policy, terms: Terms) -> None:
        """Raise `BadInput` where the policy enrols the key of a party of the federation.

        Who submits a job does not approve it.
        """
        parties = {terms.coordinator, *terms.silos.values()}
        for name, key in sorted(policy.approvers.items()):
            if key in parties:
                raise BadInput(
                    f"silo {silo}: policy.approvers: {name} has the key of a party of this "
                    "federation; who submits a job does not approve it",
                    field="policy.approvers",
                    value=name,
                    allowed="keys of persons",
                )
        self._silo = silo
        self.names = {key: name for name, key in policy.approvers.items()}
        """By public key."""

    def name(self, public: str) -> str:
        """Whose key this is; `BadInput` where the policy does not enrol it."""
        if public not in self.names:
            raise BadInput(
                f"silo {self._silo}: nobody is enrolled by this key; policy.approvers names who "
                "approves, each by a key of their own (`tacit job key FILE` makes one)",
                field="key",
                value=public,
                allowed=sorted(self.names.values()),
            )
        return self.names[public]

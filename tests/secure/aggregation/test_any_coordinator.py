"""Silos under any schedule: lists, deliveries and signatures of the coordinator's choice, restarts.

The coordinator holds what the silos sent and builds any list from it, for any silo, in any order,
again and again. Silos answer or refuse. Whatever it does, each silo says one thing per step, and
nobody's seed and mask key are both opened, not even one share of each.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests_silos import KEYS, facts, vectors

from secure.aggregation.messages import (
    Consents,
    Delivery,
    EncryptedShares,
    Opened,
    Roster,
    Shares,
    Survivors,
)
from secure.aggregation.packing import pack, unpack
from secure.aggregation.participant import STEPS, Participant
from secure.errors import SecureError

FACTS = facts(5)
NAMES = list(FACTS.members)
INPUTS = vectors(FACTS)
SUBSETS = st.lists(st.sampled_from(NAMES), min_size=3, max_size=5, unique=True).map(sorted)
# Mostly the whole lists, so that rounds get far enough to be attacked late.
LISTS = st.one_of(st.just(NAMES), st.just(NAMES), st.just(NAMES[:4]), SUBSETS)
ACTIONS = st.tuples(st.sampled_from(NAMES), LISTS, st.integers(0, 9))


class Coordinator:
    """It keeps all that was ever sent, and sends what it likes."""

    def __init__(self) -> None:
        self.silos = {name: Participant(FACTS, name, KEYS[name]) for name in NAMES}
        self.said: dict[tuple[str, str], set[bytes]] = {}
        self.opened: dict[str, set[str]] = {}

    def last(self, name: str, step: str) -> bytes | None:
        said = self.said.get((name, step))
        return next(iter(said)) if said else None

    def ask(self, name: str, step: str, listed: list[str]) -> None:
        silo = self.silos[name]
        try:
            packed = self.answer(silo, name, step, listed)
        except SecureError:
            return
        self.said.setdefault((name, step), set()).add(packed)
        if step == "unmask":
            message = unpack(FACTS, Opened, packed)
            for kind, shares in (("seed", message.seeds), ("key", message.keys)):
                for owner in shares:
                    self.opened.setdefault(owner, set()).add(kind)

    def answer(self, silo: Participant, name: str, step: str, listed: list[str]) -> bytes:
        if step == "advertise":
            return silo.advertise()
        if step == "share_keys":
            adverts = [self.last(other, "advertise") for other in listed]
            return silo.share_keys(pack(FACTS, Roster([a for a in adverts if a])))
        if step == "mask":
            parts = []
            for other in listed:
                shares = self.last(other, "share_keys")
                for part in unpack(FACTS, Shares, shares).sealed if shares else []:
                    if unpack(FACTS, EncryptedShares, part).receiver == name != other:
                        parts.append(part)
            return silo.mask(pack(FACTS, Delivery(name, parts)), INPUTS[name])
        if step == "consent":
            return silo.consent(pack(FACTS, Survivors(listed)))
        consents = [self.last(other, "consent") for other in listed]
        return silo.unmask(pack(FACTS, Consents([c for c in consents if c])))

    def restart(self, name: str) -> None:
        state = self.silos[name].state()
        self.silos[name] = Participant.from_state(state, FACTS, name, KEYS[name])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(ACTIONS, max_size=12), min_size=5, max_size=5))
def test_no_schedule_makes_a_silo_say_two_things_or_open_both(phases):
    coordinator = Coordinator()
    for step, actions in zip(STEPS, phases, strict=True):
        for name, listed, what in actions:
            if what == 0:
                coordinator.restart(name)
            asked = STEPS[what % 5] if what > 7 else step  # now and then another step
            coordinator.ask(name, asked, listed)
        for name in NAMES[1:]:  # all but the first go on, or the round would seldom last
            coordinator.ask(name, step, NAMES)
    assert all(len(said) == 1 for said in coordinator.said.values())
    assert all(len(kinds) == 1 for kinds in coordinator.opened.values())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_lists_of_survivors_in_any_split_open_both(data):
    coordinator = Coordinator()
    for step in STEPS[:3]:
        for name in NAMES:
            coordinator.ask(name, step, NAMES)
    assert all((name, "mask") in coordinator.said for name in NAMES)
    for _ in range(2):
        for name in data.draw(st.permutations(NAMES)):
            coordinator.ask(name, "consent", data.draw(LISTS))
            if data.draw(st.booleans()):
                coordinator.restart(name)
    for _ in range(3):
        for name in NAMES:
            coordinator.ask(name, "unmask", data.draw(LISTS))
    assert all(len(said) == 1 for said in coordinator.said.values())
    assert all(len(kinds) == 1 for kinds in coordinator.opened.values())

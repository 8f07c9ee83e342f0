"""The public facts of a round: what is refused before anything is drawn."""

import pytest
from tests_silos import KEYS, facts

from secure.errors import BadParameters, SecureError, TooFewSilos


@pytest.mark.parametrize(("n", "t"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (64, 43)])
def test_the_threshold_is_more_than_two_thirds(n, t):
    assert facts(n).threshold == t
    assert 3 * t > 2 * n >= 3 * (t - 1)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_members_are_refused(n):
    with pytest.raises(TooFewSilos, match="hides nothing"):
        facts(n, members={name: KEYS[name].public for name in list(KEYS)[:n]})


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": ""},
        {"federation": "a/b"},
        {"job": "x" * 129},
        {"job": "\ud800"},
        {"job": 5},
        {"number": -1},
        {"number": True},
        {"number": 1.0},
        {"length": 0},
        {"length": (1 << 26) + 1},
        {"bits": 16},
        {"bound": 0},
        {"bound": (1 << 31) // 3 + 1},
        {"members": {f"m{i}": KEYS[f"silo-{i:02}"].public for i in range(65)}},
        {"members": dict.fromkeys(("a", "b", "c"), KEYS["silo-00"].public)},
        {"members": {"a": "x", "b": "y", "c": "z"}},
        {"members": {name: KEYS[name].public.upper() for name in list(KEYS)[:3]}},
        {"members": {"": "00" * 32, "b": "11" * 32, "c": "22" * 32}},
    ],
)
def test_senseless_facts_are_refused(changes):
    with pytest.raises(BadParameters) as caught:
        facts(3, **changes)
    assert (caught.value.code, caught.value.exit_code) == ("SECURE-006", 2)


def test_the_digest_binds_every_fact_and_no_order():
    here = facts(3)
    assert here.digest == facts(3, members=dict(reversed(list(here.members.items())))).digest
    other_keys = dict(here.members) | {"silo-01": KEYS["silo-09"].public}
    others = [
        facts(4),
        facts(3, federation="x"),
        facts(3, job="x"),
        facts(3, number=1),
        facts(3, length=6),
        facts(3, bits=64),
        facts(3, bound=1001),
        facts(3, members=other_keys),
    ]
    assert len({here.digest, *(other.digest for other in others)}) == 9


def test_a_round_has_one_key_whoever_is_in_it():
    assert facts(3).key == facts(5, length=9).key == "fed/job/0"


def test_members_cannot_be_changed_afterwards():
    with pytest.raises(TypeError):
        facts(3).members["eve"] = "00" * 32


def test_every_error_is_of_the_secure_tree():
    for kind in (BadParameters, TooFewSilos):
        assert issubclass(kind, SecureError)

"""Owner, node and data silo: who can do what, with bytes between them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgpack
import pytest
import torch
from tests_models import NETWORKS, decoder, encoder, network, rows, tokens

from secure.equivariant import LABEL, Node, Owner, SealingKey, Silo
from secure.equivariant.errors import BadInput, SameParty, StaleKey
from secure.errors import BadMessage, BadSignature, SecureError
from secure.exchange.sealing import unseal
from secure.keys import SigningKey

OWNER, NODE, SILO, OTHER = (SigningKey(letter * 32) for letter in (b"o", b"n", b"s", b"x"))
KEY = SealingKey(b"k" * 32)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


class Parties:
    """A sealed model at its three parties."""

    def __init__(self, model, key=KEY, **options):
        self.model, self.clock = model, Clock()
        owner = Owner(OWNER, self.clock)
        self.sealing = owner.seal(model, key, node=NODE.public, silo=SILO.public, **options)
        self.node = Node(self.sealing.node, me=NODE.public, owner=OWNER.public, clock=self.clock)
        self.silo = Silo(self.sealing.silo, SILO, owner=OWNER.public, clock=self.clock)

    def ask(self, inputs):
        return self.silo.open(self.node.run(self.silo.seal(inputs)))


@pytest.fixture(scope="module")
def words():
    return Parties(decoder())


@pytest.fixture(scope="module")
def table():
    return Parties(network("mlp"))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_asked_and_answers(kind):
    parties = Parties(network(kind))
    x = {"rows": rows(parties.model, 40)}
    expected = parties.model.run(x)
    assert torch.allclose(parties.ask(x), expected, rtol=0, atol=1e-10 * expected.abs().max())


def test_transformers_are_asked_and_answer(words):
    for parties in (words, Parties(encoder())):
        ids = tokens(parties.model, 3, 11)
        inputs = {"tokens": ids}
        if parties is not words:
            inputs |= {"mask": torch.arange(11).expand(3, 11) < 8, "types": torch.zeros_like(ids)}
        expected = parties.model.run(inputs)
        found = parties.ask(inputs)
        assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_every_part_says_what_it_is(words):
    sealing = words.sealing
    assert LABEL == "obfuscation, not encryption"
    assert sealing.report.document()["label"] == LABEL
    assert sealing.manifest["protection"] == LABEL
    assert words.node.manifest.protection == words.silo.manifest.protection == LABEL
    undone_by = " ".join(sealing.report.undone_by)
    for who in ("owner together with the node", "silo together with the node", "base model"):
        assert who in undone_by


def test_the_manifest_tells_the_owner_all_and_the_node_little(words):
    manifest = words.sealing.manifest
    assert manifest["base"] == words.model.digest
    assert manifest["sealed"] == words.node.model.digest
    assert {b["at"] for b in manifest["boundaries"]} >= {"tokens", "residual", "layers.2.planes"}
    assert (manifest["node"], manifest["silo"]) == (NODE.public, SILO.public)
    # Neither the base model, nor the key, nor the silo is named to the node.
    for told in (words.model.digest, SILO.public):
        assert told.encode() not in words.sealing.node
    assert words.sealing.key.secret not in words.sealing.node
    # The silo's keys are for the silo alone, and hold no weight and no description.
    with pytest.raises(BadMessage):
        unseal(NODE, words.sealing.silo)
    opened = unseal(SILO, words.sealing.silo)
    assert words.model.digest.encode() not in opened and b"residual" not in opened
    assert words.sealing.key.secret not in opened and len(opened) < 300 * 16 * 2 + 2000


def test_the_same_party_twice_is_refused():
    owner, model = Owner(OWNER), network("logistic")
    for node, silo, named in (
        (OWNER.public, SILO.public, "owner"),
        (NODE.public, NODE.public, "silo"),
    ):
        with pytest.raises(SameParty, match=named) as caught:
            owner.seal(model, KEY, node=node, silo=silo)
        assert (caught.value.exit_code, caught.value.field) == (3, "node")
    # An owner that has data of its own may ask a node about them.
    owner.seal(model, KEY, node=NODE.public, silo=OWNER.public)


@pytest.mark.parametrize("bad", ["", "abc", "g" * 64, "A" * 64])
def test_what_is_no_public_key_is_refused(bad):
    for names in ({"node": bad, "silo": SILO.public}, {"node": NODE.public, "silo": bad}):
        with pytest.raises(BadInput, match="not a public key"):
            Owner(OWNER).seal(network("logistic"), KEY, **names)


def test_each_node_has_a_sealing_of_its_own():
    model = network("mlp")
    one, other = (
        Owner(OWNER, Clock()).seal(model, KEY, node=node, silo=SILO.public)
        for node in (NODE.public, OTHER.public)
    )
    for name, tensor in Node(one.node, me=NODE.public, owner=OWNER.public).model.weights.items():
        at_other = Node(other.node, me=OTHER.public, owner=OWNER.public).model.weights[name]
        assert not torch.allclose(tensor, at_other, rtol=0.1), name
    again = Owner(OWNER, Clock()).seal(model, KEY, node=NODE.public, silo=SILO.public)
    assert again.node == one.node  # all of it follows from the key


def test_what_is_for_another_party_or_by_another_owner_is_refused(table):
    with pytest.raises(BadMessage, match="another party"):
        Node(table.sealing.node, me=OTHER.public, owner=OWNER.public)
    with pytest.raises(BadSignature):
        Node(table.sealing.node, me=NODE.public, owner=OTHER.public)
    with pytest.raises(BadMessage):
        Silo(table.sealing.silo, OTHER, owner=OWNER.public)
    with pytest.raises(BadSignature):
        Silo(table.sealing.silo, SILO, owner=OTHER.public)


def test_a_stale_key_is_refused(table):
    x = {"rows": rows(table.model, 2)}
    other = Parties(table.model, SealingKey(b"z" * 32))
    with pytest.raises(StaleKey, match="another sealing") as caught:
        other.node.run(table.silo.seal(x))
    assert caught.value.exit_code == 4
    with pytest.raises(StaleKey, match="another sealing"):
        other.silo.open(table.node.run(table.silo.seal(x)))
    dated = Parties(table.model, days=3)
    sealed = dated.silo.seal(x)
    dated.clock.now = START + timedelta(days=3)
    for ask in (lambda: dated.node.run(sealed), lambda: dated.silo.seal(x)):
        with pytest.raises(StaleKey, match="expired on 2026-01-04"):
            ask()
    for days in (0, 10**6):
        with pytest.raises(BadInput, match="days"):
            Parties(table.model, days=days)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "tokens"),
        ({"rows": torch.ones(1, 3)}, "rows"),
        ({"tokens": torch.zeros(2, 3, dtype=torch.int64), "mask": torch.ones(2, 3)}, "mask"),
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, "tokens"),
        ({"tokens": torch.zeros(1, 65, dtype=torch.int64)}, "tokens"),
        ({"tokens": torch.zeros(1, 0, dtype=torch.int64)}, "tokens"),
        ({"tokens": torch.zeros(1, 3)}, "tokens"),
        ({"tokens": torch.full((1, 3), 300)}, "tokens"),
        ({"tokens": torch.full((1, 3), -1)}, "tokens"),
    ],
)
def test_tokens_that_the_model_cannot_take_are_refused(words, inputs, field):
    with pytest.raises(BadInput) as caught:
        words.silo.seal(inputs)
    assert (caught.value.field, caught.value.exit_code) == (field, 2)
    with pytest.raises(BadInput):
        words.model.run(inputs)


@pytest.mark.parametrize(
    "bad",
    [
        torch.ones(30),
        torch.ones(2, 29),
        torch.ones(2, 30, dtype=torch.int64),
        torch.full((2, 30), torch.nan),
        torch.full((2, 30), torch.inf),
    ],
    ids=str,
)
def test_rows_that_the_model_cannot_take_are_refused(table, bad):
    with pytest.raises(BadInput) as caught:
        table.silo.seal({"rows": bad})
    assert caught.value.field == "rows" and "nan" not in caught.value.message


def test_an_encoders_inputs_must_fit_one_another():
    parties = Parties(encoder())
    ids = tokens(parties.model, 2, 5)
    for inputs, field in (
        ({"tokens": ids, "mask": torch.ones(2, 4, dtype=torch.bool)}, "mask"),
        ({"tokens": ids, "mask": torch.zeros(2, 5, dtype=torch.bool)}, "mask"),
        ({"tokens": ids, "types": torch.full((2, 5), 2)}, "types"),
    ):
        with pytest.raises(BadInput) as caught:
            parties.silo.seal(inputs)
        assert caught.value.field == field


def test_the_wrong_key_is_at_chance(words):
    """Opened with another sealing's answer key, a class is right as often as by chance."""
    ids = tokens(words.model, 20, 50)
    plain = words.model.run({"tokens": ids}).argmax(-1)
    sealed = words.node.model.run(words.silo.takes.sealed({"tokens": ids}, words.silo._input))
    other = Parties(words.model, SealingKey(b"w" * 32)).silo
    right = words.silo._output.inverted().apply(sealed).argmax(-1)
    wrong = other._output.inverted().apply(sealed).argmax(-1)
    assert torch.equal(right, plain)
    # A word is right where two random permutations agree: one word on average, and ten or more
    # once in ten million pairs of keys.
    assert int((words.silo._output.order == other._output.order).sum()) < 10
    assert len(plain[wrong == plain].unique()) < 10 and len(plain.unique()) > 100
    assert not torch.equal(wrong, plain)


@pytest.mark.parametrize("party", ["node", "silo", "input", "answer"])
def test_damaged_bytes_are_refused(table, party):
    x = {"rows": rows(table.model, 2)}
    sealed = table.silo.seal(x)
    whole, use = {
        "node": (
            table.sealing.node,
            lambda b: Node(b, me=NODE.public, owner=OWNER.public),
        ),
        "silo": (table.sealing.silo, lambda b: Silo(b, SILO, owner=OWNER.public)),
        "input": (sealed, table.node.run),
        "answer": (table.node.run(sealed), table.silo.open),
    }[party]
    use(whole)
    chance = torch.Generator().manual_seed(2)
    places = torch.randint(len(whole), (60,), generator=chance).tolist()
    for place in places:
        with pytest.raises(SecureError):
            use(whole[:place])
        with pytest.raises(SecureError):
            use(whole[:place] + b"\x00" + whole[place:])
    for place in places if party in ("node", "silo") else ():
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(SecureError):
            use(flipped)


def test_a_message_has_one_encoding_and_no_more_fields(table):
    sealed = table.silo.seal({"rows": rows(table.model, 2)})
    content = msgpack.unpackb(sealed)
    assert msgpack.packb(content) == sealed
    for other in (
        dict(reversed(content.items())),
        content | {"more": 1},
        {name: content[name] for name in ("type", "sealing")},
        content | {"tensors": content["tensors"].hex()},
        content | {"type": "tacit sealed answer 1"},
        list(content),
    ):
        with pytest.raises(BadMessage, match="sealed input"):
            table.node.run(msgpack.packb(other))


def test_an_answer_of_another_shape_or_kind_is_refused(table):
    from secure.equivariant import wire

    def answer(**tensors):
        return wire.pack(
            "sealed answer",
            sealing=table.node.manifest.sealing,
            tensors=wire.pack_tensors(tensors),
        )

    assert table.silo.open(answer(answer=torch.ones(2, 5))).shape == (2, 5)
    for tensors in (
        {},
        {"answer": torch.ones(2, 6)},
        {"answer": torch.ones(5)},
        {"answer": torch.ones(2, 5, dtype=torch.int64)},
        {"answer": torch.ones(2, 5), "more": torch.ones(1)},
    ):
        with pytest.raises(BadMessage, match="answer"):
            table.silo.open(answer(**tensors))
    with pytest.raises(BadMessage):
        table.silo.open(table.silo.seal({"rows": rows(table.model, 1)}))

"""A hostile silo: it is refused and named, or it stops the round; it opens nothing."""

import dataclasses

import numpy as np
import pytest
from tests_silos import KEYS, Play, facts

from secure.aggregation import masks
from secure.aggregation.messages import Advertise, Delivery, EncryptedShares, Opened, Roster, Shares
from secure.aggregation.packing import pack, signed, unpack
from secure.aggregation.participant import _bound
from secure.aggregation.shamir import PRIME, SHARE, split
from secure.errors import BadMessage, BadSignature, RoundRefused, TooFewSilos


def changed(play, packed, kind, **fields):
    """The same message with other fields, not signed again."""
    return pack(play.facts, dataclasses.replace(unpack(play.facts, kind, packed), **fields))


def test_a_message_of_another_silo_is_refused():
    play = Play(facts(4))
    advert = play.silos["silo-01"].advertise()
    with pytest.raises(BadMessage, match="silo-00 sent a message of silo-01"):
        play.server.receive("silo-00", advert)
    with pytest.raises(RoundRefused):
        play.server.receive("eve", advert)


def test_an_advert_under_another_identity_key_is_refused():
    play = Play(facts(4))
    advert = Advertise("silo-00", bytes([1]) * 32, bytes([2]) * 32)
    packed = pack(play.facts, signed(play.facts, advert, KEYS["silo-05"]))
    with pytest.raises(BadSignature):
        play.server.receive("silo-00", packed)


@pytest.mark.parametrize("keys", [(bytes(32), bytes([2]) * 32), (bytes([2]) * 32, bytes(32))])
def test_an_advert_with_a_key_of_small_order_is_refused(keys):
    play = Play(facts(4))
    packed = pack(play.facts, signed(play.facts, Advertise("silo-00", *keys), KEYS["silo-00"]))
    with pytest.raises(BadMessage, match="nothing secret"):
        play.server.receive("silo-00", packed)


def test_a_peer_key_of_small_order_leaves_a_silo_as_it_was():
    # A coordinator that helps such a silo passes its advert on.
    play = Play(facts(4)).until(1)
    of, silo = play.facts, play.silos["silo-00"]
    adverts = unpack(of, Roster, play.mail["silo-00"]).adverts
    weak = Advertise("silo-01", bytes([2]) * 32, bytes(32))
    adverts[1] = pack(of, signed(of, weak, KEYS["silo-01"]))
    before = silo.state()
    with pytest.raises(BadMessage, match="nothing secret"):
        silo.share_keys(pack(of, Roster(adverts)))
    assert silo.state() == before


def test_a_second_advert_is_refused():
    play = Play(facts(4))
    play.server.receive("silo-00", play.silos["silo-00"].advertise())
    advert = Advertise("silo-00", bytes([1]) * 32, bytes([2]) * 32)
    with pytest.raises(RoundRefused, match="otherwise"):
        play.server.receive(
            "silo-00", pack(play.facts, signed(play.facts, advert, KEYS["silo-00"]))
        )


def test_shares_must_be_one_for_each_silo_and_signed_by_their_sender():
    play = Play(facts(4)).until(1)
    packed = play.answer("silo-00")
    parts = unpack(play.facts, Shares, packed).sealed
    others = unpack(play.facts, Shares, play.answer("silo-01")).sealed
    unsigned = changed(play, parts[1], EncryptedShares, seed_commitment=bytes(32))
    for sealed, error, text in (
        (parts[:3], BadMessage, "one for each"),
        ([*parts[:3], parts[2]], BadMessage, "one for each"),
        ([parts[1], parts[0], *parts[2:]], BadMessage, "one for each"),
        (others, BadMessage, "a message of silo-01"),
        ([parts[0], unsigned, *parts[2:]], BadSignature, "does not agree"),
    ):
        with pytest.raises(error, match=text):
            play.server.receive("silo-00", pack(play.facts, Shares("silo-00", sealed)))
    play.until(5)
    np.testing.assert_array_equal(play.server.total(), play.plain())


def resigned(play, part, **fields):
    shares = dataclasses.replace(unpack(play.facts, EncryptedShares, part), **fields)
    return pack(play.facts, signed(play.facts, shares, KEYS[shares.sender]))


def test_a_share_that_is_not_the_committed_one_names_its_maker():
    play = Play(facts(4)).until(2)
    mail = unpack(play.facts, Delivery, play.mail["silo-00"])
    for fields in ({"seed_commitment": bytes(32)}, {"key_commitment": bytes(32)}):
        parts = [resigned(play, mail.sealed[0], **fields), *mail.sealed[1:]]
        with pytest.raises(BadMessage, match="a share of silo-01 is not the one"):
            play.silos["silo-00"].mask(
                pack(play.facts, Delivery("silo-00", parts)), play.inputs["silo-00"]
            )


def test_a_share_made_for_another_silo_does_not_open():
    play = Play(facts(4)).until(2)
    mail = unpack(play.facts, Delivery, play.mail["silo-00"])
    for_two = unpack(play.facts, Delivery, play.mail["silo-02"]).sealed
    sealed = next(
        shares.sealed
        for shares in (unpack(play.facts, EncryptedShares, part) for part in for_two)
        if shares.sender == "silo-01"
    )
    parts = [resigned(play, mail.sealed[0], sealed=sealed), *mail.sealed[1:]]
    with pytest.raises(BadMessage, match="does not open"):
        play.silos["silo-00"].mask(
            pack(play.facts, Delivery("silo-00", parts)), play.inputs["silo-00"]
        )


def forged(share):
    return ((int.from_bytes(share, "big") + 1) % PRIME).to_bytes(SHARE, "big")


@pytest.mark.parametrize("kind", ["seeds", "keys"])
def test_a_forged_share_is_refused_and_the_others_suffice(kind):
    play = Play(facts(6)).until(2).until(4, {2: ["silo-05"], 3: ["silo-05"]})
    for name in list(play.mail):
        packed = play.answer(name)
        opened = unpack(play.facts, Opened, packed)
        shares = dict(getattr(opened, kind))
        owner = next(iter(shares))
        shares[owner] = forged(shares[owner])
        bad = changed(play, packed, Opened, **{kind: shares})
        with pytest.raises(BadMessage, match=f"{name} opens a share of {owner}") as caught:
            play.server.receive(name, bad)
        assert shares[owner].hex() not in str(caught.value)
        assert name in play.server.waiting()
        play.server.receive(name, packed)
    play.server.advance()
    np.testing.assert_array_equal(play.server.total(), play.plain())


def test_forgers_beyond_the_threshold_stop_the_round():
    play = Play(facts(4)).until(4)
    for name in ("silo-00", "silo-01"):
        packed = play.answer(name)
        seeds = {k: forged(v) for k, v in unpack(play.facts, Opened, packed).seeds.items()}
        with pytest.raises(BadMessage):
            play.server.receive(name, changed(play, packed, Opened, seeds=seeds))
    for name in ("silo-02", "silo-03"):
        play.server.receive(name, play.answer(name))
    with pytest.raises(TooFewSilos):
        play.server.advance()


def test_opening_more_or_fewer_shares_than_asked_is_refused():
    play = Play(facts(5)).until(2).until(4, {2: ["silo-04"], 3: ["silo-04"]})
    packed = play.answer("silo-00")
    opened = unpack(play.facts, Opened, packed)
    fewer = {name: share for name, share in opened.seeds.items() if name != "silo-01"}
    more = {**opened.keys, "silo-04": bytes(33)}
    for fields in (
        {"seeds": fewer},
        {"keys": {}},
        {"seeds": {**opened.seeds, "silo-04": bytes(33)}},
        {"keys": {"silo-01": bytes(33), **more}},
    ):
        with pytest.raises(BadMessage, match="other silos"):
            play.server.receive("silo-00", changed(play, packed, Opened, **fields))


def test_a_drop_out_that_shared_another_key_is_named():
    play = Play(facts(5)).until(1)
    of, liar = play.facts, "silo-04"
    packed = play.answer(liar)
    other = split(bytes([5]) * 32, of.threshold, 5)
    secret = play.silos[liar]._state.share_secret
    parts = []
    for part in unpack(of, Shares, packed).sealed:
        shares = unpack(of, EncryptedShares, part)
        at = shares.receiver
        fields = {"key_commitment": masks.commit(of, "key", liar, at, other[of.place(at) - 1])}
        if at != liar:
            public = play.silos[liar]._state.peers[at][1]
            key = masks.derive(of, "shares", masks.agree(secret, public), liar, at)
            bound = _bound(of, liar, at)
            seed = masks.open_shares(key, shares.sealed, bound)[:SHARE]
            fields["sealed"] = masks.seal_shares(key, seed + other[of.place(at) - 1], bound)
        parts.append(resigned(play, part, **fields))
    play.server.receive(liar, pack(of, Shares(liar, parts)))
    for name in list(play.mail):
        if name != liar:
            play.server.receive(name, play.answer(name))
    play.mail = play.server.advance()
    play.until(5, {phase: [liar] for phase in (2, 3, 4)})
    with pytest.raises(BadMessage, match="silo-04 shared another key"):
        play.server.total()

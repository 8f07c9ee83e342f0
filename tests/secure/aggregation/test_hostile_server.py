"""A hostile coordinator: whatever it sends, a silo opens one secret per silo over one list."""

import dataclasses
import itertools

import msgpack
import numpy as np
import pytest
from tests_silos import KEYS, Play, facts

from secure.aggregation.messages import (
    Advertise,
    Consent,
    Consents,
    Delivery,
    EncryptedShares,
    Opened,
    Roster,
    Shares,
    Survivors,
    lists_digest,
)
from secure.aggregation.packing import pack, signed, unpack
from secure.aggregation.participant import Participant
from secure.errors import BadMessage, BadSignature, RoundRefused, SecureError, TooFewSilos

NAMES = [f"silo-{i:02}" for i in range(7)]


def consents(play, survivors, signers, shared=None):
    """Consents that these silos sign with their own keys."""
    lists = lists_digest(play.facts, shared or play.facts.members, survivors)
    return pack(
        play.facts,
        Consents(
            [
                pack(play.facts, signed(play.facts, Consent(name, lists), KEYS[name]))
                for name in signers
            ]
        ),
    )


def test_a_second_list_of_survivors_is_refused():
    play = Play(facts(4)).until(3)
    silo = play.silos["silo-00"]
    first, second = (pack(play.facts, Survivors(NAMES[:k])) for k in (4, 3))
    signature = silo.consent(first)
    assert silo.consent(first) == signature
    with pytest.raises(RoundRefused, match="answers once") as caught:
        silo.consent(second)
    assert caught.value.code == "SECURE-008"


@pytest.mark.parametrize("n", [3, 4, 7])
def test_a_list_with_too_few_survivors_is_not_signed(n):
    play = Play(facts(n)).until(3)
    few = pack(play.facts, Survivors(NAMES[: play.facts.threshold - 1]))
    with pytest.raises(TooFewSilos):
        play.silos["silo-00"].consent(few)


def test_a_list_without_the_silo_is_not_signed():
    play = Play(facts(5)).until(3)
    with pytest.raises(BadMessage, match="lack this silo"):
        play.silos["silo-00"].consent(pack(play.facts, Survivors(NAMES[1:5])))


def test_a_list_with_a_silo_that_did_not_share_is_not_signed():
    play = Play(facts(5)).until(2, {0: ["silo-04"], 1: ["silo-04"]}).until(3, {2: ["silo-04"]})
    with pytest.raises(BadMessage, match="whose shares it does not have"):
        play.silos["silo-00"].consent(pack(play.facts, Survivors(NAMES[:5])))


def test_a_forged_signature_opens_nothing():
    play = Play(facts(4)).until(4)
    silo = play.silos["silo-00"]
    lists = lists_digest(play.facts, NAMES[:4], NAMES[:4])
    good = [
        pack(play.facts, signed(play.facts, Consent(name, lists), KEYS[name])) for name in NAMES[:2]
    ]
    forged = pack(play.facts, signed(play.facts, Consent("silo-02", lists), KEYS["silo-05"]))
    with pytest.raises(BadSignature):
        silo.unmask(pack(play.facts, Consents([*good, forged])))


def test_too_few_repeated_or_foreign_signatures_open_nothing():
    play = Play(facts(7)).until(3).until(4, {3: ["silo-06"]})
    silo, all_seven = play.silos["silo-00"], NAMES
    with pytest.raises(TooFewSilos):
        silo.unmask(consents(play, all_seven, NAMES[:4]))
    with pytest.raises(BadSignature, match="twice"):
        silo.unmask(consents(play, all_seven, ["silo-00"] * 5))
    with pytest.raises(TooFewSilos):
        silo.unmask(consents(play, all_seven, []))


def test_signatures_over_another_list_open_nothing():
    play = Play(facts(4)).until(4)
    silo = play.silos["silo-00"]
    with pytest.raises(RoundRefused, match="same lists"):
        silo.unmask(consents(play, NAMES[:3], NAMES[:3]))
    with pytest.raises(RoundRefused, match="same lists"):
        silo.unmask(consents(play, NAMES[:4], NAMES[:4], shared=NAMES[:3]))


def test_a_signature_of_a_drop_out_does_not_count():
    play = Play(facts(5)).until(2).until(4, {2: ["silo-04"], 3: ["silo-04"]})
    with pytest.raises(BadSignature, match="no survivor"):
        play.silos["silo-00"].unmask(consents(play, NAMES[:4], [*NAMES[1:4], "silo-04"]))


def test_no_two_lists_can_both_be_opened_at_any_number_of_silos():
    # Two lists with t signatures each need 2t - n silos that signed both.
    for n in range(3, 65):
        t = facts(n).threshold
        assert 2 * t - n > n / 3 and t <= n


def test_both_shares_of_one_silo_are_never_opened():
    # The coordinator tells half of the silos that silo-06 lives and the others that it dropped.
    of = facts(7)
    play = Play(of).until(3)
    lists = {True: NAMES, False: NAMES[:6]}
    opened = []
    for split in itertools.product([True, False], repeat=6):
        again = {
            name: Participant.from_state(play.silos[name].state(), of, name, KEYS[name])
            for name in NAMES[:6]
        }
        signatures = {True: [], False: []}
        for name, lives in zip(NAMES, split, strict=False):
            signatures[lives].append(again[name].consent(pack(of, Survivors(lists[lives]))))
        kinds = set()
        for name in NAMES[:6]:
            for attempt in (True, False):
                try:
                    answer = again[name].unmask(pack(of, Consents(signatures[attempt])))
                except SecureError:
                    continue
                message = unpack(of, Opened, answer)
                assert not message.seeds.keys() & message.keys.keys()
                kinds.add("seed" if "silo-06" in message.seeds else "key")
        assert len(kinds) <= 1
        opened.append(kinds)
    assert {"seed"} in opened and {"key"} in opened and set() in opened


def test_the_opened_shares_are_of_the_signed_lists_only():
    play = Play(facts(5)).until(2).until(5, {k: ["silo-03"] for k in (2, 3, 4)})
    for packed in play.sent[4].values():
        message = unpack(play.facts, Opened, packed)
        assert list(message.keys) == ["silo-03"]
        assert list(message.seeds) == ["silo-00", "silo-01", "silo-02", "silo-04"]


def test_after_unmasking_the_secrets_are_gone_and_the_answer_is_not():
    play = Play(facts(4)).until(4)
    silo = play.silos["silo-00"]
    mail = play.mail["silo-00"]
    before = silo.state()
    answer = silo.unmask(mail)
    assert silo.unmask(mail) == answer
    opened = unpack(play.facts, Opened, answer)
    secrets = [
        silo_secret for silo_secret in _secrets(before) if silo_secret not in opened.seeds.values()
    ]
    after = silo.state()
    assert len(secrets) >= 7  # two round keys, a seed, and the key shares of four silos
    assert not [secret for secret in secrets if secret in after]
    with pytest.raises(RoundRefused, match="deleted"):
        silo.mask(play.history[1]["silo-00"], play.inputs["silo-00"])


def _secrets(state):
    body = msgpack.unpackb(state)
    shares = [share for pair in body["held"].values() for share in pair]
    return [body["mask_secret"], body["share_secret"], body["seed"], *shares]


def test_members_cannot_be_swapped():
    # The coordinator names another list of members to one silo: nothing agrees.
    inside = Play(facts(4))
    names = ["silo-00", "silo-01", "silo-02", "silo-05"]
    other = facts(4, members={name: KEYS[name].public for name in names})
    victim = Participant(other, "silo-00", KEYS["silo-00"])
    advert = victim.advertise()
    with pytest.raises(BadMessage, match="list of members"):
        inside.server.receive("silo-00", advert)
    inside.until(1)
    with pytest.raises(BadMessage, match="list of members"):
        victim.share_keys(inside.mail["silo-00"])


def test_a_roster_of_strangers_doubles_or_too_few_is_refused():
    play = Play(facts(4)).until(1)
    of, silo = play.facts, play.silos["silo-00"]
    adverts = unpack(of, Roster, play.mail["silo-00"]).adverts
    stranger = pack(
        of, signed(of, Advertise("silo-01", bytes([9]) * 32, bytes([8]) * 32), KEYS["silo-06"])
    )
    own = pack(
        of, signed(of, Advertise("silo-00", bytes([9]) * 32, bytes([8]) * 32), KEYS["silo-00"])
    )
    theirs = unpack(of, Advertise, adverts[1])
    copied = pack(
        of, signed(of, Advertise("silo-02", theirs.mask_key, theirs.share_key), KEYS["silo-02"])
    )
    for changed, error, text in (
        ([adverts[0], stranger, *adverts[2:]], BadSignature, "does not agree"),
        ([own, *adverts[1:]], RoundRefused, "other keys of this silo"),
        ([adverts[0], adverts[1], copied, adverts[3]], BadMessage, "one key twice"),
        ([adverts[0], adverts[1], adverts[1]], BadMessage, "names a silo twice"),
        (adverts[1:], BadMessage, "lacks this silo"),
        (adverts[:2], TooFewSilos, "2 of 4"),
    ):
        with pytest.raises(error, match=text):
            silo.share_keys(pack(of, Roster(changed)))
    play.until(5)  # a step that raised has changed nothing
    np.testing.assert_array_equal(play.server.total(), play.plain())


def test_adverts_and_shares_of_another_round_are_refused():
    before, now = Play(facts(4)).until(2), Play(facts(4, number=1)).until(1)
    with pytest.raises(BadMessage, match="another round"):
        now.silos["silo-00"].share_keys(before.history[0]["silo-00"])
    adverts = unpack(before.facts, Roster, before.history[0]["silo-00"]).adverts
    inside = pack(now.facts, Roster([now.sent[0]["silo-00"], *adverts[1:]]))
    with pytest.raises(BadMessage, match="another round"):
        now.silos["silo-00"].share_keys(inside)
    now.until(2)
    with pytest.raises(BadMessage, match="another round"):
        now.silos["silo-00"].mask(before.mail["silo-00"], now.inputs["silo-00"])
    inside = pack(
        now.facts,
        Delivery("silo-00", unpack(before.facts, Delivery, before.mail["silo-00"]).sealed),
    )
    with pytest.raises(BadMessage, match="another round"):
        now.silos["silo-00"].mask(inside, now.inputs["silo-00"])


def test_ciphertexts_of_another_round_do_not_open_even_under_this_rounds_signature():
    # A silo that helps the coordinator signs its old ciphertext for this round.
    before, now = Play(facts(4)).until(2), Play(facts(4, number=1)).until(2)
    old = unpack(
        before.facts,
        EncryptedShares,
        unpack(before.facts, Delivery, before.mail["silo-00"]).sealed[0],
    )
    parts = unpack(now.facts, Delivery, now.mail["silo-00"]).sealed
    forged = pack(
        now.facts,
        signed(
            now.facts,
            EncryptedShares(
                old.sender, "silo-00", old.sealed, old.seed_commitment, old.key_commitment
            ),
            KEYS[old.sender],
        ),
    )
    with pytest.raises(BadMessage, match="does not open"):
        now.silos["silo-00"].mask(
            pack(now.facts, Delivery("silo-00", [forged, *parts[1:]])), now.inputs["silo-00"]
        )


def test_a_delivery_that_is_short_doubled_or_for_another_is_refused():
    play = Play(facts(4)).until(2)
    of, silo, values = play.facts, play.silos["silo-00"], play.inputs["silo-00"]
    parts = unpack(of, Delivery, play.mail["silo-00"]).sealed
    for_other = unpack(of, Delivery, play.mail["silo-01"]).sealed
    own = unpack(of, Shares, play.sent[1]["silo-00"]).sealed[0]
    for mail, error, text in (
        (Delivery("silo-01", for_other), BadMessage, "delivery for another"),
        (Delivery("silo-00", for_other), BadMessage, "share for another"),
        (Delivery("silo-00", [parts[0], parts[0], parts[1]]), BadMessage, "a share twice"),
        (Delivery("silo-00", [own, *parts]), BadMessage, "a share twice"),
        (Delivery("silo-00", parts[:1]), TooFewSilos, "2 of 4"),
    ):
        with pytest.raises(error, match=text):
            silo.mask(pack(of, mail), values)


def test_commitments_that_the_coordinator_changed_are_not_laid_to_the_silo():
    play = Play(facts(4)).until(2)
    of, silo = play.facts, play.silos["silo-00"]
    parts = unpack(of, Delivery, play.mail["silo-00"]).sealed
    shares = unpack(of, EncryptedShares, parts[0])
    parts[0] = pack(of, dataclasses.replace(shares, seed_commitment=bytes(32)))
    with pytest.raises(BadSignature):
        silo.mask(pack(of, Delivery("silo-00", parts)), play.inputs["silo-00"])


def test_one_vector_is_masked_once_and_under_one_set_of_silos():
    play = Play(facts(4)).until(2)
    silo, mail, values = play.silos["silo-00"], play.mail["silo-00"], play.inputs["silo-00"]
    masked = silo.mask(mail, values)
    assert silo.mask(mail, values) == masked
    fewer = pack(play.facts, Delivery("silo-00", unpack(play.facts, Delivery, mail).sealed[:2]))
    with pytest.raises(RoundRefused, match="answers once"):
        silo.mask(fewer, values)
    with pytest.raises(RoundRefused, match="answers once"):
        silo.mask(mail, values + 1 - 2 * (values > 0))


def test_different_deliveries_to_different_silos_open_nothing():
    # silo-00 is told that silo-03 never shared, the others that it did.
    play = Play(facts(4)).until(2)
    parts = unpack(play.facts, Delivery, play.mail["silo-00"]).sealed
    play.mail["silo-00"] = pack(play.facts, Delivery("silo-00", parts[:2]))
    for name in NAMES[:3]:
        play.server.receive(name, play.answer(name))
    play.mail = play.server.advance()
    signatures = [play.answer(name) for name in NAMES[:3]]
    with pytest.raises(BadMessage, match="other lists"):
        play.server.receive("silo-00", signatures[0])
    for name in NAMES[:3]:
        with pytest.raises(RoundRefused, match="same lists"):
            play.silos[name].unmask(pack(play.facts, Consents(signatures)))


def test_steps_out_of_order_are_refused():
    play = Play(facts(3))
    fresh = Participant(play.facts, "silo-00", KEYS["silo-00"])
    with pytest.raises(RoundRefused, match="comes after advertise"):
        fresh.share_keys(b"")
    with pytest.raises(RoundRefused, match="comes after share_keys"):
        fresh.mask(b"", play.inputs["silo-00"])
    with pytest.raises(RoundRefused, match="comes after mask"):
        fresh.consent(b"")
    with pytest.raises(RoundRefused, match="comes after consent"):
        fresh.unmask(b"")


def test_only_a_member_with_its_own_key_takes_part():
    for name, key in (("silo-03", "silo-03"), ("silo-00", "silo-01")):
        with pytest.raises(RoundRefused, match="no member"):
            Participant(facts(3), name, KEYS[key])

"""Bytes from outside: whatever is wrong with them is refused with a typed error."""

import dataclasses
import os
import pickle
import struct

import msgpack
import numpy as np
import pytest
import tenseal as ts
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from secure.ckks import blobs
from secure.ckks.client import Client
from secure.ckks.compiler import compile_network
from secure.ckks.messages import Answers, Keys, Rows, pack
from secure.ckks.modules import Square
from secure.ckks.network import read
from secure.ckks.plan import Plan, Release, read_plan
from secure.ckks.server import Server
from secure.ckks.standard import largest_primes
from secure.errors import BadMessage, BadParameters, SecureError

ROW = np.full((1, 6), 0.5)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), Square(), nn.Linear(4, 2))
    return compile_network(read(model, (6,)), 0.0, 1.0)


@pytest.fixture(scope="module")
def client(compiled):
    return Client(compiled.plan)


@pytest.fixture(scope="module")
def keys(client):
    return client.keys()


@pytest.fixture(scope="module")
def server(compiled, keys):
    server = Server(compiled)
    server.register(keys)
    return server


def changed(packed, **fields):
    return msgpack.packb(msgpack.unpackb(packed) | fields)


def refused(call, *arguments):
    with pytest.raises(BadMessage) as caught:
        call(*arguments)
    assert caught.value.exit_code == 4
    return caught.value


def test_the_two_sides_agree_before_they_are_attacked(client, server):
    assert client.open(server.answer(client.encrypt(ROW))).values.shape == (1, 2)


# The client's rows.


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros(6),
        np.zeros((1, 5)),
        np.zeros((2, 6)),
        np.zeros((0, 6)),
        np.full((1, 6), np.nan),
        np.full((1, 6), 1.0 + 1e-9),
        np.full((1, 6), -0.1),
        np.full((1, 6), np.inf),
    ],
)
def test_rows_of_another_shape_or_outside_the_box_are_refused(client, rows):
    with pytest.raises(BadParameters) as caught:
        client.encrypt(rows)
    assert caught.value.field == "rows"
    assert caught.value.exit_code == 2


def test_errors_name_no_value_of_a_row(client):
    row = np.full((1, 6), 0.5)
    row[0, 3] = 123.456789
    with pytest.raises(BadParameters) as caught:
        client.encrypt(row)
    assert "123.4" not in str(caught.value)
    assert caught.value.value is None


# The server: keys.


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1])
def test_truncated_keys_are_refused(server, keys, cut):
    refused(server.register, keys[:cut])


def test_keys_with_other_fields_are_refused(server, keys, client):
    secret = blobs.dump(client._generator.secret_key())
    refused(server.register, changed(keys, secret=secret))
    assert refused(server.register, changed(keys, relinearisation=secret)).field
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    refused(server.register, context.serialize(save_secret_key=True))


def test_keys_hold_no_secret_key(keys, client):
    """The secret key's coefficients, as SEAL writes them, are nowhere in what leaves."""
    secret = blobs.dump(client._generator.secret_key())
    window = secret[len(secret) // 2 : len(secret) // 2 + 16]
    assert window not in keys
    message = msgpack.unpackb(keys)
    assert set(message) == {"type", "plan", "key", "relinearisation", "rotations"}
    assert len(message["relinearisation"]) < len(message["rotations"])


def test_more_and_fewer_rotations_are_refused(server, keys, client, compiled):
    elements = compiled.plan.elements
    spare = [pow(3, 77, 2 * compiled.plan.ring)]
    for wrong in (elements[:-1], [*elements[:-1], *spare]):
        rotations = blobs.dump(client._generator.create_galois_keys(wrong))
        assert refused(server.register, changed(keys, rotations=rotations)).field == "rotations"
    rotations = blobs.dump(client._generator.create_galois_keys(elements + spare))
    refused(server.register, changed(keys, rotations=rotations))
    refused(server.register, changed(keys, rotations=b""))
    refused(server.register, changed(keys, relinearisation=b""))


def test_a_client_under_another_plan_is_refused(server, compiled):
    other = dataclasses.replace(compiled.plan, model=bytes(32))
    foreign = Client(other)
    refused(server.register, foreign.keys())
    refused(server.answer, foreign.encrypt(ROW))


# The server: rows.


def test_rows_under_a_stale_or_unknown_key_are_refused(compiled):
    old, new, server = Client(compiled.plan), Client(compiled.plan), Server(compiled)
    assert refused(server.answer, old.encrypt(ROW)).field == "key"
    server.register(old.keys())
    server.answer(old.encrypt(ROW))
    server.register(new.keys())
    assert refused(server.answer, old.encrypt(ROW)).field == "key"
    server.answer(new.encrypt(ROW))


def test_another_number_of_ciphertexts_is_refused(server, client):
    packed = client.encrypt(ROW)
    one = msgpack.unpackb(packed)["ciphertexts"]
    assert refused(server.answer, changed(packed, ciphertexts=[])).field == "ciphertexts"
    refused(server.answer, changed(packed, ciphertexts=one * 2))
    refused(server.answer, changed(packed, ciphertexts=one[0]))
    refused(server.answer, changed(packed, rows=2))
    refused(server.answer, changed(packed, rows=True))
    refused(server.answer, changed(packed, rows=0))
    refused(server.answer, changed(packed, request=b"short"))


def test_ciphertexts_of_another_level_scale_or_size_are_refused(server, client, compiled):
    import tenseal.sealapi as sealapi

    context, plan = client._context, compiled.plan
    packed = client.encrypt(ROW)

    def encrypted(level, scale):
        plain, found = sealapi.Plaintext(), sealapi.Ciphertext()
        context.encoder.encode([0.5] * 8, context.levels[level], scale, plain)
        client._encryptor.encrypt_symmetric(plain, found)
        return found

    top = len(plan.primes)
    large, squared = encrypted(top, plan.fresh), sealapi.Ciphertext()
    server._seal.evaluator.square(large, squared)
    for wrong in (encrypted(top - 1, plan.fresh), encrypted(top, 2 * plan.fresh), squared):
        refused(server.answer, changed(packed, ciphertexts=[blobs.dump(wrong)]))
    server.answer(changed(packed, ciphertexts=[blobs.dump(large)]))


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_rows_never_do_more_than_raise(server, client, data):
    packed = bytearray(client.encrypt(ROW))
    # Half of the damage goes to the first bytes, where the structure is; a request differs in
    # length from the next by a few bytes only.
    places = st.one_of(st.integers(0, 400), st.integers(0, 190000))
    for place, change in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1)):
        packed[place] ^= change
    try:
        server.answer(bytes(packed))
    except SecureError:
        return


@given(st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(server, client, data):
    refused(server.answer, data)
    refused(server.register, data)
    refused(client.open, data)
    refused(read_plan, data)


# Blobs.


def seal_blob(frame, length=None):
    size = 16 + len(frame) if length is None else length
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 2, 0, size) + frame


def test_a_blob_that_would_unpack_to_gigabytes_is_refused_unopened():
    # One megabyte of run-length blocks of 128 KiB each: 34 GB.
    block = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", (1 << 17) << 3 | 1 << 1 | 1)[:3] + b"\0"
    frame = struct.pack("<I", 0xFD2FB528) + b"\x00\x58" + block * 262144 + last
    with pytest.raises(BadMessage, match="unpacks to more"):
        blobs.check(seal_blob(frame), 1 << 20)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x5e\xa1\x10",
        seal_blob(b""),
        seal_blob(b"\x28\xb5\x2f\xfd\x00\x58"),
        seal_blob(b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00", length=99),
        seal_blob(b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00more"),
        seal_blob(b"\x28\xb5\x2f\xfd\x00\x58\x07\x00\x00"),
        seal_blob(b"\x00\xb5\x2f\xfd\x00\x58\x01\x00\x00"),
        seal_blob(b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00").replace(b"\x5e\xa1", b"\x5e\xa2"),
    ],
)
def test_blobs_that_are_broken_are_refused(blob):
    with pytest.raises(BadMessage):
        blobs.check(blob, 1 << 20)


# The client: answers.


def test_an_answer_is_opened_once(client, server):
    answer = server.answer(client.encrypt(ROW))
    client.open(answer)
    assert refused(client.open, answer).field == "request"


def test_answers_that_do_not_belong_are_refused_and_stay_unopened(client, server, compiled):
    rows = client.encrypt(ROW)
    good = server.answer(rows)
    ours = msgpack.unpackb(good)
    refused(client.open, changed(good, request=os.urandom(16)))
    refused(client.open, changed(good, key=os.urandom(16)))
    refused(client.open, changed(good, ciphertexts=ours["ciphertexts"] * 2))
    refused(client.open, changed(good, rows=2))
    refused(client.open, changed(good, extra=1))
    refused(client.open, rows)
    refused(client.open, good[:-7])
    # A fresh ciphertext in place of an answer would be decrypted at a level it is not meant for.
    first = msgpack.unpackb(rows)["ciphertexts"]
    refused(client.open, changed(good, ciphertexts=first))
    assert client.open(good).values.shape == (1, 2)


def test_a_client_does_not_travel(client):
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(client)
    assert "SecretKey" not in repr(vars(client).keys())


def test_the_server_cannot_decrypt(server):
    """Neither it nor what it holds has a secret key or a decryptor."""
    held = [type(value).__name__ for value in vars(server._seal).values()]
    held += [type(value).__name__ for value in vars(server).values()]
    held += [type(value).__name__ for value in vars(server._context).values()]
    assert not {"SecretKey", "Decryptor", "KeyGenerator", "Client"} & set(held)


# Plans.


def test_plans_survive_a_journey(compiled):
    assert read_plan(compiled.plan.pack()) == compiled.plan
    released = dataclasses.replace(compiled.plan, release=Release(5))
    assert read_plan(released.pack()).release == Release(5)


@pytest.mark.parametrize(
    "name, value",
    [
        ("ring", 65536),
        ("ring", 4096),
        ("mode", "fast"),
        ("special", 15),
        ("special", True),
        ("steps", [0]),
        ("steps", [1, 1]),
        ("steps", [1.0]),
        ("steps", list(range(1, 200))),
        ("features", 7),
        ("outputs", 0),
        ("outputs", 10**9),
        ("depth", 2),
        ("fresh", float("nan")),
        ("fresh", 0.0),
        ("error", -1.0),
        ("error", float("inf")),
        ("error", 1e-12),
        ("low", [0.0]),
        ("feature", [0, 1, 2]),
        ("feature", [6] * 8),
        ("start", -1),
        ("start", 10**6),
        ("model", b"short"),
        ("witness", [1.0]),
        ("witness", [float("nan")] * 4),
        ("release", {"answers": 0, "bits": 30}),
        ("release", {"answers": 10, "bits": 29}),
        ("release", {"answers": 10}),
        ("release", {"answers": 10, "bits": 30, "more": 1}),
        ("version", "tacit ckks plan 2"),
        ("more", 1),
    ],
)
def test_tampered_plans_are_refused(compiled, name, value):
    refused(read_plan, changed(compiled.plan.pack(), **{name: value}))


def test_parameters_above_the_table_are_refused_though_seal_takes_them(compiled):
    plan = compiled.plan
    bits = [prime.bit_length() for prime in plan.primes]
    primes = largest_primes(8192, [*bits, 218 - sum(bits)])
    assert plan.ring == 8192 and sum(p.bit_length() for p in primes) == 218
    changes = {"primes": primes[:-1], "special": primes[-1]}
    error = refused(read_plan, changed(plan.pack(), **changes))
    assert "allows 214" in str(error)


def test_a_plan_that_wants_too_much_memory_is_refused(compiled):
    with pytest.raises(BadParameters, match="MiB") as caught:
        Client(compiled.plan, max_key_bytes=1 << 20)
    assert caught.value.field == "steps"


def test_messages_pack_to_what_they_say(compiled):
    for message in (
        Keys(bytes(16), b"a", b"b"),
        Rows(bytes(16), bytes(16), 1, [b"c"]),
        Answers(bytes(16), bytes(16), 1, [b"d"]),
    ):
        fields = msgpack.unpackb(pack(compiled.plan, message))
        assert fields["plan"] == compiled.plan.digest
        assert fields["type"] == message.TYPE
    assert isinstance(compiled.plan, Plan)

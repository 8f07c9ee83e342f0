"""Encrypted aggregation: the coordinator adds CKKS ciphertexts under a key that it does not hold.

Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers" (ASIACRYPT
2017), with its values in the coefficients of the plaintext: a sum needs no product of slots, and a
ciphertext then carries twice as many. Microsoft SEAL, through TenSEAL, samples, encrypts and
multiplies by the key. Three to 64 silos; all of them are in every sum.

The key of a job is made by the first silo by name and held by all silos, each of which gets it
sealed. A silo encrypts its integers, on a grid that is coarser than all noise together, and sends
the ciphertext to the coordinator, which adds them. To open a sum two silos get the *public* half
of every silo's ciphertext, signed for this round, and answer with the sum of those halves times
the key, plus noise: what they compute is fixed by the signed list, whatever the coordinator added.

What is protected: a coordinator that follows the protocol and has no silo on its side learns the
sum and nothing of a silo's own vector (RLWE at 128 bits, `parameters`). Nor does a coordinator
that asks for anything else: a silo opens one list per round, of all silos, and nothing but it.
Every opened sum is flooded with noise, uniform and wide enough that all of a job's sums together
tell nothing of the key beyond a statistical distance of 2^-30 (`facts`).

What is not: **a coordinator with one silo on its side reads every silo's vector**, and so does
whoever records the ciphertexts and obtains one silo's part of the job's key before the job is
settled. `secure.aggregation`'s masks hold against that; take them where it matters. Nobody sees
that a silo encrypts something else than its update, or that the coordinator adds wrongly; two
silos that open alike are believed. The sum may still tell.

| module | what |
|---|---|
| `parameters` | ring, primes and the table of the 2024 guideline they are checked against |
| `facts` | the public facts of a job: grid, flood, error, and the forecast of bytes and memory |
| `residues` | numbers modulo the primes: packing, scaling, recombining |
| `engine` | SEAL: the transform, encryptions of zero, products with the key |
| `messages` | the messages, strictly parsed |
| `silo` | one silo; it keeps no state but the job's secret |
| `coordinator` | the coordinator's part of a round |
"""

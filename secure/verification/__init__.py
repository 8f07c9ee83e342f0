"""Checking inference that somebody else ran: what a model is, what was answered, whether it is so.

| module | what | what it rests on |
|---|---|---|
| `merkle` | hash trees with inclusion proofs | collisions of SHA-256 are not found |
| `commitment` | one root for a model's tensors, salted while it is secret | the same |
| `receipts` | signed, hash-chained receipts of answers | Ed25519; clients that compare heads |
| `consensus` | redundant nodes that commit before any reveals | fewer than a third of them lie |
| `tolerance` | how far honest floating-point answers may differ | honest runs |
| `canaries` | known-answer queries among the others | the node cannot tell them apart |
| `fixed`, `freivalds` | linear layers in integers, checked cheaply | nothing; 2^-60 a row |
| `zk` | proof of a small quantised network (extra `zk`) | Halo2, KZG; who drew its parameters |
| `attestation` | quotes of SGX and TDX (extra `attestation`) | Intel; nobody at the machine |

What is verified is that an answer belongs to a model. Nothing here says that the model is good,
that its training was honest or that a row is true. Who sees the rows, and what breaks each of
these, is in docs/verification-of-inference.md.
"""

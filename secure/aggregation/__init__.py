"""Masked secure aggregation: the coordinator learns the sum of the silos' vectors.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017),
with double masking on the complete graph, in the variant that holds against a malicious server
(their section 4, figure 4 with the underlined parts). Three to 64 silos, threshold
t = floor(2n/3) + 1.

What is protected: from whatever a hostile coordinator and fewer than 2t - n hostile silos see
together (at ten silos: up to three), nothing follows about the vectors of the others beyond the sum
of them over one list of survivors. The sum is what the coordinator learns; **the sum may still
tell**: a coordinate that one silo alone fills is that silo's, all silos but one subtract their own
part, and two sums whose members differ by one silo give that silo's vector. Noise, where it is
wanted, is added before the masks.

What is not: the coordinator may return a wrong sum, a silo may send a wrong vector, and each can
stop a round. Nobody opens anything below the threshold, so a stopped round tells nothing.

| module | what |
|---|---|
| `rounds` | the public facts of one round, which every signature binds |
| `quantize` | fixed point: reals to integers and back, with the error bound |
| `shamir` | t-of-n secret sharing over a prime field |
| `masks` | key agreement, key derivation, the masks, encrypted shares |
| `messages` | the messages, strictly parsed |
| `participant` | one silo, as a state machine that survives being killed |
| `server` | the coordinator, as a state machine |

Neither state machine has a transport. Messages are meant to travel in signed envelopes
(`secure.exchange`): what the server does with a silo's message rests on the envelope's sender.
"""

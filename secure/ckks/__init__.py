"""Inference on rows that the server cannot see: approximate homomorphic encryption (CKKS).

Cheon, Kim, Kim and Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers" (ASIACRYPT
2017), as SEAL implements it, through `tenseal.sealapi`. The data's side holds the key, the model's
side computes.

What is protected: the row, everything computed from it and the answer, against the server, as long
as ring learning with errors is hard at the parameters of ePrint 2024/463.
What is not: the **model** (a client that asks often enough rebuilds it; noise and timing tell
more), the **answer's integrity** (a server can compute anything; nothing is proved), what the
answer itself tells about the row, and a key whose decryptions are shown to others without
`Client.release`.

| module | what |
|---|---|
| `standard` | the table of secure parameters |
| `modules` | activations to train with: square, learned quadratic |
| `polynomials` | minimax approximations with a certified error, and their evaluation |
| `network` | a trained model as affine maps and polynomials |
| `ranges` | what every layer can meet on the declared box |
| `packing`, `layout` | products by rotations; where numbers lie |
| `schedule`, `noise`, `bounds`, `witness` | scales, and the proved error |
| `compiler`, `forecast`, `plan` | the choice of everything, its cost, and the document of it |
| `client`, `server` | the two sides; bytes go between them |
| `messages`, `blobs`, `context` | strict parsing; SEAL's objects |
| `calibration` | an error estimate from runs |
"""

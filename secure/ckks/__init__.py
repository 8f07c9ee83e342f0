"""Inference on rows that the server cannot see: approximate homomorphic encryption (CKKS)."""

"""Random draws that depend on a seed and names alone: the same on every machine, for every order and sharding."""

from __future__ import annotations

import hashlib

import numpy as np


def hash_uniform(seed: int, *names: str) -> float:
    """A number in [0, 1) from a seed and names."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of draws of its own for a seed and names (Philox, the same stream on every machine)."""
    digest = hashlib.sha256("\0".join([*names[:1], str(seed), *names[1:]]).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))

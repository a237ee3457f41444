"""Random numbers that depend on a name alone: the same wherever and in whatever order they are drawn."""

import hashlib

import numpy as np


def philox_from_name(name: str) -> np.random.Philox:
    """The counter-based generator (Philox) whose key is the first 16 bytes of the name's SHA-256."""
    return np.random.Philox(
        key=int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    )

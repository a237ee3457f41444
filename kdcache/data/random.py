"""Random numbers that depend on a name alone, wherever and in whatever order they are drawn."""

import hashlib

import numpy as np


def philox_from_name(name: str) -> np.random.Philox:
    """The counter-based generator Philox, its key the first 16 bytes of the name's SHA-256."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))

"""Random damage to a sealed cache: it is refused by name, whatever it changes.

Simulated: one to three flipped bits, truncation, appended bytes, and zeroed, swapped, repeated or
shifted runs of 512 or 4,096 bytes, anywhere in the file. Each damaged file is opened by
`open_cache` with every check. Not simulated: damage with intent, which recomputes checksums
(headers.py).
"""

import os
import random
import tempfile
from collections import Counter
from pathlib import Path

from kdcache.cache.reader import open_cache
from kdcache.errors import KdcacheError
from torture.common import Job, Row, main

JOB = Job(rows=(80, 20, 20), classes=40, block_rows=32)  # 18 kB: every kind of page is in it
KINDS = (
    "bits flipped",
    "truncated",
    "appended",
    "zeroed",
    "swapped",
    "repeated",
    "shifted",
    "0.0 to NaN",
)


def damage(good: bytes, kind: str, generator: random.Random) -> bytes:
    """The file's bytes with one damage of a kind; it may by chance be none."""
    bad = bytearray(good)
    size = min(generator.choice((512, 4096)), len(good) // 2)
    one, other = (generator.randrange(0, len(good), size) for _ in range(2))
    run = min(size, len(good) - max(one, other))
    match kind:
        case "bits flipped":
            for _ in range(generator.choice((1, 1, 2, 3))):
                bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        case "truncated":
            del bad[generator.randrange(len(bad)) :]
        case "appended":
            bad += generator.choice((generator.randbytes, bytes))(generator.randint(1, size))
        case "zeroed":
            bad[one : one + run] = bytes(run)
        case "swapped":
            bad[one : one + run], bad[other : other + run] = (
                good[other : other + run],
                good[one : one + run],
            )
        case "repeated":
            bad[one : one + run] = good[other : other + run]
        case "shifted":
            place, step = generator.randrange(len(bad) - size), generator.randint(1, 16)
            bad[place : place + size] = (
                good[place + step : place + size] + good[place : place + step]
            )
        case "0.0 to NaN":  # what fletcher32, HDF5's own checksum, does not see
            place = generator.randrange(len(bad) - 1)
            bad[place : place + 2] = b"\xff\xff"
    return bytes(bad)


def run(count: int, seed: int) -> Row:
    row = Row("Random damage to a sealed file", count)
    generator = random.Random(seed)
    refused: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.h5"
        JOB.fill(path)
        good = path.read_bytes()
        fd = os.open(path, os.O_RDWR)
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            while (bad := damage(good, kind, generator)) == good:
                pass  # by chance no damage, as zeros among zeros
            os.pwrite(fd, bad, 0)
            os.ftruncate(fd, len(bad))
            try:
                open_cache(path)
            except KdcacheError as error:
                if str(path) in str(error):
                    refused[kind] += 1
                else:
                    row.violations.append(f"trial {number}: {error}")
            else:
                # the format speaks for every byte, so there is no harmless damage
                row.violations.append(f"trial {number}: {kind} goes unnoticed")
            os.pwrite(fd, good, 0)
            os.ftruncate(fd, len(good))
        os.close(fd)
        if not JOB.holds(path):
            row.violations.append("the file that was not damaged is refused")
    kinds = ", ".join(f"{kind} {refused[kind]:,}" for kind in KINDS)
    row.outcome = f"{refused.total():,} refused by name ({kinds})"
    return row


if __name__ == "__main__":
    main(run, 2000)

"""Memory of filling a cache does not grow with the number of its rows.

Measured: the peak resident memory of a fresh process that fills a cache of `--count` thousand rows,
and of one that fills ten times as many, with what the process held before the first block taken
off. Labels, views and checksums of the images, which phase one holds anyway, are part of what is
taken off. Not measured: the teacher and its images.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kdcache.cache.writer import CacheWriter
from kdcache.runtime import peak_memory
from torture.common import Job, Row, main

CLASSES, BLOCK_ROWS = 1000, 1024
ALLOWED_GROWTH = 8 << 20  # four blocks


def fill(path: Path, rows: int) -> None:
    """In the fresh process: fill a cache and print the peak before and after its blocks."""
    job = Job(rows=(rows, 1, 1), views=1, classes=CLASSES, block_rows=BLOCK_ROWS)
    block = np.random.default_rng(0).normal(size=(BLOCK_ROWS, CLASSES)).astype(np.float32)
    with CacheWriter(path, job.manifest, job.arrays, block_rows=BLOCK_ROWS) as writer:
        before = peak_memory()
        for number in writer.missing:
            writer.write(number, block[: len(writer.rows(number))])
        writer.seal()
    print(before, peak_memory())


def run(count: int, seed: int) -> Row:
    row = Row("Memory of filling a cache of 1,000 classes", 2)
    grown, total = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rows in (1000 * count, 10_000 * count):
            command = [
                sys.executable,
                "-m",
                "torture.memory",
                "--fill",
                f"{folder}/{rows}.h5",
                str(rows),
            ]
            environment_folder = Path(__file__).parents[1]
            said = subprocess.run(
                command, cwd=environment_folder, capture_output=True, text=True, check=True
            ).stdout.split()
            grown.append(int(said[1]) - int(said[0]))
            total.append(int(said[1]))
            Path(f"{folder}/{rows}.h5").unlink()
    row.outcome = ", ".join(
        f"{rows:,} rows: {more / 1e6:.1f} MB on top of {(peak_bytes - more) / 1e6:.0f} MB"
        for rows, more, peak_bytes in zip((1000 * count, 10_000 * count), grown, total, strict=True)
    )
    if grown[1] > grown[0] + ALLOWED_GROWTH:
        row.violations.append(f"{grown[1] - grown[0]} bytes more for ten times the rows")
    return row


if __name__ == "__main__":
    if "--fill" in sys.argv:
        fill(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(run, 5)

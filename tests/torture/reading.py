"""How fast a cache opens and gives random rows: 50,000 of 1,000 float16 numbers, on one core.

Measured warm, that is with the file in the page cache: `--count` openings of each kind, and as many
passes of random batches. The share of a plain gather compares the same batches of the same rows
from a numpy array that was never a file. Not measured: a cold disk, and many processes at once.
What the targets are is in the table; a slow machine misses them without being wrong, so this script
never fails.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdcache.cache.reader import open_cache
from kdcache.cache.writer import CacheWriter
from torture.common import Job, Row, main

ROWS, CLASSES, BLOCK_ROWS = 50_000, 1000, 1024
BATCHES_OF_A_PASS = 40
JOB = Job(rows=(ROWS, 1, 1), views=1, classes=CLASSES, block_rows=BLOCK_ROWS)


def make(path: Path, generator: np.random.Generator) -> None:
    block = generator.normal(size=(BLOCK_ROWS, CLASSES)).astype(np.float32)
    with CacheWriter(path, JOB.manifest, JOB.arrays, block_rows=BLOCK_ROWS) as writer:
        for number in writer.missing:
            writer.write(number, np.roll(block, number, 1)[: len(writer.rows(number))])
        writer.seal()


def seconds(count: int, function: Callable[[], object]) -> np.ndarray:
    """Of each of `count` calls, after one that warms up."""
    function()
    times = []
    for _ in range(count):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return np.array(times)


def spread(values: np.ndarray, unit: str, digits: int = 0) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:,.{digits}f} {unit} (quartiles {low:,.{digits}f} to {high:,.{digits}f})"


def gather_rates(
    sources: dict[str, np.ndarray], batches: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Rows a second of each of `count` passes over each source.

    They are interleaved, so that what disturbs one disturbs all.
    """

    def one_pass(source: np.ndarray) -> None:
        for batch in batches:
            source[batch]

    times = [
        [seconds(1, lambda source=source: one_pass(source))[0] for source in sources.values()]
        for _ in range(count)
    ]
    return {
        name: batches.size / column for name, column in zip(sources, np.array(times).T, strict=True)
    }


def run(count: int, seed: int) -> Row:
    row = Row(
        "Reading 100 MB, warm, one core"
        " (targets: quick 10 ms, checked 2 GB/s, 1,000,000 rows/s, 90 % of RAM)",
        count,
    )
    generator = np.random.default_rng(seed)
    said = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.h5"
        make(path, generator)
        size = path.stat().st_size
        quick = seconds(count, lambda: open_cache(path, check_logits=False, in_memory=False))
        loaded = seconds(count, lambda: open_cache(path, check_logits=False, in_memory=True))
        mapped = seconds(count, lambda: open_cache(path, in_memory=False))
        checked = seconds(count, lambda: open_cache(path, in_memory=True))
        said.append(
            f"quick open, mapped {spread(1e3 * quick, 'ms', 1)},"
            f" loaded {spread(1e3 * loaded, 'ms', 1)}"
        )
        said.append(
            f"every checksum, mapped {spread(size / mapped / 1e9, 'GB/s', 2)},"
            f" loaded {spread(size / checked / 1e9, 'GB/s', 2)}"
        )
        in_memory = open_cache(path, in_memory=True).splits["train"].logits
        on_disk = open_cache(path, in_memory=False).splits["train"].logits
        plain = np.array(in_memory)
        for width in (256, 1024):
            batches = generator.integers(0, ROWS, (BATCHES_OF_A_PASS, width))
            rates = gather_rates(
                {"plain": plain, "loaded": in_memory, "mapped": on_disk}, batches, count
            )
            for name in ("loaded", "mapped"):
                share = np.median(rates[name] / rates["plain"])
                said.append(
                    f"batches of {width:,}, {name} {spread(rates[name], 'rows/s')},"
                    f" {share:.0%} of a plain gather"
                )
    row.outcome = "; ".join(said)
    return row


if __name__ == "__main__":
    main(run, 7)

"""Runs that start at the same moment, and readers that open a cache while it is replaced.

Simulated: two or three runs of one process each that want to write the same cache at once, some
killed; and another process that renames one finished cache over another without end while this one
opens it, `--count` times each. Of the runs that start together at most one may compute at a time; a
reader gets one cache or the other, whole, or is told that it was replaced. Not simulated: file
systems without locks.
"""

import itertools
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcache.cache.reader import open_cache
from kdcache.errors import KdcacheError
from torture.common import Job, Row, fork, main

JOB, OTHER = Job(), Job("other")
REFUSED = 3


def write(path: Path, restart: bool, report: Callable[[Any], None]) -> int:
    """Fill the cache, and report when the first block begins and when the last one has ended."""
    try:
        with JOB.open(path, restart=restart) as writer:
            for block in writer.missing:
                report((block, time.monotonic()))
                JOB.write_block(writer, block)
                report((block, time.monotonic()))
            if not writer.complete:
                writer.seal()
    except KdcacheError as error:
        return REFUSED if "one that is still going on" in str(error) else 1
    return 0


def start_together(path: Path, generator: random.Random) -> tuple[str | None, int]:
    """What went wrong when several runs started at once, and how many were refused."""
    restarting = [generator.random() < 0.3 for _ in range(generator.choice((2, 3)))]
    children = [
        fork(lambda report, restart=restart: write(path, restart, report)) for restart in restarting
    ]
    if generator.random() < 0.5:
        time.sleep(0.02 * generator.random())
        generator.choice(children).kill()
    codes, said = zip(*(child.finish() for child in children), strict=True)
    at_work = sorted(
        (min(times)[1], max(times, key=lambda pair: pair[1])[1]) for times in said if times
    )
    if any(before[1] > after[0] for before, after in itertools.pairwise(at_work)):
        return "two runs computed at once", 0
    if not set(codes) <= {0, REFUSED, -signal.SIGKILL}:
        return f"runs ended with {codes}", 0
    JOB.fill(path)
    return None if JOB.holds(path) else "the cache is wrong", codes.count(REFUSED)


def replace_without_end(path: Path, copies: tuple[Path, ...]) -> None:
    for copy in itertools.cycle(copies):
        os.link(copy, f"{path}.next")
        os.rename(f"{path}.next", path)


def run(count: int, seed: int) -> Row:
    row = Row("Runs started at once; caches replaced while they are opened", 2 * count)
    generator = random.Random(seed)
    refused = told = 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            folder = Path(name) / f"{number}"
            fault, some = start_together(folder / "t.h5", generator)
            refused += some
            row.violations += [f"start {number}: {fault}"] if fault else []
        path, copies = Path(name) / "t.h5", (Path(name) / "one.h5", Path(name) / "other.h5")
        JOB.fill(copies[0])
        OTHER.fill(copies[1])
        os.link(copies[0], path)
        replacer = fork(lambda report: replace_without_end(path, copies[::-1]))
        for number in range(count):
            try:
                cache = open_cache(path)
                if not JOB.equals(cache) and not OTHER.equals(cache):
                    row.violations.append(f"opening {number}: wrong rows")
            except KdcacheError as error:
                told += 1
                if "replaced" not in str(error):
                    row.violations.append(f"opening {number}: {error}")
        replacer.kill()
        replacer.finish()
    row.outcome = (
        f"{refused} runs refused while another was at work, never two at once;"
        f" no mixed rows, {told} readers told"
    )
    return row


if __name__ == "__main__":
    main(run, 40)

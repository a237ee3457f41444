"""Full disks: a writer that runs out of room says so in one line and goes on once there is room.

Simulated, where a tmpfs may be mounted: a real file system filled to a random level before the run,
or by another program while it runs (before a block, before any call, or in the middle of libhdf5's
own writing), so that every call meets the kernel's own ENOSPC. Everywhere: a random write-side call
fails with ENOSPC, of a write after a random number of its bytes; that is all `in_earnest=False`
does. Not simulated: quotas, and file systems that cannot reserve space.
"""

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import h5py

from kdcache.errors import KdcacheError
from torture.common import Job, Row, fork, hooked, main, replaced, wrong_name

JOB = Job(rows=(300, 40, 30), classes=100, block_rows=40)  # 15 + 1 + 1 blocks of 8 kB
BLOCKS, TMPFS_BYTES = 17, 1 << 20
REFUSED = 3


@contextmanager
def tmpfs(folder: Path) -> Iterator[bool]:
    """A small file system of its own at `folder`; False where mounting one is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    possible = sys.platform == "linux" and shutil.which("mount") is not None
    mounted = possible and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def attempt(
    path: Path, report: Callable[[Any], None], disturb: Callable[[int], None] = lambda block: None
) -> int:
    """Fill the cache, reporting each block; `disturb` is called before it is written."""
    try:
        with JOB.open(path) as writer:
            for block in writer.missing:
                report(block)
                disturb(block)
                JOB.write_block(writer, block)
            if not writer.complete:
                writer.seal()
    except KdcacheError as error:
        return REFUSED if "No space left on device" in str(error) else 1
    return 0


def take_all_but(room: int, folder: Path) -> None:
    """Leave about `room` bytes of the file system."""
    disk = os.statvfs(folder)
    with open(folder / "ballast", "ab") as file:
        size = os.fstat(file.fileno()).st_size + disk.f_bavail * disk.f_frsize - room
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def run_out_of_room(
    path: Path, how: str, generator: random.Random, report: Callable[[Any], None]
) -> int:
    """In a child: one run on a disk that is full, or becomes full."""
    room = generator.choice((0, 4096, 8192))
    at_block, at_call = generator.randrange(BLOCKS), generator.randrange(60)
    calls = itertools.count()
    real_file = h5py.File

    def open_file(*arguments: Any, **named: Any) -> h5py.File:
        file = real_file(*arguments, **named)
        take_all_but(room, path.parent)
        return file

    def fill_up(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if next(calls) == at_call:
            take_all_but(room, path.parent)
        return real(*arguments)

    def refuse(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if next(calls) != at_call:
            return real(*arguments)
        if name in ("write", "pwrite"):
            fd, data, *offset = arguments
            real(fd, data[: generator.randrange(len(data))], *offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    match how:
        case "before":
            take_all_but(generator.randrange(150_000), path.parent)
            return attempt(path, report)
        case "at a block":
            return attempt(
                path,
                report,
                lambda block: take_all_but(room, path.parent) if block == at_block else None,
            )
        case "in libhdf5":
            context = replaced(h5py, File=open_file)
        case "at a call":
            context = hooked(fill_up)
        case _:
            context = hooked(refuse)
    with context:
        return attempt(path, report)


def run(count: int, seed: int, in_earnest: bool = True) -> Row:
    row = Row("Disk full before or during a run", count)
    ends: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as name,
        tmpfs(Path(name) / "disk") if in_earnest else nullcontext() as mounted,
    ):
        undisturbed = Path(name) / "undisturbed.h5"
        JOB.fill(undisturbed)
        for number in range(count):
            folder = Path(name) / "disk" if mounted else Path(name) / f"{number}"
            folder.mkdir(exist_ok=True)
            how = (
                ("before", "at a block", "at a call", "in libhdf5")[number % 4]
                if mounted
                else "feigned"
            )
            path = folder / "t.h5"
            generator = random.Random(f"{seed}-{number}")
            child = fork(
                lambda report, path=path, how=how, draw=generator: run_out_of_room(
                    path, how, draw, report
                )
            )
            code, computed = child.finish()
            (folder / "ballast").unlink(missing_ok=True)
            fault = wrong_name(path, JOB) or (
                None if code in (0, REFUSED) else f"ended with {code}"
            )
            ends[
                "finished"
                if code == 0
                else "refused during the run"
                if computed
                else "refused before any block"
            ] += 1
            JOB.fill(path)
            if path.read_bytes() != undisturbed.read_bytes():
                fault = fault or "resumed, it is not the undisturbed file"
            row.violations += [f"trial {number} ({how}): {fault}"] if fault else []
            for left in folder.iterdir():
                left.unlink()
    row.outcome = ", ".join(f"{times} {end}" for end, times in sorted(ends.items()))
    row.outcome += "; each went on to the undisturbed file; " + (
        "real ENOSPC on a tmpfs" if mounted else "feigned ENOSPC"
    )
    return row


if __name__ == "__main__":
    main(run, 40)

"""What the torture scripts share: small caches computed from indices, children, rows of a table."""

import argparse
import builtins
import io
import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from cache_makers import make_manifest, make_views

from kdcache.cache.manifest import Manifest
from kdcache.cache.reader import Cache, open_cache
from kdcache.cache.writer import CacheWriter
from kdcache.config import SPLITS
from kdcache.errors import KdcacheError
from kdcache.runtime.distributed import SINGLE_PROCESS, Processes

HUNG = -1000  # stands where the exit code of a child that had to be ended would stand
_write = os.write  # what children report must not be counted among the calls of the writer


@dataclass(frozen=True)
class Job:
    """A cache to be written.

    Every number follows from its row, its split and `kind`, so that no wrong row can pass.
    """

    kind: str = "sine"
    rows: tuple[int, int, int] = (9, 4, 3)
    views: int = 2
    classes: int = 8
    block_rows: int = 4

    @cached_property
    def manifest(self) -> Manifest:
        return make_manifest(self.rows, self.views, self.classes, teacher=self.kind)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for place, split in enumerate(SPLITS):
            rows, views = self.size_of(split)
            arrays[f"{split}/views"] = make_views(rows, views, place)
            arrays[f"{split}/labels"] = (np.arange(rows) + place) % 2
            arrays[f"{split}/image_crc32"] = (np.arange(rows) * 2654435761 % 2**32).astype("<u4")
        return arrays

    @cached_property
    def logits(self) -> dict[str, np.ndarray]:
        """float32 (rows * views, classes) of every split.

        Sines of the index, or zeros as an untrained head gives.
        """
        logits = {}
        for place, split in enumerate(SPLITS):
            rows, views = self.size_of(split)
            index = np.arange(rows * views * self.classes).reshape(-1, self.classes)
            scale = {"sine": 100, "other": 50, "zeros": 0}[self.kind]
            values = scale * np.sin(index + 10_000 * place + 1) + 0.0  # + 0.0: no zero is negative
            logits[split] = values.astype(np.float32)
        return logits

    def size_of(self, split: str) -> tuple[int, int]:
        """Rows and views."""
        return self.manifest.splits[split].rows, self.manifest.splits[split].views

    def open(
        self, path: Path, processes: Processes = SINGLE_PROCESS, restart: bool = False
    ) -> CacheWriter:
        return CacheWriter(
            path,
            self.manifest,
            self.arrays,
            block_rows=self.block_rows,
            restart=restart,
            processes=processes,
        )

    def write_block(self, writer: CacheWriter, block: int) -> None:
        rows = writer.rows(block)
        writer.write(block, self.logits[rows.split][rows.start : rows.stop])

    def fill(
        self, path: Path, processes: Processes = SINGLE_PROCESS, restart: bool = False
    ) -> list[int]:
        """Write what is missing and seal. Returns the blocks that were missing."""
        with self.open(path, processes, restart) as writer:
            for block in writer.missing:
                self.write_block(writer, block)
            if not writer.complete:
                writer.seal()
        return writer.missing

    def holds(self, path: Path) -> bool:
        """Whether the cache of that name, which must open, is this one, row for row."""
        return self.equals(open_cache(path))

    def equals(self, cache: Cache) -> bool:
        if cache.manifest != self.manifest:
            return False
        return all(
            np.array_equal(
                part.logits.reshape(-1, self.classes), self.logits[split].astype(np.float16)
            )
            and all(
                np.array_equal(getattr(part, member), self.arrays[f"{split}/{member}"])
                for member in ("views", "labels", "image_crc32")
            )
            for split, part in cache.splits.items()
        )


@dataclass(frozen=True)
class InTurn(Processes):
    """Several processes played by one, in turn: the others hear what the main one `said`."""

    said: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)

    def barrier(self) -> None:
        """Whoever comes here has been waited for."""

    def broadcast_object(self, function: Callable[[], Any]) -> Any:
        if self.is_main:
            self.said.append(function())
            return self.said[-1]
        self.heard.append(self.said[len(self.heard)])
        return self.heard[-1]


def fill_in_turn(
    job: Job,
    path: Path,
    world: int,
    restart: bool = False,
    finished: Callable[[int], None] = lambda block: None,
) -> None:
    """Fill a cache as `world` processes do that take turns; tell which block is finished."""
    writers: list[CacheWriter] = []
    said: list[Any] = []
    try:
        for rank in range(world):
            writers.append(job.open(path, InTurn(rank, world, rank, said), restart))
        for blocks in zip_longest(*(writer.missing for writer in writers)):
            for writer, block in zip(writers, blocks, strict=True):
                if block is not None:
                    job.write_block(writer, block)
                    finished(block)
        if not writers[0].complete:
            writers[0].seal()
    finally:
        for writer in writers:
            writer.close()


def wrong_name(path: Path, *jobs: Job) -> str | None:
    """What is wrong with the file of the final name.

    It may be absent, or it must be one of these caches, whole.
    """
    try:
        right = any(job.holds(path) for job in jobs)
        return None if right else f"{path.name} opens with wrong rows"
    except KdcacheError as error:
        return f"{path.name} exists and is refused: {error}" if path.exists() else None


@dataclass
class Row:
    """One row of the table, and what went wrong, if anything."""

    what: str
    count: int
    outcome: str = ""
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        bad = f"**{len(self.violations)} violations**; " if self.violations else ""
        return f"| {self.what} | {self.count:,} | {bad}{self.outcome} |"


Run = Callable[[int, int], Row]


def main(run: Run, quick: int, commands: Run | None = None) -> None:
    """The command line of a script whose `run(count, seed)` does its work.

    Args:
        commands: does it with --commands, on what phases.py runs in place of the cache's writer.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=quick)
    parser.add_argument("--seed", type=int, default=0)
    if commands is not None:
        parser.add_argument("--commands", action="store_true", help="both phases' commands")
    arguments = parser.parse_args()
    if commands is not None and arguments.commands:
        run = commands
    row = run(arguments.count, arguments.seed)
    print(row)
    for violation in row.violations[:20]:
        print(violation, file=sys.stderr)
    sys.exit(bool(row.violations))


@dataclass
class Child:
    """A forked process that reports objects through a pipe; what it reported outlives it."""

    pid: int
    pipe: int
    started: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def finish(self, seconds: float = 60) -> tuple[int, list[Any]]:
        """Exit code (minus the signal, or HUNG after `seconds`) and all that it reported."""
        raw, hung, deadline = b"", False, self.started + seconds
        while True:
            if not select.select([self.pipe], [], [], max(0, deadline - time.monotonic()))[0]:
                hung = True
                deadline = time.monotonic() + 60  # by then its death has closed the pipe
                self.kill()
            elif piece := os.read(self.pipe, 1 << 16):
                raw += piece
            else:
                break
        os.close(self.pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return HUNG if hung else code, _objects(raw)


def fork(function: Callable[[Callable[[Any], None]], int | None]) -> Child:
    """Run `function(report)` in a forked child. It returns the exit code; a traceback is 70."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # A progress bar of another test may have left a thread; the child starts none.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code = 70
    try:
        os.close(reading)
        code = function(lambda thing: _send(writing, thing)) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _send(pipe: int, thing: Any) -> None:
    data = pickle.dumps(thing)
    # Short enough to be written whole or not at all.
    _write(pipe, len(data).to_bytes(4, "little") + data)


def _objects(raw: bytes) -> list[Any]:
    things, place = [], 0
    while place + 4 <= len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        things.append(pickle.loads(raw[place + 4 : place + 4 + size]))
        place += 4 + size
    return things


@contextmanager
def replaced(owner: Any, **functions: Any) -> Iterator[None]:
    """Put other functions in a module's or a class's place for a while."""
    real = {name: getattr(owner, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(owner, name, function)
        yield
    finally:
        for name, function in real.items():
            setattr(owner, name, function)


# The calls of `os` that change a disk.
WRITE_CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "replace",
    "unlink",
    "posix_fallocate",
)


@contextmanager
def hooked(around: Callable[..., Any], reading: bool = False) -> Iterator[None]:
    """Let `around(name, real, *arguments)` stand for every call that changes a disk.

    With `reading` also for those that open a file for reading.
    """

    def hook(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not reading and not arguments[1] & os.O_CREAT:
                return real(*arguments, **named)
            return around(name, lambda *other: real(*other, **named), *arguments)

        return call

    hooks = {name: hook(name) for name in WRITE_CALLS}
    with replaced(os, **hooks), replaced(builtins, open=_open_by_hooks):
        yield


_open = open


def _open_by_hooks(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
    """`open`, but a file that is written through a descriptor writes by the calls of `os`."""
    if mode == "wb" and isinstance(file, int):
        return io.BufferedWriter(_ByHooks(file, mode))
    return _open(file, mode, *arguments, **named)


class _ByHooks(io.FileIO):
    """A file as Python's own code would write it if it were not in C."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size

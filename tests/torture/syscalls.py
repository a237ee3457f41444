"""A writer killed at every single call that changes the disk: before it, in the middle of it, and after it.

Simulated: a process that sends itself SIGKILL at each of its calls, in fresh runs of one and of two processes, in runs that
resume, and in runs that replace a finished or an unfinished cache of another manifest. In the middle means: half of the bytes
written. What libhdf5 writes while it makes `NAME.h5.partial.tmp` does not go through Python: the file is left cut short at
many sizes instead, and where strace is installed the process is also killed at each of the kernel calls themselves.
`--count` is a limit: all calls are taken when it is large enough.
"""

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache import cache as cache_file
from torture.common import Job, Row, fork, hooked, main, replaced, wrong_name
from torture.pair import fill_in_turn

JOB, OTHER = Job(), Job("zeros")
KERNEL_CALLS = ("openat", "pwrite64", "write", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "unlink", "close")


@dataclass(frozen=True)
class Scene:
    """What lies in the folder before the run that is killed, and that run."""

    name: str
    prepare: Callable[[Path], Any]
    run: Callable[[Path], Any]
    may_be: tuple[Job, ...] = (JOB,)  # what may bear the final name at any moment


def stop_after(job: Job, blocks: int) -> Callable[[Path], None]:
    def prepare(path: Path) -> None:
        with job.open(path) as writer:
            for block in writer.missing[:blocks]:
                job.write_block(writer, block)

    return prepare


def restart(path: Path) -> None:
    JOB.fill(path, restart=True)


SCENES = (
    Scene("fresh", lambda path: None, JOB.fill),
    Scene("resuming", stop_after(JOB, 3), JOB.fill),
    Scene("two processes", lambda path: None, lambda path: fill_in_turn(JOB, path, 2)),
    Scene("replacing a finished cache", OTHER.fill, restart, (OTHER, JOB)),
    Scene("replacing an unfinished cache", stop_after(OTHER, 3), restart),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(place: int, when: str) -> Callable[..., Any]:
    """For `hooked`: die `when` (before, amid, after) the call number `place`."""
    seen = iter(range(1 << 30))

    def around(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if next(seen) != place:
            return real(*arguments)
        if when == "amid" and name in ("write", "pwrite"):
            fd, data, *offset = arguments
            real(fd, data[: len(data) // 2], *offset)
        elif when == "after":
            real(*arguments)
        die()

    return around


def python_calls(scene: Scene, template: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Every (name, deadly run) of a scene at the calls that Python makes."""
    calls: list[str] = []

    def note(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        calls.append(name)
        return real(*arguments)

    with tempfile.TemporaryDirectory() as folder, hooked(note):
        # hooks see the folder's own making too: it comes first and is dropped
        calls.clear()
        shutil.copytree(template, folder, dirs_exist_ok=True, copy_function=_copy)
        calls.clear()
        scene.run(Path(folder) / "t.h5")
        made = list(calls)
    for place, name in enumerate(made):
        for when in ("before", "amid", "after"):
            if when != "amid" or name in ("write", "pwrite"):

                def deadly(path: Path, place: int = place, when: str = when) -> None:
                    with hooked(killer(place, when)):
                        scene.run(path)

                yield f"{when} call {place} ({name})", deadly

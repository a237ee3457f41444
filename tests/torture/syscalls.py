"""A run killed at every single call that changes the disk: before, amid and after it.

Simulated: a process that sends itself SIGKILL at each of its calls. The cache's writer, in fresh
runs of one and of two processes, in a run that resumes, and in runs that replace a finished or an
unfinished cache of another manifest; with `--commands` the commands of both phases, phase one with
the thread that writes behind the teacher, phase two fresh, resumed, in the place of another run,
and extended. Amid means: half of the bytes are written. What libhdf5 writes while it
makes `NAME.h5.partial.tmp` does not go through Python: that file is left cut short at many sizes
instead, and where strace is installed the process is also killed at the kernel calls themselves,
libhdf5's included. The cases are all there are; a smaller `--count` takes some of them.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdcache.cache import writer as cache_writer
from kdcache.errors import KdcacheError
from torture import phases
from torture.common import Job, Row, fill_in_turn, fork, hooked, main, replaced, wrong_name

JOB, OTHER = Job(), Job("zeros")
KERNEL_CALLS = (
    "openat",
    "pwrite64",
    "write",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "close",
)


@dataclass(frozen=True)
class Scene:
    """What lies in the folder before the run that is killed, and that run."""

    name: str
    prepare: Callable[[Path], Any]
    run: Callable[[Path], Any]


def stop_after_3(job: Job, path: Path) -> None:
    with job.open(path) as writer:
        for block in writer.missing[:3]:
            job.write_block(writer, block)


def replace(path: Path) -> None:
    JOB.fill(path, restart=True)


SCENES = (
    Scene("fresh", lambda path: None, JOB.fill),
    Scene("resuming", lambda path: stop_after_3(JOB, path), JOB.fill),
    Scene("two processes", lambda path: None, lambda path: fill_in_turn(JOB, path, 2)),
    Scene("replacing a finished cache", OTHER.fill, replace),
    Scene("replacing an unfinished cache", lambda path: stop_after_3(OTHER, path), replace),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(place: int, when: str) -> Callable[..., Any]:
    """For `hooked`: die before, amid or after the call number `place`."""
    calls = iter(range(1 << 30))

    def around(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if next(calls) != place:
            return real(*arguments)
        if when == "amid":
            fd, data, *offset = arguments
            real(fd, data[: len(data) // 2], *offset)
        elif when == "after":
            with suppress(OSError):  # there may be nothing to unlink
                real(*arguments)
        die()

    return around


def calls_of(scene: Scene, path: Path) -> list[str]:
    """Names of all calls that a run makes when nothing disturbs it."""
    calls: list[str] = []

    def note(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        calls.append(name)
        return real(*arguments)

    scene.prepare(path)
    with hooked(note):
        scene.run(path)
    return calls


def cut_creation(scene: Scene, path: Path, share: float) -> None:
    """Die while libhdf5 makes the file, of which this share has come to the disk."""
    real = cache_writer.create_file

    def create(temporary: Path, **named: Any) -> None:
        real(temporary, **named)
        os.truncate(temporary, int(share * temporary.stat().st_size))
        die()

    with replaced(cache_writer, create_file=create):
        scene.run(path)


def killed_by_hook(scene: Scene, path: Path, place: int, when: str) -> None:
    with hooked(killer(place, when)):
        scene.run(path)


def moments(name: str) -> tuple[str, ...]:
    """When a process may die at a call."""
    return ("before", "amid", "after") if name in ("write", "pwrite") else ("before", "after")


def cases(folder: Path, expected: bytes) -> Iterator[tuple[str, Callable[[Path], str | None]]]:
    """(name, what is wrong after it) of every case that Python's own calls give."""
    for number, scene in enumerate(SCENES):

        def after(path: Path, deadly: Callable[[Path], None], scene: Scene = scene) -> str | None:
            scene.prepare(path / "t.h5")
            code, _ = fork(lambda report: deadly(path / "t.h5")).finish()
            killed = code == -signal.SIGKILL
            return check(scene, path / "t.h5", expected) if killed else f"ended with {code}"

        for place, name in enumerate(calls_of(scene, folder / f"calls-{number}" / "t.h5")):
            for when in moments(name):
                deadly = partial(killed_by_hook, scene, place=place, when=when)
                yield f"{scene.name}, {when} call {place} ({name})", partial(after, deadly=deadly)
        for share in range(0, 17) if scene.name != "resuming" else ():
            deadly = partial(cut_creation, scene, share=share / 16)
            yield f"{scene.name}, cut short in the making", partial(after, deadly=deadly)


def cases_of_commands() -> Iterator[tuple[str, Callable[[Path], str | None]]]:
    """The same of the commands."""
    for stage in phases.stages():
        for place, name in enumerate(stage.calls()):
            for when in moments(name):
                what = f"{stage.scene.name}, {when} call {place} ({name})"
                yield what, partial(killed_command, stage, place=place, when=when)


def killed_command(stage: phases.Stage, root: Path, place: int, when: str) -> str | None:
    """What is wrong after a command died at a call."""
    stage.set_up(root)
    code, said = stage.disturb(root, lambda report: hooked(killer(place, when)))
    return stage.check(root) if code == -signal.SIGKILL else f"ended with {code}: {said}"


def check(scene: Scene, path: Path, expected: bytes) -> str | None:
    """After a death: what is wrong, if anything, with the final name and with going on."""
    fault = wrong_name(path, JOB, *((OTHER,) if scene.run is replace else ()))
    try:
        try:
            (JOB.fill if scene.run is replace else scene.run)(path)
        except KdcacheError:
            if scene.run is not replace:
                raise
            replace(path)  # what was there was another cache
    except KdcacheError as error:
        return fault or f"it does not go on: {error}"
    if path.read_bytes() != expected:
        fault = fault or "resumed, it is not the undisturbed file"
    leftovers = {other.name for other in path.parent.iterdir()} - {path.name}
    if any("journal" not in name for name in leftovers):
        fault = fault or f"it leaves {leftovers}"
    return fault


def stop_and_run(scene: Scene, path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # until strace has come
    scene.run(path)


def at_kernel_calls(folder: Path, expected: bytes) -> Iterator[str | None]:
    """Die at each kernel call of a fresh run, one after another; what `check` says of each."""
    scene = SCENES[0]
    for call in KERNEL_CALLS:
        code, number = -signal.SIGKILL, 0
        while code == -signal.SIGKILL:
            number += 1
            path = folder / f"{call}-{number}" / "t.h5"
            scene.prepare(path)
            child = fork(lambda report, path=path: stop_and_run(scene, path))
            os.waitpid(child.pid, os.WUNTRACED)
            inject = f"inject={call}:signal=KILL:when={number}"
            command = [
                "strace",
                "-p",
                str(child.pid),
                "-e",
                f"trace={call}",
                "-e",
                inject,
                "-o",
                os.devnull,
            ]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                assert tracer.stderr is not None
                if "attached" not in tracer.stderr.readline():
                    child.kill()
                    child.finish()
                    return
                os.kill(child.pid, signal.SIGCONT)
                code, _ = child.finish()
            if code == -signal.SIGKILL:
                yield check(scene, path, expected)


def carry_out(
    row: Row,
    every: Sequence[tuple[str, Callable[[Path], str | None]]],
    count: int,
    seed: int,
    folder: Path,
) -> bool:
    """Take `count` of the cases, each in a folder of its own; whether these are all."""
    chosen = every if count >= len(every) else random.Random(seed).sample(every, count)
    for number, (what, outcome) in enumerate(chosen):
        fault = outcome(folder / f"{number}")
        row.violations += [f"{what}: {fault}"] if fault else []
        shutil.rmtree(folder / f"{number}")
    row.count = len(chosen)
    return len(chosen) == len(every)


def run(count: int, seed: int) -> Row:
    row = Row("SIGKILL at every call that writes: before, amid, after", 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        JOB.fill(folder / "undisturbed.h5")
        expected = (folder / "undisturbed.h5").read_bytes()
        every = list(cases(folder, expected))
        whole = carry_out(row, every, count, seed, folder)
        row.outcome = (
            f"{'all' if whole else f'{row.count} of'} {len(every)} cases of {len(SCENES)} scenes,"
            " each resumed to the undisturbed file"
        )
        if whole and shutil.which("strace") and sys.platform == "linux":
            faults = list(at_kernel_calls(folder, expected))
            row.violations += [f"kernel call: {fault}" for fault in faults if fault]
            row.count += len(faults)
            row.outcome += (
                f"; {len(faults)} more at the kernel calls of a fresh run, libhdf5's included"
            )
    return row


def run_commands(count: int, seed: int) -> Row:
    row = Row("The same of the commands `precompute` and `train`", 0)
    with tempfile.TemporaryDirectory() as name:
        every = list(cases_of_commands())
        whole = carry_out(row, every, count, seed, Path(name))
    row.outcome = (
        f"{'all' if whole else f'{row.count} of'} {len(every)} cases of {len(phases.SCENES)}"
        " scenes; the same command went on to the undisturbed files, bit for bit"
    )
    return row


if __name__ == "__main__":
    main(run, 60, run_commands)

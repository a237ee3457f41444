"""Power losses: what a disk may hold when the machine stops, from a record of what it was asked.

Recorded: every write, size and synchronisation of every file, and every name made, changed or
removed, of fresh runs of one, two and four processes, of runs that replace a cache of another
manifest, and of runs that resume after a power loss; with `--commands`, of `precompute` and `train`
in the scenes of phases.py. What libhdf5 wrote is recorded as the 512-byte
sectors that differ when Python opens the file next.

Simulated: the run is cut at any moment; of what no completed fsync or fdatasync of that file
covers, each write and each change of size is kept, lost, or kept in some of its sectors (which
includes every order of them); of what no fsync of the folder covers, each name made, renamed or
removed is kept or lost, a rename as a whole. That allows more than today's file systems do, which
keep names in order and a new file's name with its fsync. Not simulated: a disk that lies about
fsync, or loses what it once kept.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as count_from_0
from pathlib import Path
from typing import Any

import torch

from kdcache.cli.callbacks import ShowTraining
from kdcache.errors import KdcacheError
from kdcache.runs import EpochRecord
from torture import phases
from torture.common import Job, Row, fill_in_turn, hooked, main, replaced, wrong_name
from torture.disk import Disk, Finished, crash, materialise
from torture.phases import snapshot

JOB, OTHER = Job(), Job("zeros")  # an untrained ViT gives zeros, the very bytes of reserved space
SCENES = (
    "1 process",
    "2 processes",
    "4 processes",
    "replacing a finished cache",
    "replacing an unfinished cache",
)


def record(scene: str, root: Path, generator: random.Random) -> Disk:
    """Carry out a run under `root` and record it; in `root` lies what earlier runs left."""
    path = root / "new" / "t.h5"
    if scene == "replacing a finished cache":
        OTHER.fill(path)
    elif scene == "replacing an unfinished cache":
        with OTHER.open(path) as writer:
            for block in writer.missing[:3]:
                OTHER.write_block(writer, block)
    disk = Disk(root)
    with hooked(disk, reading=True):
        fill_in_turn(
            JOB,
            path,
            world=int(scene[0]) if scene[0].isdigit() else generator.choice((1, 2)),
            restart="replacing" in scene,
            finished=lambda block: disk.log.append(Finished(block)),
        )
    disk.log.append(Finished(None))
    return disk


def check(scene: str, root: Path, safe: set[int | None], expected: bytes) -> str | None:
    """After a crash: what is wrong with the final name, with going on, or with what was `safe`."""
    path = root / "new" / "t.h5"
    fault = wrong_name(path, JOB, *((OTHER,) if scene == "replacing a finished cache" else ()))
    if None in safe and (not path.exists() or wrong_name(path, JOB)):
        fault = fault or "a finished cache is lost"
    try:
        missing = JOB.fill(path)
        if safe & set(missing):
            fault = fault or f"finished blocks {safe & set(missing)} are lost"
    except KdcacheError as error:
        if "replacing" not in scene:
            return fault or f"it does not go on: {error}"
        JOB.fill(path, restart=True)
    return fault or (
        None if path.read_bytes() == expected else "resumed, it is not the undisturbed file"
    )


def records(folder: Path, generator: random.Random) -> Iterator[tuple[str, Disk]]:
    """Recorded runs without end.

    Of every scene, and every other time one that goes on after a crash of the last.
    """
    disk = None
    for number in count_from_0():
        scene, root = SCENES[number // 2 % len(SCENES)], folder / f"{number}"
        root.mkdir()
        going_on = disk is not None and number % 2 and "replacing" not in scene
        if going_on:
            materialise(
                crash(disk.log, generator.randint(disk.first, len(disk.log)), generator), root
            )
        disk = record(scene, root, generator)
        yield f"{scene}, going on" if going_on else scene, disk
        shutil.rmtree(root)


def run(count: int, seed: int) -> Row:
    row = Row("Power lost at random moments: writes dropped, reordered, torn", count)
    generator = random.Random(seed)
    recorded = promised = 0
    # the disk is simulated, so the real one may rest
    with (
        tempfile.TemporaryDirectory() as name,
        replaced(os, fsync=lambda fd: None, fdatasync=lambda fd: None),
    ):
        folder = Path(name)
        JOB.fill(folder / "undisturbed.h5")
        expected = (folder / "undisturbed.h5").read_bytes()
        recording, states_of_a_record = records(folder, generator), min(100, count // 20 + 1)
        for number in range(count):
            if number % states_of_a_record == 0:
                (scene, disk), recorded = next(recording), recorded + 1
            cut, root = generator.randint(disk.first, len(disk.log)), folder / "crash"
            materialise(crash(disk.log, cut, generator), root)
            safe = {
                operation.block for operation in disk.log[:cut] if isinstance(operation, Finished)
            }
            promised += len(safe - {None})
            if fault := check(scene, root, safe, expected):
                row.violations.append(f"{scene}, operation {cut} of {len(disk.log)}: {fault}")
            shutil.rmtree(root)
    row.outcome = (
        f"{recorded} recorded runs; each state resumed to the undisturbed file,"
        " no wrong row under the final name,"
        f" none of {promised:,} blocks lost that were finished before"
    )
    return row


def record_command(stage: phases.Stage, root: Path) -> Disk:
    """Carry out a command in `root` and record it, and what it has said to be saved."""

    @contextmanager
    def recording(report: Callable[[Any], None]) -> Iterator[None]:
        disk = Disk(Path.cwd())

        def on_epoch(shown: Any, run: Any, record: EpochRecord) -> None:
            disk.log.append(Finished(record.epoch))

        with hooked(disk, reading=True), replaced(ShowTraining, on_epoch=on_epoch):
            yield
        disk.log.append(Finished(None))
        report(disk)

    code, said = stage.disturb(root, recording)
    assert code == 0, said
    return said[0]


def check_command(stage: phases.Stage, root: Path, safe: set[int | None]) -> str | None:
    """What is wrong with what was `safe`, epochs or all of it (None), or with going on."""
    fault = None
    if None in safe and snapshot(root) != stage.expected:
        fault = "a finished run is lost"
    elif epochs := [epoch for epoch in safe if epoch is not None]:
        path = root / "new" / "run" / "last.pt"
        kept = len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0
        fault = f"epoch {max(epochs)} is lost" if kept < max(epochs) else None
    return fault or stage.check(root)


def run_commands(count: int, seed: int) -> Row:
    row = Row("The same of the commands `precompute` and `train`", count)
    generator = random.Random(seed)
    recorded, disk, ends = 0, None, Counter[bool]()
    with (
        tempfile.TemporaryDirectory() as name,
        replaced(os, fsync=lambda fd: None, fdatasync=lambda fd: None),
    ):
        folder = Path(name)
        stages = phases.stages()
        of_a_record = min(50, count // 20 + 1)
        for number in range(count):
            if number % of_a_record == 0:
                root = folder / f"{number}"
                going_on = disk is not None and recorded % 2 == 1
                stage = stages[recorded // 2 % len(stages)]
                if going_on and disk is not None:  # with what a loss of power has left
                    cut = generator.randint(disk.first, len(disk.log))
                    materialise(crash(disk.log, cut, generator), root)
                else:
                    stage.set_up(root)
                disk, recorded = record_command(stage, root), recorded + 1
                shutil.rmtree(root)
            assert disk is not None
            cut, root = generator.randint(disk.first, len(disk.log)), folder / "crash"
            materialise(crash(disk.log, cut, generator), root)
            safe = {
                operation.block for operation in disk.log[:cut] if isinstance(operation, Finished)
            }
            ends[bool(safe)] += 1
            if fault := check_command(stage, root, safe):
                row.violations.append(
                    f"{stage.scene.name}, operation {cut} of {len(disk.log)}: {fault}"
                )
            shutil.rmtree(root)
    row.outcome = (
        f"{recorded} recorded runs of {len(stages)} scenes; the same command went on from each"
        " state to the undisturbed files, bit for bit; in"
        f" {ends[True]:,} states an epoch or all had been saved, and was there"
    )
    return row


if __name__ == "__main__":
    main(run, 300, run_commands)

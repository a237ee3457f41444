"""Random damage to every file that the tool writes: no other number is ever read from it.

Simulated: the damages of corruption.py, to the cache and its probe, to a partial file and its
journal, and to all that a run leaves but its pictures. Each damaged file is read as the commands
read it. It may be refused by name, or give what was written: spaces in a JSON file say nothing, and
what a journal has lost is computed again. Not simulated: damage to two files at once, and edits
with intent, which make the digests anew.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.cache import open_cache
from kdcache.distill import probe_file
from kdcache.errors import KdcacheError
from kdcache.models import read_state_dict, read_student_card
from kdcache.runs import RunRecorder, read_config, read_run
from kdcache.runs.predictions import read_predictions
from torture import phases
from torture.common import Job, Row, main, replaced
from torture.corruption import KINDS, damage
from torture.phases import plain

JOB = Job()
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Target:
    """A file, and what its readers make of it, in a form that can be compared."""

    path: Path
    read: Callable[[], Any]


def _arrays(path: Path) -> Any:
    cache = open_cache(path)
    names = ("logits", "views", "labels", "image_crc32")
    return cache.manifest, [
        getattr(split, name).tobytes() for split in cache.splits.values() for name in names
    ]


def _resumed(folder: Path) -> bytes:
    """The cache that is made of a partial file; a copy of the folder is used up for it."""
    copy = folder.with_name("resumed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    JOB.fill(copy / "t.h5")
    return (copy / "t.h5").read_bytes()


def _run(folder: Path) -> Any:
    run = read_run(folder)
    return run.summary, run.config, run.history


def targets(root: Path) -> list[Target]:
    """Every file, in a folder that is filled for it."""
    stage = next(stage for stage in phases.stages() if stage.scene is phases.FRESH)
    stage.set_up(root)
    assert stage.disturb(root)[0] == 0
    path, run = root / "new" / "t.h5", root / "new" / "run"
    cache, recorder = open_cache(path), RunRecorder(run)
    partial = root / "partial"
    with JOB.open(partial / "t.h5") as writer:
        for block in writer.missing[:4]:
            JOB.write_block(writer, block)

    def last() -> Any:
        found = recorder.read_last(CPU)
        assert found is not None
        return plain(found.trainer), found.history, found.seconds, found.config

    def predictions() -> Any:
        found = read_predictions(run / "predictions.pt")
        assert found is not None
        return plain([found.labels, found.student, found.teacher])

    return [
        Target(path, lambda: _arrays(path)),
        Target(
            probe_file.probe_path(cache),
            lambda: plain(probe_file._read(probe_file.probe_path(cache), cache)),
        ),
        Target(partial / "t.h5.partial", lambda: _resumed(partial)),
        Target(partial / "t.h5.partial.journal-0", lambda: _resumed(partial)),
        Target(run / "student.pt", lambda: plain(read_state_dict(run / "student.pt"))),
        Target(run / "best.pt", lambda: plain(list(recorder.read_best(CPU)))),
        Target(run / "last.pt", last),
        Target(run / "predictions.pt", predictions),
        Target(run / "student.json", lambda: read_student_card(run / "student.json")),
        Target(run / "config.json", lambda: read_config(run)),
        Target(run / "summary.json", lambda: _run(run)),
        Target(run / "metrics.jsonl", lambda: _run(run)),
    ]


def run(count: int, seed: int) -> Row:
    row = Row(
        "Random damage to every file: cache, probe, partial file, journal, runs' files", count
    )
    generator = random.Random(seed)
    ends: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(os, fsync=lambda fd: None, fdatasync=lambda fd: None),
    ):
        every = targets(Path(folder) / "root")
        good = [(target.path.read_bytes(), target.read()) for target in every]
        for number in range(count):
            place, kind = number % len(every), KINDS[number // len(every) % len(KINDS)]
            target, (content, expected) = every[place], good[place]
            bad = damage(content, kind, generator)
            if bad == content:
                continue  # by chance no damage
            target.path.write_bytes(bad)
            try:
                found = target.read()
            except KdcacheError:
                ends["refused"] += 1
            except Exception as error:
                row.violations.append(f"trial {number}: {target.path.name}, {kind}: {error!r}")
            else:
                ends["gave what was written"] += 1
                if found != expected:
                    row.violations.append(f"trial {number}: {target.path.name}, {kind}: accepted")
            target.path.write_bytes(content)
    row.count = ends.total() + len(row.violations)
    row.outcome = (
        f"{len(every)} files: {', '.join(f'{ends[end]:,} {end}' for end in sorted(ends))};"
        " 0 accepted with other numbers, 0 tracebacks"
        if not row.violations
        else f"{ends}"
    )
    return row


if __name__ == "__main__":
    main(run, 2000)

"""Many students of one cache: every combination of some settings, each with several seeds."""

import fcntl
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdcache.config import Role, TrainOptions
from kdcache.engine import StudentRun, TrainingData
from kdcache.errors import KdcacheError
from kdcache.report import draw_pictures
from kdcache.runs import RunSummary, read_history, read_run, resumed_options
from kdcache.runtime import write_json

_FAILED, _STOPPED = "failed.json", "stopped.json"


_PATIENCE = 0.25  # share of the epochs before a student may be stopped


def combinations(
    base: TrainOptions, settings: Mapping[str, Sequence[Any]], seeds: Sequence[int]
) -> list[TrainOptions]:
    """The options of every student: one for each combination of `settings` and each seed, seeds outermost.

    Each gets a folder of its own in `base.out`, named after its settings. Seeds are outermost so that after the first
    third of the time every combination has been seen once.

    Raises KdcacheError where a setting is of something that all of them share.
    """
    for name in settings:
        if name not in TrainOptions.names(Role.RECIPE):
            expected = "--set of options in which students of one cache can differ"
            raise KdcacheError(
                expected, f"--set {name}", "run a sweep for each value, or use --seeds"
            )
    students = []
    for seed in seeds:
        for values in itertools.product(*settings.values()):
            chosen = dict(zip(settings, values, strict=True)) | {"seed": seed}
            name = ",".join(f"{key}={value}".replace("/", "_") for key, value in chosen.items())
            students.append(base.replace(**chosen, out=base.out / name))
    return students


def train_all(
    students: Sequence[TrainOptions],
    training_data: TrainingData,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
    student_progress: Callable[[int, int], None],
    stop_early: bool = False,
    show_epoch: Callable[[str], None] = lambda text: None,
) -> list[RunSummary]:
    """Train every student that is not finished, one after the other; the images, cache and soft targets are shared.

    Several processes may run the same sweep at once: each takes the students that no other one is training. What was
    interrupted is resumed. A student that fails is recorded in its folder and the rest go on; it is tried again in
    the next call.

    Args:
        progress: called with (students finished, students in all).
        student_progress: called with (steps done, steps in all) of the student at hand.
        stop_early: end a student once a quarter of its epochs is over and its best validation accuracy so far is below
            the median of what the others had reached by that epoch (the median stopping rule of Golovin et al., "Google
            Vizier", 2017, with the best instead of the mean). What is stopped is not tested.
        show_epoch: called with a short line about each epoch of the student at hand.

    Returns the summaries of the finished students.

    Raises KdcacheError where a folder holds a student of other options.
    """
    for options in students:
        _check_folder(options)
    for number, options in enumerate(students):
        progress(number, len(students))
        if finished([options]) or (options.out / _STOPPED).exists():
            continue
        with _claimed(options.out) as mine:
            if not mine:
                say(f"{options.out.name}: another process is at it")
                continue
            if finished([options]):  # by another process, just before
                continue
            try:
                say(f"{options.out.name}")
                run = StudentRun(
                    _begun(options),
                    training_data,
                    lambda text: None,
                    student_progress,
                    show_epoch=show_epoch,
                )
                run.train(partial(_below_median, students) if stop_early else None)
                if len(run.history) < run.options.epochs:
                    write_json(
                        options.out / _STOPPED, {"epoch": len(run.history), "history": run.history}
                    )
                    say(
                        f"{options.out.name}: stopped after epoch {len(run.history)}, below the median"
                    )
                    continue
                summary = run.finish()
                draw_pictures(run)
                say(f"{options.out.name}: test accuracy {summary['test_accuracy']:.2%}")
                (options.out / _FAILED).unlink(missing_ok=True)
            except (KdcacheError, RuntimeError) as error:
                write_json(options.out / _FAILED, {"error": str(error)})
                say(f"{options.out.name}: failed: {error}")
    progress(len(students), len(students))
    return [read_run(options.out).summary for options in finished(students)]


def finished(students: Sequence[TrainOptions]) -> list[TrainOptions]:
    """Those that have been trained and tested."""
    return [options for options in students if (options.out / "summary.json").exists()]


def start_helpers(jobs: int, command: Sequence[str]) -> list[subprocess.Popen]:
    """Start `jobs` - 1 more processes of the same sweep, each on the next GPU where there are several."""
    gpus = torch.cuda.device_count()
    helpers = []
    for number in range(1, jobs):
        device = ["--device", f"cuda:{number % gpus}"] if gpus else []
        arguments = [sys.executable, "-m", "kdcache", *command, "--jobs", "1", *device]
        helpers.append(
            subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    return helpers


def _below_median(students: Sequence[TrainOptions], history: Sequence[Mapping[str, float]]) -> bool:
    """Whether a student's history so far is worse than that of half of the others at the same epoch."""
    epochs = len(history)
    if epochs < _PATIENCE * students[0].epochs:
        return False
    others = []
    for options in students:
        held = read_history(options.out)
        if len(held) > epochs:  # it has gone further than this one
            others.append(max(entry.validation_accuracy for entry in held[:epochs]))
    best = max(entry["validation_accuracy"] for entry in history)
    return bool(others) and best < statistics.median(others)


def _begun(options: TrainOptions) -> TrainOptions:
    """The options with which an interrupted student goes on; its own where there is none."""
    return resumed_options(options.out) if (options.out / "config.json").exists() else options


def _check_folder(options: TrainOptions) -> None:
    """Raise KdcacheError where the student's folder was begun with other options."""
    path = options.out / "config.json"
    if not path.exists():
        return
    held = resumed_options(
        options.out
    ).as_dict()  # an older version's folder lacks what was not an option then
    ours = options.as_dict()
    shaping = TrainOptions.names(Role.DATA, Role.RECIPE, Role.SEED)
    faults = [
        f"{key} {held.get(key)}, not {value}"
        for key, value in ours.items()
        if key in shaping and value not in (None, "auto") and _plain(value) != _plain(held.get(key))
    ]
    if faults:
        raise KdcacheError(
            "a sweep folder of the same options",
            f"{options.out} with {'; '.join(faults)}",
            "give another --out",
        )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may train the student of a folder; nobody else may until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True

"""Many students of one cache: every combination of some settings, each with several seeds."""

import statistics
from collections.abc import Sequence

from torch import Tensor

from kdcache.config import Role, TrainOptions
from kdcache.engine import StudentRun, TrainingCallbacks, TrainingData
from kdcache.errors import KdcacheError, OptionError
from kdcache.runs import (
    EpochRecord,
    RunSummary,
    claim,
    read_config,
    read_history,
    read_summary,
    resumed_options,
)
from kdcache.runtime import write_json
from kdcache.search.grid import finished

_FAILED, _STOPPED = "failed.json", "stopped.json"
_PATIENCE = 0.25  # fraction of the epochs before a student may be stopped


class SweepCallbacks(TrainingCallbacks):
    """What a sweep tells beside what its students tell.

    The methods do nothing until they are overridden.
    """

    def on_student(self, finished: int, total: int) -> None:
        """Before each student, and at the end: how many have been dealt with."""


def train_all(
    students: Sequence[TrainOptions],
    data: TrainingData,
    callbacks: SweepCallbacks | None = None,
    *,
    stop_early: bool = False,
) -> list[RunSummary]:
    """Train every student that is not finished, one after the other, from the same data.

    Several processes may run the same sweep at once: each takes the students that no other one is
    training, and waits for those at the end. What was interrupted is resumed. A student that fails
    is recorded in its folder and the rest go on; it is tried again in the next call.

    Args:
        callbacks: what is told of the sweep and of each student.
        stop_early: end a student once a quarter of its epochs is over and its best validation
            accuracy so far is below the median of what the others had reached by that epoch (the
            median stopping rule of Golovin et al., "Google Vizier", 2017, with the best instead of
            the mean). What is stopped is not tested.

    Returns the summaries of the finished students.

    Raises OptionError where a folder holds a student of other options.
    """
    callbacks = callbacks or SweepCallbacks()
    for options in students:
        _check_folder(options, data)
    busy = []
    for number, options in enumerate(students):
        callbacks.on_student(number, len(students))
        if _dealt_with(options):
            continue
        with claim(options.out) as mine:
            if not mine:
                callbacks.on_message(f"{options.out.name}: another process is at it")
                busy.append(options)
            elif not _dealt_with(options):  # by another process, just before
                _train_one(options, students, data, callbacks, stop_early)
    for options in busy:  # what the other process did not finish is left to this one
        with claim(options.out, wait=True):
            if not (_dealt_with(options) or (options.out / _FAILED).exists()):
                _train_one(options, students, data, callbacks, stop_early)
    callbacks.on_student(len(students), len(students))
    summaries = (read_summary(options.out) for options in finished(students))
    return [summary for summary in summaries if summary is not None]


def _dealt_with(options: TrainOptions) -> bool:
    """Whether a student is finished, or was stopped early."""
    return bool(finished([options])) or (options.out / _STOPPED).exists()


def _train_one(
    options: TrainOptions,
    students: Sequence[TrainOptions],
    data: TrainingData,
    callbacks: SweepCallbacks,
    stop_early: bool,
) -> None:
    """Train a student, or go on with it; what goes wrong is recorded in its folder."""
    name = options.out.name
    callbacks.on_message(name)
    begun = read_config(options.out) is not None
    own = _OfOneStudent(callbacks, students if stop_early else ())
    try:
        if begun:
            code = {name: getattr(options, name) for name in TrainOptions.names_of_code()}
            options = resumed_options(options.out, **code)
        run = StudentRun(options, data, own)
        run.train()
        if len(run.history) < run.config.epochs:
            epoch, history = len(run.history), [record.to_json() for record in run.history]
            write_json(options.out / _STOPPED, {"epoch": epoch, "history": history})
            callbacks.on_message(f"{name}: stopped after epoch {epoch}, below the median")
            return
        summary = run.finish()
        callbacks.on_message(f"{name}: test accuracy {summary.test_accuracy:.2%}")
        (options.out / _FAILED).unlink(missing_ok=True)
    except (KdcacheError, RuntimeError) as error:
        write_json(options.out / _FAILED, {"error": str(error)})
        callbacks.on_message(f"{name}: failed: {error}")


class _OfOneStudent(TrainingCallbacks):
    """A student's own callbacks within a sweep.

    Its plan is not printed, and it may be stopped early.
    """

    def __init__(self, sweep: SweepCallbacks, others: Sequence[TrainOptions]) -> None:
        self._sweep, self._others = sweep, others

    def on_step(self, done: int, total: int) -> None:
        self._sweep.on_step(done, total)

    def on_batch(
        self, run: StudentRun, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
    ) -> None:
        self._sweep.on_batch(run, step, image_index, view_index, inputs)

    def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
        self._sweep.on_epoch(run, record)

    def on_tested(self, run: StudentRun) -> None:
        self._sweep.on_tested(run)

    def on_finished(self, run: StudentRun) -> None:
        self._sweep.on_finished(run)

    def should_stop(self, history: Sequence[EpochRecord]) -> bool:
        return bool(self._others) and _below_median(self._others, history)


def _below_median(students: Sequence[TrainOptions], history: Sequence[EpochRecord]) -> bool:
    """Whether a student is worse so far than half of the others were at the same epoch."""
    epochs = len(history)
    if epochs < _PATIENCE * students[0].epochs:
        return False
    others = []
    for options in students:
        records = read_history(options.out)
        if len(records) > epochs:  # it has gone further than this one
            others.append(_best(records[:epochs]))
    return bool(others) and _best(history) < statistics.median(others)


def _best(history: Sequence[EpochRecord]) -> float:
    return max(record.validation_accuracy for record in history)


def _check_folder(options: TrainOptions, data: TrainingData) -> None:
    """Raise OptionError where the student was begun with other options or another cache."""
    held = read_config(options.out)
    if held is None:
        return
    faults, options, used = [], options.used_only(), held.options.used_only()
    for name in TrainOptions.names(Role.DATA, Role.RECIPE, Role.SEED):
        ours, theirs = getattr(options, name), getattr(used, name)
        if ours not in (None, "auto") and ours != theirs:  # else it was filled in by default
            faults.append(f"{name} {theirs}, not {ours}")
    fingerprint = data.cache.fingerprint if data.cache else None
    content_digest = data.cache.content_digest if data.cache else None
    if held.fingerprint != fingerprint or not held.same_content(content_digest):
        faults.append("another cache")
    if faults:
        expected, found = (
            "a sweep folder of the same options",
            f"{options.out} with {'; '.join(faults)}",
        )
        raise OptionError(expected, found, "give another --out")

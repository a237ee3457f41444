"""Many students of one cache: every combination of some settings, or those that a search tries."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from kdcache.config import Role, TrainOptions
from kdcache.engine import StudentRun, TrainingCallbacks, TrainingData
from kdcache.errors import KdcacheError, OptionError, uncovered_interrupts
from kdcache.runs import (
    EpochRecord,
    RunSummary,
    claim,
    read_config,
    read_summary,
    resumed_options,
)
from kdcache.search.grid import finished
from kdcache.search.plan import SweepPlan
from kdcache.search.study import (
    ERROR,
    SEED,
    STUDENT,
    chosen_values,
    enqueue_missing,
    open_study,
    outcomes,
    students_of,
)

if TYPE_CHECKING:
    from optuna.trial import Trial

_PAUSE = 0.5  # seconds between two looks at what other processes are training


class SweepCallbacks(TrainingCallbacks):
    """What a sweep tells beside what its students tell.

    The methods do nothing until they are overridden.
    """

    def on_student(self, finished: int, total: int) -> None:
        """Before each student, and at the end: how many are finished."""


class _NothingQueued(KdcacheError):
    """Another process took the last student of the queue."""

    def __init__(self) -> None:
        super().__init__("a queued student", "none", "nothing is to be done")


class Sweep:
    """The students of a plan, trained from the same data.

    Several processes may run the same plan at once, also on several machines where they share the
    database of `plan.storage`.

    Args:
        helper: whether this process is one of several that were started together.

    Raises OptionError where a folder holds a student of other options, and as `open_study` does.
    """

    def __init__(
        self,
        plan: SweepPlan,
        data: TrainingData,
        callbacks: SweepCallbacks | None = None,
        *,
        helper: bool = False,
    ) -> None:
        self.plan, self.data = plan, data
        self._callbacks = callbacks or SweepCallbacks()
        for _, options in plan.grid:
            _check_folder(options, data)
        content = data.cache.content_digest if data.cache else None
        self._study = open_study(plan, content, helper=helper)

    @property
    def students(self) -> list[TrainOptions]:
        """Those that are known so far; a search adds to them."""
        return students_of(self._study, self.plan)

    @property
    def total(self) -> int:
        """How many students there are to be."""
        if self.plan.search is None:
            return len(self.plan.grid)
        return self.plan.search * len(self.plan.seeds)

    def outcomes(self) -> tuple[list[str], list[tuple[str, str]]]:
        """The names of the students that the pruner ended; of those that failed, with the error."""
        return outcomes(self._study)

    @uncovered_interrupts()  # Optuna may fail while it gives back its lock on the study
    def run(self) -> list[RunSummary]:
        """Train every student that is not finished.

        What was interrupted is resumed, what other processes are training is waited for, and what
        they leave unfinished is trained here. A student that fails is recorded in the study, and
        the rest go on; it is tried again in the next call.

        Returns the summaries of the finished students.
        """
        queued, running = enqueue_missing(self._study, self.plan, retry=True)
        while queued or running:
            self._tell()
            if queued:
                caught = (KdcacheError, RuntimeError)
                with contextlib.ExitStack() as held:  # until the study knows how it ended
                    self._study.optimize(partial(self._train, held), n_trials=1, catch=caught)
            else:
                time.sleep(_PAUSE)
            queued, running = enqueue_missing(self._study, self.plan)
        self._tell()
        summaries = (read_summary(options.out) for options in finished(self.students))
        return [summary for summary in summaries if summary is not None]

    def _tell(self) -> None:
        self._callbacks.on_student(len(finished(self.students)), self.total)

    def _train(self, held: contextlib.ExitStack, trial: "Trial") -> float:
        """The validation accuracy of a trial's student, which is claimed until `held` ends."""
        import optuna

        if SEED not in trial.user_attrs:
            raise _NothingQueued
        values = chosen_values(trial, self.plan)
        options = self.plan.student(values, trial.user_attrs[SEED])
        name = options.out.name
        try:
            with uncovered_interrupts():  # before one could be taken for a fault of the student
                trial.set_user_attr(STUDENT, name)
                _check_folder(options, self.data)
                held.enter_context(claim(options.out, wait=True))
                summary = _train_claimed(options, self.data, self._callbacks, trial)
        except (KdcacheError, RuntimeError) as error:
            trial.set_user_attr(ERROR, f"{error}")
            self._callbacks.on_message(f"{name}: failed: {error}")
            raise
        if summary is None:
            self._callbacks.on_message(f"{name}: ended early by the {self.plan.pruner} pruner")
            raise optuna.TrialPruned
        return summary.validation_accuracy


def train_one(
    options: TrainOptions, data: TrainingData, callbacks: SweepCallbacks
) -> RunSummary | None:
    """Train a student, or go on with it, unless it is finished or another process is at it.

    Returns its summary; None where it was left alone. Raises OptionError where its folder holds a
    student of other options, and what training raises.
    """
    _check_folder(options, data)
    with claim(options.out) as mine:
        return _train_claimed(options, data, callbacks) if mine else None


def _train_claimed(
    options: TrainOptions,
    data: TrainingData,
    callbacks: SweepCallbacks,
    trial: "Trial | None" = None,
) -> RunSummary | None:
    """The same, in a folder that nobody else writes.

    Args:
        trial: is told the validation accuracy after each epoch, and may end the student early;
            the result is then None.
    """
    if finished([options]):
        return read_summary(options.out)
    name = options.out.name
    callbacks.on_message(name)
    if read_config(options.out) is not None:
        code = {name: getattr(options, name) for name in TrainOptions.names_of_code()}
        options = resumed_options(options.out, **code)
    run = StudentRun(options, data, _OfOneStudent(callbacks, trial))
    run.train()
    if len(run.history) < run.config.epochs:
        return None
    summary = run.finish()
    callbacks.on_message(f"{name}: test accuracy {summary.test_accuracy:.2%}")
    return summary


class _OfOneStudent(TrainingCallbacks):
    """A student's own callbacks within a sweep.

    Its plan is not printed, and its trial may end it early.
    """

    def __init__(self, sweep: SweepCallbacks, trial: "Trial | None") -> None:
        self._sweep, self._trial = sweep, trial
        self._reported = 0

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
        if self._trial is None:
            return False
        for record in history[self._reported :]:
            self._trial.report(record.validation_accuracy, record.epoch)
        self._reported = len(history)
        return self._trial.should_prune()


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

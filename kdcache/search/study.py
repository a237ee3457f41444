"""The study of a sweep, by Optuna: which student comes next, and what each has reached.

A trial is one student. Its attributes say which: `seed`, and `student`, the name of its folder. A
trial of a search has no such name until the sampler has chosen its values. One that failed has the
`error`; one that tries a lost student again has `retry`. The value of a trial is the student's
validation accuracy.
"""

import importlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kdcache.config import TrainOptions
from kdcache.errors import DataError, OptionError
from kdcache.runs import claim
from kdcache.runtime import open_locked
from kdcache.search.grid import finished
from kdcache.search.plan import SweepPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

_STUDY_FILE = "study.log"
_HEARTBEAT = 60  # seconds between a machine's signs of life in a database
_STARTING = timedelta(seconds=5)  # at most, from the choice of a trial to the lock on its folder
SEED, STUDENT, ERROR, RETRY = "seed", "student", "error", "retry"


def open_study(plan: SweepPlan, content: str | None, *, helper: bool = False) -> "optuna.Study":
    """The study of a sweep, begun or gone on with.

    Args:
        content: the digest of what the cache holds.
        helper: whether this is one of several processes with the same plan; then the sampler is
            seeded by chance, so that they do not try the same settings.

    Raises OptionError where Optuna is not installed, DataError where the study cannot be opened.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = _storage(plan)
        study = optuna.create_study(
            storage=storage,
            study_name=plan.study_name(content),
            direction="maximize",
            pruner=_pruner(plan),
            load_if_exists=True,
        )
    except Exception as error:  # of whichever database it is
        where = plan.storage or plan.base.out / _STUDY_FILE
        first = f"{error}".strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"a study in {where}", first, "correct --storage, or move the damaged file away"
        ) from error
    seed = None if helper or plan.storage else plan.base.seed + len(study.trials)
    if plan.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed)
    else:
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return study


def _storage(plan: SweepPlan) -> "optuna.storages.BaseStorage":
    storages = _optuna().storages
    if plan.storage is None:
        plan.base.out.mkdir(parents=True, exist_ok=True)
        backend = storages.journal.JournalFileBackend(str(plan.base.out / _STUDY_FILE))
        return storages.JournalStorage(backend)
    with _experiments_allowed():
        return storages.RDBStorage(
            plan.storage,
            heartbeat_interval=_HEARTBEAT,
        )


def enqueue_missing(
    study: "optuna.Study", plan: SweepPlan, *, retry: bool = False
) -> tuple[int, int]:
    """Queue every student that is neither queued nor being trained nor dealt with.

    What a process was training that has ended is queued again. So are, in a search, the further
    seeds of each setting whose first seed is finished.

    Args:
        retry: those that failed, too.

    Returns how many are queued, and how many are being trained.
    """
    state = _optuna().trial.TrialState
    with _alone(plan):
        _fail_abandoned(study, plan)
        trials = [t for t in study.get_trials(deepcopy=False) if SEED in t.user_attrs]
        kept: list[FrozenTrial] = []
        lost: list[FrozenTrial] = []
        for trial in trials:
            failed = trial.state == state.FAIL and (retry or ERROR not in trial.user_attrs)
            (lost if failed else kept).append(trial)
        known = {name for trial in kept if (name := _name_if_left(trial, plan))}
        for options, values, attributes in _wanted(plan, kept, lost):
            if options is not None:
                if options.out.name in known:
                    continue
                known.add(options.out.name)
                attributes = {SEED: options.seed, STUDENT: options.out.name, **attributes}
            study.enqueue_trial(dict(values), attributes)
        unfinished = study.get_trials(deepcopy=False, states=(state.WAITING, state.RUNNING))
    queued = sum(trial.state == state.WAITING for trial in unfinished)
    return queued, len(unfinished) - queued


def _fail_abandoned(study: "optuna.Study", plan: SweepPlan) -> None:
    """Have the trials fail whose process has ended."""
    optuna = _optuna()
    if plan.storage is not None:
        with _experiments_allowed():
            optuna.storages.fail_stale_trials(study)
        return
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if _is_abandoned(trial, plan):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _wanted(
    plan: SweepPlan, kept: "list[FrozenTrial]", lost: "list[FrozenTrial]"
) -> Iterator[tuple[TrainOptions | None, Mapping[str, Any], dict[str, Any]]]:
    """Each student that there should be, its values, and further attributes of its trial.

    It is None where a sampler is to choose the values.

    Args:
        lost: the trials that are to be tried again; `kept` are all others.
    """
    for values, options in plan.grid:
        yield options, values, {}
    if plan.search is None:
        return
    for trial in lost:
        if trial.params and trial.user_attrs[SEED] in plan.seeds:
            yield plan.student(trial.params, trial.user_attrs[SEED]), trial.params, {RETRY: True}
    first = plan.seeds[0]
    for trial in kept:
        if trial.user_attrs[SEED] == first and trial.state.name == "COMPLETE":
            for seed in plan.seeds[1:]:
                yield plan.student(trial.params, seed), trial.params, {}
    # what was lost before the sampler chose is no setting, what is tried again no further one
    settings = [*kept, *(trial for trial in lost if trial.params)]
    begun = sum(t.user_attrs[SEED] == first and RETRY not in t.user_attrs for t in settings)
    for _ in range(plan.search - begun):
        yield None, {}, {SEED: first}


def chosen_values(trial: "Trial", plan: SweepPlan) -> dict[str, Any]:
    """The values of a trial: those that it was queued with, or the sampler's."""
    values: dict[str, Any] = {
        name: trial.suggest_categorical(name, list(choices))
        for name, choices in plan.choices.items()
    }
    for name, span in plan.spans.items():
        if span.whole:
            values[name] = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
        else:
            values[name] = trial.suggest_float(name, span.low, span.high, log=span.log)
    return values


def students_of(study: "optuna.Study", plan: SweepPlan) -> list[TrainOptions]:
    """Every student of the sweep whose values are known."""
    students = {options.out.name: options for _, options in plan.grid}
    for trial in study.get_trials(deepcopy=False):
        if plan.search is not None and trial.params and STUDENT in trial.user_attrs:
            options = plan.student(trial.params, trial.user_attrs[SEED])
            students.setdefault(options.out.name, options)
    return [options for options in students.values() if options.seed in plan.seeds]


def outcomes(study: "optuna.Study") -> tuple[list[str], list[tuple[str, str]]]:
    """The names of the students that were ended early, and of those that failed, with the error."""
    last: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        last[trial.user_attrs.get(STUDENT, "")] = trial
    pruned = [name for name, trial in last.items() if trial.state.name == "PRUNED"]
    failed = [
        (name, trial.user_attrs[ERROR]) for name, trial in last.items() if ERROR in trial.user_attrs
    ]
    return pruned, failed


def _name_if_left(trial: "FrozenTrial", plan: SweepPlan) -> str | None:
    """The name of a trial's student; None where it was finished and its folder is gone."""
    name = trial.user_attrs.get(STUDENT)
    if name is None or plan.storage is not None or trial.state.name != "COMPLETE":
        return name
    there = finished([plan.base.replace(out=plan.base.out / name)])
    return name if there else None


def _is_abandoned(trial: "FrozenTrial", plan: SweepPlan) -> bool:
    """Whether the process of a running trial has ended: its student's folder is not locked."""
    started = trial.datetime_start
    if started is not None and datetime.now() - started < _STARTING:
        return False
    name = trial.user_attrs.get(STUDENT)
    if name is None:
        return True
    with claim(plan.base.out / name) as mine:
        return mine


@contextmanager
def _alone(plan: SweepPlan) -> Iterator[None]:
    """While other processes of this machine do not queue."""
    plan.base.out.mkdir(parents=True, exist_ok=True)
    fd = open_locked(plan.base.out / "study.lock", wait=True)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _experiments_allowed() -> Iterator[None]:
    """Where Optuna would warn that its interface may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)
        yield


def _pruner(plan: SweepPlan) -> "optuna.pruners.BasePruner":
    pruners = _optuna().pruners
    epochs = plan.base.epochs
    if plan.pruner == "median":  # no sooner than after a quarter of the epochs
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 4)
    if plan.pruner == "successive-halving":
        return pruners.SuccessiveHalvingPruner()
    if plan.pruner == "hyperband":
        return pruners.HyperbandPruner(
            max_resource="auto" if "epochs" in {*plan.choices, *plan.spans} else epochs
        )
    return pruners.NopPruner()


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise OptionError(
            "the package optuna for a sweep", f"none ({error})", "pip install 'kdcache[search]'"
        ) from error

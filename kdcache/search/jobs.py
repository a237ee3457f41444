"""How many processes train the students of a sweep."""

import torch

from kdcache.config import PRUNERS, TrainOptions
from kdcache.engine import TrainingData, build_student, resolve_config
from kdcache.errors import KdcacheError
from kdcache.runtime import pick_device, processes_that_fit, training_memory
from kdcache.search.grid import finished
from kdcache.search.plan import SweepPlan


def pick_jobs(plan: SweepPlan, data: TrainingData, cores: int) -> int:
    """How many processes train a plan's students soonest.

    On a CPU one a core, as far as there are students and memory: small students beside each other,
    each with a single thread, were not slower in any comparison (docs/performance.md). One on a
    GPU, where that is not measured; and one where it depends on the students that are finished
    which comes next, so that the same command trains the same ones.
    """
    device = pick_device(plan.base.device)
    if device.type != "cpu" or plan.search is not None or plan.pruner != PRUNERS[0]:
        return 1
    students = [options for _, options in plan.grid]
    missing = len(students) - len(finished(students))
    jobs = min(cores, missing)
    if jobs > 1:
        largest = max(_memory(options, data, device) for options in _models(students))
        jobs = min(jobs, processes_that_fit(largest))
    return max(1, jobs)


def _models(students: list[TrainOptions]) -> list[TrainOptions]:
    """One of the students for each model, input and batch."""
    kinds = {(one.student, one.small_stem, one.image_size, one.batch_size): one for one in students}
    return list(kinds.values())


def _memory(options: TrainOptions, data: TrainingData, device: torch.device) -> float:
    """Bytes, as `training_memory` has them; 0 for a student that cannot be built."""
    try:
        config = resolve_config(options, data.images, data.cache, device)
        module = build_student(config).module
    except KdcacheError:  # the sweep will say so
        return 0
    return training_memory(module, config.preprocessing.image_size, config.batch_size)

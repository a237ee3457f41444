"""The bench's options and the names of its measurements. Nothing here imports torch."""

import os
from dataclasses import dataclass
from typing import ClassVar

from kdcache.config import AT_LEAST_0, AT_LEAST_1, Options, Range, Role, option
from kdcache.errors import OptionError

# Each is a function of kdcache.bench.measurements, with _ for -.
MEASUREMENTS: tuple[str, ...] = ("phase-one", "training", "start", "rows")

# Tiny models, to see in seconds that all works. The targets are not meant for them.
QUICK = {
    "teacher": "kdcache.models.small_resnets:resnet20", "image_size": 32, "batch_size": 16,
    "student": "kdcache.models.small_resnets:half_resnet8", "images": 64, "rounds": 2, "rows": 200,
}  # fmt: skip
_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """What is measured, and at which scale."""

    script: ClassVar[str] = "-m kdcache bench"
    teacher: str = option("vit_b_16", "as in phase one; its weights are random", Role.RECIPE)
    student: str = option("resnet50", "as in phase two; its weights are random", Role.RECIPE)
    image_size: int = option(224, "side in pixels of both inputs", Role.RECIPE, within=AT_LEAST_1)
    images: int | None = option(
        None, "training images (default: 128 on a CPU, else 10240)", Role.RECIPE, within=Range(50)
    )
    batch_size: int | None = option(
        None, "of both phases (default: the teacher's own, and 128)", Role.RECIPE, within=Range(2)
    )
    rounds: int = option(5, "timed calls of each side", Role.RUNTIME, within=AT_LEAST_1)
    minutes: int = option(
        10, "after which a measurement begins nothing further", Role.RUNTIME, within=AT_LEAST_1
    )
    rows: int = option(
        50_000, "of the student's cache at its start", Role.RECIPE, within=Range(200)
    )
    workers: int = option(_WORKERS, "of the reference loop", Role.RUNTIME, within=AT_LEAST_0)
    only: str | None = option(None, "make only these, separated by commas", Role.RUNTIME)


def chosen(options: BenchOptions) -> list[str]:
    """The measurements that are asked for. Raises OptionError where there is no such one."""
    names = list(MEASUREMENTS) if options.only is None else options.only.split(",")
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        expected = f"--only some of {', '.join(MEASUREMENTS)}"
        raise OptionError(expected, ", ".join(unknown) or "nothing", "correct the names")
    return names

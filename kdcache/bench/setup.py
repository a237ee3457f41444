"""What the bench needs: its options, and the device, images and models that its measurements share."""

import itertools
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision

from kdcache.bench import reference_loops as baseline
from kdcache.bench.timing import Target, interleaved
from kdcache.cache import open_cache
from kdcache.config import (
    AT_LEAST_0,
    AT_LEAST_1,
    Options,
    PrecomputeOptions,
    Range,
    Role,
    TrainOptions,
    option,
)
from kdcache.data import ImageData
from kdcache.engine import (
    StudentRun,
    Teacher,
    Trainer,
    TrainingData,
    build_student,
    precompute,
    prepare_teacher,
)
from kdcache.models import Model, build_model
from kdcache.runtime import pick_device, synchronizer

QUICK = {
    "teacher": "kdcache.small_resnets:resnet20", "student": "kdcache.small_resnets:half_resnet8", "image_size": 32,
    "images": 64, "batch_size": 16, "rounds": 2, "rows": 200, "classes": 20, "matrix_size": 256, "workers": 1,
}  # fmt: skip
"""Tiny models, to see in seconds that every measurement works. The numbers say nothing; the targets are not meant for them."""


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """What is measured, and at which scale. Options that are None depend on the device."""

    script: ClassVar[str] = "-m kdcache bench"
    teacher: str = option(
        "vit_b_16", "a torchvision classification model, or package.module:callable", Role.RECIPE
    )
    teacher_weights: str = option(
        "none", "none (random), a torchvision weights name, or a file", Role.RECIPE
    )
    student: str = option(
        "resnet50", "a torchvision classification model, or package.module:callable", Role.RECIPE
    )
    image_size: int = option(
        224, "side in pixels of both models' input", Role.RECIPE, within=AT_LEAST_1
    )
    images: int | None = option(
        None, "training images (default: 128 on a CPU, else 10240)", Role.RECIPE, within=Range(50)
    )
    batch_size: int | None = option(
        None,
        "of both phases (default: their own, which depends on model and device, and 128)",
        Role.RECIPE,
        within=Range(2),
    )
    rounds: int = option(
        5, "timed turns of each side of a comparison", Role.RUNTIME, within=AT_LEAST_1
    )
    rows: int = option(
        50_000, "of the cache from which a student starts", Role.RECIPE, within=Range(200)
    )
    classes: int = option(1000, "of that cache", Role.RECIPE, within=Range(2))
    matrix_size: int | None = option(
        None,
        "side of the matrices (default: 2048 on a CPU, else 8192)",
        Role.RECIPE,
        within=AT_LEAST_1,
    )
    workers: int = option(
        min(4, usable_cpus()),
        "DataLoader workers of the usual script",
        Role.RUNTIME,
        within=AT_LEAST_0,
    )
    only: str | None = option(None, "measure only these, separated by commas", Role.RUNTIME)


class Setup:
    """The device, images and models that the measurements share, each made when it is first needed."""

    def __init__(self, options: BenchOptions, folder: Path) -> None:
        self.device = pick_device(options.device)
        self.gpu = self.device.type != "cpu"
        self.options = options.replace(
            images=options.images or (10_240 if self.gpu else 128),
            matrix_size=options.matrix_size or (8192 if self.gpu else 2048),
        )
        self.folder = folder
        self.student_batch = min(options.batch_size or 128, self.options.images)
        self.half = ("fp16", "bf16") if self.gpu else ("bf16",)
        self._numbers = itertools.count()

    @cached_property
    def images(self) -> ImageData:
        return baseline.shape_images(self.options.images)

    @cached_property
    def teacher(self) -> Teacher:
        return prepare_teacher(
            self.fresh_teacher(), self.device, self.options.precision, self.options.compile
        )

    @property
    def teacher_batch(self) -> int:
        return min(self.options.batch_size or self.teacher.batch_size, self.options.images)

    def fresh_teacher(self) -> Model:
        options = self.options
        return build_model(
            options.teacher,
            options.teacher_weights,
            seed=options.seed,
            image_size=options.image_size,
        )

    def fresh_student(self) -> Model:
        return build_student(self.train_options(), len(self.images.class_names), 0)

    @cached_property
    def training_data(self) -> TrainingData:
        """The images, and a cache of the teacher's logits for them with one view each."""
        path = self.folder / "teacher.h5"
        self.fill(path)
        return TrainingData(self.images, open_cache(path))

    def fill(self, path: Path) -> float:
        """Phase one, from opening the cache to its seal -> seconds, as it reports them."""
        options = PrecomputeOptions(
            cache=path, batch_size=self.teacher_batch, seed=self.options.seed, restart=True
        )
        return precompute(self.teacher, self.images, options, lambda done, total: None)["seconds"]

    def product(self, precision: str) -> baseline.MatrixProduct:
        return baseline.matrix_product(
            self.options.matrix_size, precision, self.device, times=10
        )  # one is over too soon

    def epochs(self, **changes: Any) -> tuple[Trainer, Callable[[], None]]:
        """A student of the cache as train_student.py makes it, and what trains it for one more epoch."""
        options = self.train_options(**changes)
        weights = (
            None if options.alpha == 0 or not options.live_teacher else self.options.teacher_weights
        )
        options = options.replace(teacher_weights=weights)
        trainer = StudentRun(
            options, self.training_data, lambda text: None, lambda done, total: None
        ).trainer
        numbers = itertools.count()

        def epoch() -> None:
            trainer.train_epoch(next(numbers), lambda *step: None)

        return trainer, epoch

    def train_options(self, **changes: Any) -> TrainOptions:
        """Phase two's options for a student of the cache, as its command line would have them."""
        own = self.options
        # the small learning rate keeps the loss finite, whatever the weights; the views of all sides come from the cache
        return TrainOptions(
            student=own.student, student_weights="none", image_size=own.image_size, batch_size=self.student_batch, lr=1e-4,
            epochs=own.rounds + 1, augment="cached", projection="probe", cache=self.folder / "teacher.h5",
            device=str(self.device), precision=own.precision, seed=own.seed, compile=own.compile,
            out=self.folder / f"student-{next(self._numbers)}", **changes,
        )  # fmt: skip

    def time(
        self, *, warm_up: bool = True, **arms: Callable[[], float | None]
    ) -> dict[str, tuple[float, ...]]:
        """Seconds of the arms in each round, in turns."""
        return interleaved(
            arms, self.options.rounds, warm_up=warm_up, synchronize=synchronizer(self.device)
        )

    @property
    def near_bare(self) -> Target:
        """The share of a bare loop that the product should reach."""
        return Target(low=0.95 if self.gpu else 0.97)

    def teacher_in_words(self) -> str:
        return f"{self.options.teacher}, {self.options.image_size} px, batches of {self.teacher_batch}, {self.teacher.precision}"

    def environment(self) -> dict[str, str | int]:
        """The machine and the software, as far as the numbers depend on them."""
        name = (
            torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _processor()
        )
        return {
            "device": f"{self.device.type}: {name}",
            "threads": torch.get_num_threads(),
            "cpus": usable_cpus(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        }


def _processor() -> str:
    """The processor's name where the system tells."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"

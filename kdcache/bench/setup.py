"""What the measurements share: device, images, models, and both phases as the bench runs them."""

import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from kdcache.bench.options import BenchOptions
from kdcache.bench.timing import Timings, interleaved
from kdcache.cache import open_cache
from kdcache.config import SPLITS, PrecomputeOptions, TrainOptions
from kdcache.data import ImageData, Split
from kdcache.engine import StudentRun, Teacher, Trainer, TrainingData, precompute, prepare_teacher
from kdcache.errors import OptionError
from kdcache.models import Model, build_model
from kdcache.runtime import emulates, pick_device, synchronizer

_CLASSES = tuple("0123456789")


def noise_images(train: int) -> ImageData:
    """Random pixels in CIFAR-10's shape: speed does not depend on what images show."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in zip(SPLITS, (train, 10 + train // 5, 10), strict=True):
        shape = (count, 3, 32, 32)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        splits[split] = Split(pixels, torch.arange(count) % len(_CLASSES))
    return ImageData("noise", _CLASSES, splits)


def fill_cache(path: Path, teacher: Teacher, images: ImageData, batch: int | None = None) -> float:
    """Phase one, from opening the cache to its seal -> seconds, as it reports them."""
    options = PrecomputeOptions(cache=path, batch_size=batch, restart=True)
    return precompute(teacher, images, options).seconds


def make_trainer(cache: Path, data: TrainingData, **options: Any) -> Trainer:
    """A student before its first step, as train_student.py makes it."""
    out = Path(tempfile.mkdtemp(dir=cache.parent))
    # the small learning rate keeps the loss finite, whatever the weights
    shared = {"student_weights": "none", "projection": "probe", "augment": "cached", "lr": 1e-4}
    return StudentRun(TrainOptions(cache=cache, out=out, **shared | options), data).trainer


class Setup:
    """What the measurements share; `folder`, which is empty, is for caches and runs."""

    def __init__(self, options: BenchOptions, folder: Path) -> None:
        self.device, self.folder = pick_device(options.device), folder
        self.gpu = self.device.type != "cpu"
        if emulates(options.precision, self.device):
            expected = "a --precision that this processor has instructions for"
            raise OptionError(expected, f"{options.precision}, which it emulates", "give fp32")
        count = options.images or (10_240 if self.gpu else 128)
        self.options = options.replace(images=count)
        self.images = noise_images(count)
        model = self.new_model(options.teacher, None)
        self.teacher = prepare_teacher(model, self.device, options.precision, options.compile)
        self.teacher_batch = min(options.batch_size or self.teacher.batch_size, count)
        self.student_batch = min(options.batch_size or 128, count)

    def new_model(self, name: str, classes: int | None = len(_CLASSES)) -> Model:
        size, seed = self.options.image_size, self.options.seed
        return build_model(name, "none", seed=seed, classes=classes, image_size=size)

    def fill(self, name: str) -> float:
        """Phase one into a cache of this name -> seconds."""
        return fill_cache(self.folder / name, self.teacher, self.images, self.teacher_batch)

    @cached_property
    def training_data(self) -> TrainingData:
        """The images, and a cache of the teacher's logits for them with one view each."""
        self.fill("teacher.h5")
        return TrainingData(self.images, open_cache(self.folder / "teacher.h5"))

    def student(self, **changes: Any) -> tuple[Trainer, Callable[[], object]]:
        """A student of the cache, and what trains it for an epoch."""
        shared = ("student", "image_size", "precision", "compile", "seed")
        changes |= {name: getattr(self.options, name) for name in shared}
        changes |= {"device": str(self.device), "batch_size": self.student_batch}
        trainer = make_trainer(self.folder / "teacher.h5", self.training_data, **changes)
        return trainer, partial(trainer.train_epoch, 0, lambda *step: None)

    def time(self, note: str, **arms: Callable[[], object]) -> Timings:
        """Seconds of the arms, interleaved."""
        wait, rounds = synchronizer(self.device), self.options.rounds
        seconds = interleaved(arms, rounds, synchronize=wait, limit=60 * self.options.minutes)
        return Timings(seconds, note + self.left_out(len(next(iter(seconds.values())))))

    def rounds(self) -> Iterator[int]:
        """Rounds of what takes fresh processes: one at least, and no further after the limit."""
        began = time.monotonic()
        for number in range(self.options.rounds):
            if number == 0 or time.monotonic() - began <= 60 * self.options.minutes:
                yield number

    def left_out(self, done: int) -> str:
        """A remark on the rounds that the limit on time left out."""
        rounds, minutes = self.options.rounds, self.options.minutes
        return "" if done == rounds else f"; {done} of {rounds} rounds within {minutes} min"

    def environment(self) -> dict[str, str | int]:
        """The machine and the software, as far as the numbers depend on them."""
        facts = Path("/proc/cpuinfo")
        named = re.search(r"model name\s*: (.*)", facts.read_text() if facts.exists() else "")
        device = named[1] if named else platform.processor()
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return {"device": f"{self.device.type}: {device}", "threads": torch.get_num_threads(),
                "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip

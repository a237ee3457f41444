#!/usr/bin/env python3
"""An epoch of kdcache beside one of timm's and torchdistill's distillation, as a Markdown table.

    python docs/peers.py --data cifar10-jpeg

timm's tasks (`timm.task`) and torchdistill's boxes (`torchdistill.core`) train the same student on
the same images, with the teacher in every step and on labels only. All have the same batches,
float32, channels-last layout, and SGD with Nesterov momentum. Weights are random: speed does not
depend on them.

Each of the six is a process of its own, so that its peak of memory is its own, and works only when
it is asked for an epoch; the epochs are interleaved. The others read their images with a DataLoader
from an array in memory, as the examples for CIFAR-10 do: PIL, crop, flip, resize, to tensor,
normalise. With `--ready` they find each image as the finished tensor instead, which only a training
without augmentation could have; kdcache still renders its own, from the same whole images.
"""

import argparse
import importlib
import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from kdcache import bench  # what it offers is imported when it is used: a side needs none of it
from kdcache.bench.timing import RATIO, Measurement, Target, Timings, interleaved
from kdcache.cache import open_cache
from kdcache.cli import OneLineParser, Progress, exit_code, say
from kdcache.config import PrecomputeOptions, TrainOptions
from kdcache.data import ImageData, Renderer, Split, load_images, whole_image_views
from kdcache.engine import StudentRun, TrainingData, precompute, prepare_teacher
from kdcache.errors import OptionError, PeerError
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, Model, build_model
from kdcache.runtime import forward_flops, keep_freed_memory, peak_memory

CPU = torch.device("cpu")
TEMPERATURE, ALPHA, LEARNING_RATE, MOMENTUM = 4.0, 0.9, 1e-3, 0.9


@dataclass(frozen=True)
class Setting:
    """What all sides share; `cache` is the teacher's, which only kdcache reads."""

    cache: Path
    dataset: str
    data: Path
    limit: int
    student: str
    teacher: str
    image_size: int
    batch_size: int
    workers: int
    ready: bool

    def images(self) -> ImageData:
        return load_images(self.dataset, self.data, limit=self.limit)

    def model(self, name: str, classes: int) -> Model:
        shape = {"classes": classes, "image_size": self.image_size}
        return build_model(name, "none", seed=0, **shape, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def module(self, name: str, classes: int) -> nn.Module:
        return self.model(name, classes).module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loading(self) -> dict[str, Any]:
        """How the others read their images."""
        return {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
        }


Training = tuple[nn.Module, Callable[[], object]]
"""A student, and what trains it for an epoch."""


class TheirImages(Dataset[tuple[Tensor, int]]):
    """Images as the examples for CIFAR-10 prepare them; or, `ready`, whole and finished."""

    def __init__(self, split: Split, setting: Setting) -> None:
        size = setting.image_size
        self._images, self._labels = split.images, split.labels.tolist()
        height, width = self._images.shape[2:]
        self._ready: Tensor | None = None
        if setting.ready:
            render = Renderer(size, IMAGENET_MEAN, IMAGENET_STD, (height, width))
            self._ready = render(self._images, whole_image_views(len(split), height, width))
        self._transform = transforms.Compose([
            transforms.ToPILImage(),
            transforms.RandomCrop((height, width), height // 8, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._ready is not None:
            return self._ready[index], self._labels[index]
        return self._transform(self._images[index]), self._labels[index]


def make_cache(setting: Setting) -> None:
    """Phase one: the teacher's logits, of two views an image; of whole images for `--ready`."""
    images = setting.images()
    teacher = prepare_teacher(setting.model(setting.teacher, len(images.class_names)), CPU, "fp32")
    seen = {} if setting.ready else {"views": 2, "augment": "crop-flip"}
    precompute(teacher, images, PrecomputeOptions(cache=setting.cache, data=setting.data, **seen))


def kdcache_training(setting: Setting, distilled: bool) -> Training:
    options: dict[str, Any] = {
        "student": setting.student,
        "student_weights": "none",
        "image_size": setting.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "batch_size": setting.batch_size,
        "precision": "fp32",
        "lr": LEARNING_RATE,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "augment": "none" if setting.ready else "cached" if distilled else "crop-flip",
        "out": setting.cache.parent / "run",
    }
    images, cache = setting.images(), None
    if distilled:
        cache = open_cache(setting.cache)
        options |= {"cache": setting.cache, "projection": "none", "temperature": TEMPERATURE}
    options |= {"alpha": ALPHA if distilled else 0.0}
    trainer = StudentRun(TrainOptions(**options), TrainingData(images, cache)).trainer
    numbers = itertools.count()

    def after_step(*step: object) -> None:
        keep_freed_memory()  # as the command lines of both phases do

    return trainer.student.module, lambda: trainer.train_epoch(next(numbers), after_step)


def timm_training(setting: Setting, distilled: bool) -> Training:
    """The loop of timm's train.py around its tasks."""
    from timm.optim import create_optimizer_v2
    from timm.task import ClassificationTask, LogitDistillationTask

    images = setting.images()
    classes = len(images.class_names)
    student = setting.module(setting.student, classes)
    task: Any = ClassificationTask(student, nn.CrossEntropyLoss())
    if distilled:
        task = LogitDistillationTask(
            student,
            setting.module(setting.teacher, classes),
            nn.CrossEntropyLoss(),
            task_loss_weight=1 - ALPHA,
            distill_loss_weight=ALPHA,
            temperature=TEMPERATURE,
        )
    optimizer = create_optimizer_v2(student, "nesterov", lr=LEARNING_RATE, momentum=MOMENTUM)
    data = TheirImages(images.splits["train"], setting)
    loader = DataLoader(data, shuffle=True, **setting.loading())

    def epoch() -> None:
        task.train()
        for inputs, labels in loader:
            result = task(inputs.contiguous(memory_format=torch.channels_last), labels)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()

    return student, epoch


def torchdistill_loss(distilled: bool) -> dict[str, Any]:
    """torchdistill's configuration of Hinton's loss, or of cross-entropy."""
    if distilled:
        kwargs = {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": 1 - ALPHA,
        }
        return {"criterion": {"key": "KDLoss", "kwargs": kwargs}}
    logits = {"is_from_teacher": False, "module_path": ".", "io": "output"}
    kwargs = {"input": logits, "target": {"uses_label": True}}
    return {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": kwargs},
    }


def torchdistill_training(setting: Setting, distilled: bool) -> Training:
    """The loop of torchdistill's image_classification.py around its boxes."""
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.core.training import TrainingBox

    images = setting.images()
    classes = len(images.class_names)
    student = setting.module(setting.student, classes)
    model = {"forward_proc": "forward_batch_only"}
    config: dict[str, Any] = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": setting.loading(),
        },
        "teacher": {**model, "requires_grad": False},
        "student": model,
        "model": model,  # the student without a teacher
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": LEARNING_RATE, "momentum": MOMENTUM, "nesterov": True},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"loss": torchdistill_loss(distilled) | {"weight": 1.0}}},
        },
    }
    datasets = {"train": TheirImages(images.splits["train"], setting)}
    box: Any
    if distilled:
        teacher = setting.module(setting.teacher, classes).eval()
        box = DistillationBox(teacher, student, datasets, config, CPU, None, False, 1)
    else:
        box = TrainingBox(student, datasets, config, CPU, None, False, 1)

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for inputs, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            loss = box.forward_process(inputs, labels, extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()

    return student, epoch


SIDES: dict[str, tuple[Callable[[Setting, bool], Training], bool]] = {
    "kdcache, labels only": (kdcache_training, False),
    "timm, labels only": (timm_training, False),
    "torchdistill, labels only": (torchdistill_training, False),
    "kdcache, from the cache": (kdcache_training, True),
    "timm, teacher in every step": (timm_training, True),
    "torchdistill, teacher in every step": (torchdistill_training, True),
}


def serve(pipe: Connection, name: str, setting: Setting) -> None:
    """The process of a side: an epoch for each message, and the bytes of its peak after it."""
    make, distilled = SIDES[name]
    _, epoch = make(setting, distilled)
    while pipe.recv():
        epoch()
        pipe.send(peak_memory())


class Side:
    """A side in its own process; calling it is an epoch. `peak` is in bytes."""

    def __init__(self, name: str, setting: Setting) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.name, self.peak = name, 0
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(theirs, name, setting))
        self._process.start()
        theirs.close()

    def __call__(self) -> None:
        self._pipe.send(True)
        try:
            self.peak = self._pipe.recv()
        except EOFError:
            expected = f"an epoch of {self.name}"
            found = "a process that ended early"
            raise PeerError(expected, found, "see its own error above") from None

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(False)
        self._process.join()


def comparisons(timings: Timings, student: float, teacher: float) -> list[Measurement]:
    """The ratios; `student` and `teacher` are the operations of their forward passes."""
    live = [name for name in SIDES if name.endswith("step")]
    labels = ["timm, labels only", "torchdistill, labels only"]
    seconds = dict(timings.seconds)
    for fastest, names in (("faster with teacher", live), ("faster on labels", labels)):
        seconds[fastest] = seconds[min(names, key=lambda name: sum(seconds[name]))]
    timed = Timings(seconds)
    step = 3 * student  # forward, and the gradients of activations and of weights
    found = [
        timed.ratio("labels only, kdcache over the faster one", "kdcache, labels only",
                    "faster on labels", Target(high=1.02)),
        timed.ratio("distilled, kdcache over the faster one", "kdcache, from the cache",
                    "faster with teacher", Target(high=step / (step + teacher))),
        timed.ratio("kdcache, from the cache over labels only", "kdcache, from the cache",
                    "kdcache, labels only", Target(high=1.01)),
    ]  # fmt: skip
    for other, alone in zip(live, labels, strict=True):
        pairs = zip(seconds[other], seconds[alone], strict=True)
        fractions = tuple(1 - without / whole for whole, without in pairs)
        found.append(Measurement(f"the teacher's fraction of {other}", RATIO, fractions))
    return found


def markdown(timings: Timings, peaks: dict[str, int], found: list[Measurement]) -> str:
    """Two tables: seconds and memory of each side, and the ratios."""
    lines = ["| an epoch of | seconds, median | min..max | peak, MiB |", "|---|---|---|---|"]
    epochs = [Measurement(name, "s", seconds) for name, seconds in timings.seconds.items()]
    for row in bench.table_rows(epochs):
        peak = f"{peaks[str(row['what'])] >> 20:,}"
        lines.append(f"| {row['what']} | {row['median']} | {row['min..max']} | {peak} |")
    columns = ("what", "median", "min..max", "target", "holds")
    lines += ["", "| ratio | median | min..max | target | holds |", "|---|---|---|---|---|"]
    for row in bench.table_rows(found):
        lines.append(f"| {' | '.join(row[name] or '' for name in columns)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="folder")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=640, help="images, 4 in 5 to train on")
    parser.add_argument("--student", default="timm/resnet18", help="timm's: its task needs that")
    parser.add_argument("--teacher", default="timm/resnet50")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="of their DataLoaders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ready", action="store_true", help="their images are finished tensors")
    arguments = vars(parser.parse_args(argv))
    rounds = arguments.pop("rounds")
    for package in ("timm.task", "torchdistill.core"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            needed = f"the packages of {Path(__file__).with_suffix('.txt').name}"
            raise OptionError(needed, str(error), "pip install -r docs/peers.txt") from None
    with tempfile.TemporaryDirectory(prefix="kdcache-peers-") as folder:
        setting = Setting(Path(folder) / "teacher.h5", **arguments)
        make_cache(setting)
        sides = [Side(name, setting) for name in SIDES]
        try:
            with Progress("epochs", "epoch") as progress:
                done = itertools.count()

                def timed(side: Side) -> Callable[[], None]:
                    def epoch() -> None:
                        progress(next(done), (rounds + 1) * len(sides))
                        side()

                    return epoch

                timings = Timings(interleaved({side.name: timed(side) for side in sides}, rounds))
        finally:
            for side in sides:
                side.close()
        classes = len(setting.images().class_names)
        operations = [
            forward_flops(setting.module(name, classes), setting.image_size)
            for name in (setting.student, setting.teacher)
        ]
    peaks = {side.name: side.peak for side in sides}
    say(markdown(timings, peaks, comparisons(timings, *operations)))


if __name__ == "__main__":
    sys.exit(exit_code(main))

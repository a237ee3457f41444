"""The options of phase two, as the user gives them.

What is None follows from the cache or the device.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdcache.config.choices import (
    LABELS,
    LOSSES,
    MIXES,
    OPTIMIZERS,
    PROJECTIONS,
    VIEW_POLICIES,
)
from kdcache.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    Group,
    Need,
    Range,
    Role,
    option,
)
from kdcache.config.options import DatasetOptions

_CACHE = Need("with --cache", lambda options: options.cache is not None, lambda options: "no cache")
_CACHED_VIEWS = Need(
    _CACHE.words, lambda options: options.cache or options.augment != "cached", _CACHE.found
)
_LABELS_OF_CACHE = Need(
    _CACHE.words, lambda options: options.cache or options.labels == "dataset", _CACHE.found
)
_DISTILLS = Need(
    "with --alpha above 0",
    lambda options: options.alpha > 0,
    lambda options: f"--alpha {options.alpha:g}",
    strict=False,
)
_LABEL_TERM = Need(
    "with --alpha below 1",
    lambda options: options.alpha < 1,
    lambda options: f"--alpha {options.alpha:g}",
    strict=False,
)
_HAS_TEMPERATURE = Need(
    "with a loss that has a temperature",
    lambda options: options.loss != "mse",
    lambda options: f"--loss {options.loss}",
    strict=False,
)
_TEACHER_SEES_VIEWS = Need(
    "with --augment cached, or with --alpha above 0 and no --live-teacher",
    lambda options: (
        options.augment == "cached"
        or (options.alpha > 0 and not (options.live_teacher and options.augment))
    ),
    lambda options: f"--alpha {options.alpha:g}" if options.alpha == 0 else "--live-teacher",
    strict=False,
)
_KEPT = Need(
    "without --overwrite", lambda options: not options.overwrite, lambda options: "--overwrite"
)
_LIVE = Need(
    "with --live-teacher",
    lambda options: options.live_teacher,
    lambda options: "no --live-teacher",
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DatasetOptions):
    """Phase two."""

    script: ClassVar[str] = "train_student.py"
    model: ClassVar[str] = "student"
    first: ClassVar[tuple[str, ...]] = ("cache", "data", "student", "epochs", "out")
    examples: ClassVar[tuple[str, ...]] = (
        "--cache cifar10-vit.h5 --student resnet50 --epochs 20 --out runs/distilled",
        "--cache cifar10-vit.h5 --student resnet50 --epochs 20 --alpha 0 --out runs/labels",
    )
    cache: Path | None = option(
        None,
        "the teacher's cache; without it --dataset and --alpha 0",
        Role.PATHS,
        group=Group.DATA,
    )
    skip_checksums: bool = option(
        False,
        "do not read the whole cache to check its logits, where it is very large",
        Role.RUNTIME,
        group=Group.RUNTIME,
        needs=[_CACHE],
    )
    student: str = option(
        "resnet50",
        "a model of torchvision, timm/NAME, or package.module:callable",
        Role.RECIPE,
        model=True,
        group=Group.MODEL,
    )
    student_weights: str | None = option(
        None,
        "a torchvision weights name, pretrained (timm's), none (random), or a file (default:"
        " IMAGENET1K_V1, pretrained, or none for a callable)",
        Role.RECIPE,
        group=Group.MODEL,
    )
    small_stem: bool = option(
        False,
        "3 x 3 stride-1 stem without max-pool, for images trained at 32 px",
        Role.RECIPE,
        group=Group.MODEL,
    )
    projection: str | None = option(
        None,
        "teacher's classes to student's (default: none where the classes are the same, else probe)",
        Role.RECIPE,
        registry=PROJECTIONS,
        group=Group.DISTILLATION,
        needs=[_CACHE],
    )
    labels: str = option(
        "dataset",
        "the dataset's; or the teacher's predictions in its own classes, for unlabelled images",
        Role.DATA,
        choices=LABELS,
        group=Group.DISTILLATION,
        needs=[_LABELS_OF_CACHE],
    )
    loss: str = option(
        "kl",
        "the distillation term",
        Role.RECIPE,
        registry=LOSSES,
        group=Group.DISTILLATION,
        needs=[_DISTILLS],
    )
    temperature: float = option(
        2.0,
        "softens teacher and student",
        Role.RECIPE,
        within=POSITIVE,
        group=Group.DISTILLATION,
        needs=[_DISTILLS, _HAS_TEMPERATURE],
    )
    alpha: float = option(
        0.5,
        "weight of the distillation term; the label term has 1 - alpha",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.DISTILLATION,
    )
    epochs: int = option(
        20,
        "passes over the training split",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.OPTIMISATION,
    )
    batch_size: int = option(
        128, "images in one step", Role.RECIPE, within=AT_LEAST_1, group=Group.OPTIMISATION
    )
    lr: float | None = option(
        None,
        "peak learning rate (default, for each 128 images of a batch: sgd 0.1 from scratch, 0.02"
        " from weights; adamw 0.001 and 0.0001)",
        Role.RECIPE,
        within=POSITIVE,
        group=Group.OPTIMISATION,
    )
    optimizer: str = option(
        "sgd",
        "sgd has Nesterov momentum 0.9",
        Role.RECIPE,
        choices=OPTIMIZERS,
        group=Group.OPTIMISATION,
    )
    layer_decay: float = option(
        1.0,
        "each layer's learning rate, of the next one's; 0 trains the classifier alone",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.OPTIMISATION,
    )
    weight_decay: float | None = option(
        None,
        "decay of weights, not of biases and norms (default: sgd 0.0005, adamw 0.05)",
        Role.RECIPE,
        within=AT_LEAST_0,
        group=Group.OPTIMISATION,
    )
    warmup: float = option(
        0.05,
        "fraction of the steps in which the learning rate rises; then a cosine to 0",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.OPTIMISATION,
    )
    label_smoothing: float = option(
        0.0,
        "smooths the labels",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.OPTIMISATION,
        needs=[_LABEL_TERM],
    )
    augment: str | None = option(
        None,
        "the student's views: the cached ones, or its own (default: cached where there are several"
        " and each is shown 8 times at most, else crop-flip)",
        Role.RECIPE,
        choices=("cached",),
        registry=VIEW_POLICIES,
        group=Group.DISTILLATION,
        needs=[_CACHED_VIEWS],
    )
    train_images: int | None = option(
        None,
        "train on this many labelled images of the training split, spread evenly over the classes",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.DATA,
    )
    views: int | None = option(
        None,
        "use only this many of the cached views",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.DISTILLATION,
        needs=[_CACHE, _TEACHER_SEES_VIEWS],
    )
    mix: str = option(
        "none",
        "mix the images of a batch in pairs; exact for labels and a live teacher, approximate from"
        " a cache",
        Role.RECIPE,
        choices=MIXES,
        group=Group.OPTIMISATION,
    )
    live_teacher: bool = option(
        False,
        "run the cache's teacher in every step instead of reading its logits",
        Role.RECIPE,
        group=Group.DISTILLATION,
        needs=[_CACHE, _DISTILLS],
    )
    teacher: str | None = option(
        None,
        "with --live-teacher: the cache's teacher; needed for one of your own,"
        " package.module:callable",
        Role.PATHS,
        group=Group.DISTILLATION,
        needs=[_LIVE],
        model=True,
    )
    teacher_weights: str | None = option(
        None,
        "with --live-teacher: its weights, if phase one had them from a file",
        Role.PATHS,
        group=Group.DISTILLATION,
        needs=[_LIVE],
    )
    tensorboard: bool = option(
        False,
        "also write TensorBoard's event files into the run's folder",
        Role.RUNTIME,
        group=Group.OUTPUT,
    )
    out: Path = option(
        Path("runs/student"),
        "folder for what the run leaves",
        Role.PATHS,
        group=Group.OUTPUT,
    )
    overwrite: bool = option(
        False, "replace the run that --out holds", Role.START, group=Group.OUTPUT
    )
    vis: bool = option(
        False,
        "show one un-normalised image of each batch (a window, or PNG files in the run's folder)",
        Role.RUNTIME,
        group=Group.OUTPUT,
    )
    extend: bool = option(
        False,
        "train the finished run in --out further, up to --epochs",
        Role.START,
        group=Group.OUTPUT,
        needs=[_KEPT],
    )

    @property
    def images_from_cache(self) -> bool:
        return self.cache is not None

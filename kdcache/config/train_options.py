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
    Range,
    Role,
    option,
)
from kdcache.config.options import DatasetOptions


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DatasetOptions):
    """Phase two."""

    script: ClassVar[str] = "train_student.py"
    cache: Path | None = option(
        None, "the teacher's cache; without it --dataset and --alpha 0", Role.PATHS
    )
    skip_checksums: bool = option(
        False,
        "do not read the whole cache to check its logits, where it is very large",
        Role.RUNTIME,
    )
    student: str = option(
        "resnet50",
        "a torchvision classification model, or package.module:callable",
        Role.RECIPE,
        model=True,
    )
    student_weights: str | None = option(
        None,
        "a torchvision weights name, none (random), or a file (default: IMAGENET1K_V1, or none for"
        " a callable)",
        Role.RECIPE,
    )
    small_stem: bool = option(
        False, "3 x 3 stride-1 stem without max-pool, for images trained at 32 px", Role.RECIPE
    )
    projection: str | None = option(
        None,
        "teacher's classes to student's (default: none where the classes are the same, else probe)",
        Role.RECIPE,
        registry=PROJECTIONS,
    )
    labels: str = option(
        "dataset",
        "the dataset's; or the teacher's predictions in its own classes, for unlabelled images",
        Role.DATA,
        choices=LABELS,
    )
    loss: str = option("kl", "the distillation term", Role.RECIPE, registry=LOSSES)
    temperature: float = option(2.0, "softens teacher and student", Role.RECIPE, within=POSITIVE)
    alpha: float = option(
        0.5,
        "weight of the distillation term; the label term has 1 - alpha",
        Role.RECIPE,
        within=Range(0, 1),
    )
    epochs: int = option(20, "passes over the training split", Role.RECIPE, within=AT_LEAST_1)
    batch_size: int = option(128, "images in one step", Role.RECIPE, within=AT_LEAST_1)
    lr: float | None = option(
        None,
        "peak learning rate (default, for each 128 images of a batch: sgd 0.1 from scratch, 0.02"
        " from weights; adamw 0.001 and 0.0001)",
        Role.RECIPE,
        within=POSITIVE,
    )
    optimizer: str = option("sgd", "sgd has Nesterov momentum 0.9", Role.RECIPE, choices=OPTIMIZERS)
    weight_decay: float | None = option(
        None,
        "decay of weights, not of biases and norms (default: sgd 0.0005, adamw 0.05)",
        Role.RECIPE,
        within=AT_LEAST_0,
    )
    warmup: float = option(
        0.05,
        "fraction of the steps in which the learning rate rises; then a cosine to 0",
        Role.RECIPE,
        within=Range(0, 1),
    )
    label_smoothing: float = option(0.0, "smooths the labels", Role.RECIPE, within=Range(0, 1))
    augment: str | None = option(
        None,
        "the student's views: the cached ones, or its own (default: cached where there are several"
        " and each is shown 8 times at most, else crop-flip)",
        Role.RECIPE,
        choices=("cached",),
        registry=VIEW_POLICIES,
    )
    train_images: int | None = option(
        None,
        "train on this many images of the training split, spread evenly over the classes",
        Role.RECIPE,
        within=AT_LEAST_1,
    )
    views: int | None = option(
        None, "use only this many of the cached views", Role.RECIPE, within=AT_LEAST_1
    )
    mix: str = option(
        "none",
        "mix the images of a batch in pairs; exact for labels and a live teacher, approximate from"
        " a cache",
        Role.RECIPE,
        choices=MIXES,
    )
    live_teacher: bool = option(
        False, "run the cache's teacher in every step instead of reading its logits", Role.RECIPE
    )
    teacher: str | None = option(
        None,
        "with --live-teacher: the cache's teacher; needed for one of your own,"
        " package.module:callable",
        Role.PATHS,
        model=True,
    )
    teacher_weights: str | None = option(
        None, "with --live-teacher: its weights, if phase one had them from a file", Role.PATHS
    )
    tensorboard: bool = option(
        False, "also write TensorBoard's event files into the run's folder", Role.RUNTIME
    )
    out: Path = option(Path("runs/student"), "folder for what the run leaves", Role.PATHS)
    resume: Path | None = option(
        None,
        "go on with the interrupted run in this folder; all other options are its own, but code of"
        " your own, package.module:name, must be named again",
        Role.PATHS,
    )
    overwrite: bool = option(False, "replace the run that --out holds", Role.PATHS)
    vis: bool = option(
        False,
        "show one un-normalised image of each batch (a window, or PNG files in the run's folder)",
        Role.RUNTIME,
    )

"""The options of phase two, as the user gives them.

What is None follows from the cache or the device.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdcache.config.choices import (
    MIXES,
    OPTIMIZERS,
)
from kdcache.config.distill_options import LABEL_TERM, DistillOptions
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

_KEPT = Need(
    "without --overwrite", lambda options: not options.overwrite, lambda options: "--overwrite"
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DistillOptions):
    """Phase two."""

    script: ClassVar[str] = "train_student.py"
    model: ClassVar[str] = "student"
    first: ClassVar[tuple[str, ...]] = ("cache", "data", "student", "epochs", "out")
    examples: ClassVar[tuple[str, ...]] = (
        "--cache cifar10-vit.h5 --student resnet50 --epochs 20 --out runs/distilled",
        "--cache cifar10-vit.h5 --student resnet50 --epochs 20 --alpha 0 --out runs/labels",
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
        needs=[LABEL_TERM],
    )
    train_images: int | None = option(
        None,
        "train on this many labelled images of the training split, spread evenly over the classes",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.DATA,
    )
    mix: str = option(
        "none",
        "mix the images of a batch in pairs; exact for labels and a live teacher, approximate from"
        " a cache",
        Role.RECIPE,
        choices=MIXES,
        group=Group.OPTIMISATION,
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

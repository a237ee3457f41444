"""The options of the two phases, as the user gives them: dataclasses that check themselves."""

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kdcache.config.choices import (
    COMPILE_MODES,
    DATASETS,
    LABELS,
    LOSSES,
    MIXES,
    OPTIMIZERS,
    PRECISIONS,
    PROJECTIONS,
    VIEW_POLICIES,
)
from kdcache.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    FINITE,
    POSITIVE,
    SEEDS,
    Range,
    Role,
    fault_of,
    flag_of,
    option,
    restored,
    spec_of,
)
from kdcache.errors import OptionError


Kind = TypeVar("Kind", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both phases need to know."""

    script: ClassVar[str]  # whose options these are

    data: Path = option(Path("data"), "folder with the dataset's images", Role.PATHS)
    image_size: int | None = option(
        None, "side in pixels of the model's square input", Role.RECIPE, within=AT_LEAST_1
    )
    mean: tuple[float, ...] | None = option(
        None, "channel means on the scale 0 to 1, as R,G,B", Role.RECIPE, within=FINITE
    )
    std: tuple[float, ...] | None = option(
        None, "channel standard deviations, as R,G,B", Role.RECIPE, within=POSITIVE
    )
    precision: str = option(
        "auto",
        "arithmetic of the model; auto: half on a GPU, bf16 on a CPU that has it for models of 1 GFLOP or more, else fp32",
        Role.RECIPE,
        choices=PRECISIONS,
    )
    compile: str = option(
        "none",
        "torch.compile the model in this mode, where it runs long enough to pay for its start",
        Role.RUNTIME,
        choices=COMPILE_MODES,
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", Role.RUNTIME)
    seed: int = option(
        0, "seed of every random choice but the 80/20 division", Role.SEED, within=SEEDS
    )

    def __post_init__(self) -> None:
        faults = [
            fault for item in fields(self) if (fault := fault_of(item, getattr(self, item.name)))
        ]
        if faults:
            raise OptionError(
                " and ".join(expected for expected, _ in faults),
                " and ".join(found for _, found in faults),
                "correct the option" + "s" * (len(faults) > 1),
            )

    def replace(self: Kind, **changes: Any) -> Kind:
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls: type[Kind], values: Mapping[str, Any]) -> Kind:
        """The inverse of as_dict. Options that only a later version knows are left out."""
        hints = typing.get_type_hints(cls)
        known = {item.name for item in fields(cls)}
        return cls(**{name: restored(hints[name], values[name]) for name in known & values.keys()})

    @classmethod
    def names(cls, *roles: Role) -> tuple[str, ...]:
        """The options that have one of these roles."""
        return tuple(item.name for item in fields(cls) if spec_of(item).role in roles)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: paths as text."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(self).items()
        }

    def command_line(self) -> str:
        """The command for a shell that has these options, with those that differ from their defaults."""
        words = ["python", self.script]
        for item in fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            flag = flag_of(item.name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            if value is True:
                words.append(flag)
            elif text.startswith("-"):  # argparse takes such a word for an option
                words.append(f"{flag}={text}")
            else:
                words += [flag, text]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """Which images, and how they are divided."""

    dataset: str | None = option(
        None, "which images (default: cifar10)", Role.DATA, registry=DATASETS
    )
    limit: int | None = option(
        None,
        "take this many images of the training and of the test split, spread evenly over the classes",
        Role.DATA,
        within=AT_LEAST_1,
    )
    store_size: int = option(
        256,
        "folder with mixed sizes: shorter side in pixels after resizing, and side of the centre crop",
        Role.DATA,
        within=AT_LEAST_1,
    )
    split_seed: int = option(
        0, "seed of the division into 80 % training and 20 % validation", Role.DATA, within=SEEDS
    )
    stream: bool = option(
        False,
        "read images ahead of each step instead of keeping them on the device; a folder's are kept decoded in a file in"
        " --data (default: where they do not fit)",
        Role.RUNTIME,
    )


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions(DatasetOptions):
    """Phase one."""

    script: ClassVar[str] = "precompute_teacher.py"
    cache: Path = option(Path("teacher.h5"), "the cache to write", Role.PATHS)
    teacher: str = option(
        "vit_b_16", "a torchvision classification model, or package.module:callable", Role.RECIPE
    )
    teacher_weights: str | None = option(
        None,
        "a torchvision weights name, none (random), or a file (default: IMAGENET1K_V1; none for a callable)",
        Role.PATHS,
    )
    augment: str = option(
        "none",
        "how views 1, 2, ... of a training image are drawn",
        Role.RECIPE,
        registry=VIEW_POLICIES,
    )
    views: int = option(
        1,
        "views of each training image; view 0 is the whole image",
        Role.RECIPE,
        within=Range(1, 1000),
    )
    batch_size: int | None = option(
        None,
        "views in one forward pass; halved where memory is short (default: what suits the teacher and the device)",
        Role.RECIPE,
        within=AT_LEAST_1,
    )
    restart: bool = option(False, "discard what an interrupted run left behind", Role.PATHS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.views > 1) != (self.augment != "none"):
            raise OptionError(
                "--views above 1 and an --augment other than none together",
                f"--views {self.views} --augment {self.augment}",
                "give both or neither",
            )


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
        "resnet50", "a torchvision classification model, or package.module:callable", Role.RECIPE
    )
    student_weights: str | None = option(
        None,
        "a torchvision weights name, none (random), or a file (default: IMAGENET1K_V1; none for a callable)",
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
        "the dataset's, or the teacher's classes with its top predictions: no label is needed then",
        Role.DATA,
        choices=LABELS,
    )
    loss: str = option("kl", "the distillation term", Role.RECIPE, registry=LOSSES)
    temperature: float = option(4.0, "softens teacher and student", Role.RECIPE, within=POSITIVE)
    alpha: float = option(
        0.9,
        "weight of the distillation term; the label term has 1 - alpha",
        Role.RECIPE,
        within=Range(0, 1),
    )
    epochs: int = option(20, "passes over the training part", Role.RECIPE, within=AT_LEAST_1)
    batch_size: int = option(128, "images in one step", Role.RECIPE, within=AT_LEAST_1)
    lr: float | None = option(
        None,
        "peak learning rate (default, for each 128 images of a batch: sgd 0.1 from scratch, 0.02 from weights;"
        " adamw 0.001, 0.0001)",
        Role.RECIPE,
        within=POSITIVE,
    )
    optimizer: str = option("sgd", "sgd has Nesterov momentum 0.9", Role.RECIPE, choices=OPTIMIZERS)
    weight_decay: float | None = option(
        None,
        "on weights, not on biases and norms (default: sgd 0.0005, adamw 0.05)",
        Role.RECIPE,
        within=AT_LEAST_0,
    )
    warmup: float = option(
        0.05,
        "share of the steps in which the learning rate rises; then a cosine to 0",
        Role.RECIPE,
        within=Range(0, 1),
    )
    label_smoothing: float = option(0.0, "of the label term", Role.RECIPE, within=Range(0, 1))
    augment: str | None = option(
        None,
        "the student's views: the cached ones, or its own (default: cached where there are several, else crop-flip)",
        Role.RECIPE,
        choices=("cached",),
        registry=VIEW_POLICIES,
    )
    train_images: int | None = option(
        None,
        "train on this many images of the training part, spread evenly over the classes",
        Role.RECIPE,
        within=AT_LEAST_1,
    )
    views: int | None = option(
        None, "use only this many of the cached views", Role.RECIPE, within=AT_LEAST_1
    )
    mix: str = option(
        "none",
        "mix the images of a batch in pairs; exact for labels and a live teacher, approximate from a cache",
        Role.RECIPE,
        choices=MIXES,
    )
    live_teacher: bool = option(
        False, "run the cache's teacher in every step instead of reading its logits", Role.RECIPE
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
        "go on with the interrupted run in this folder; all other options are its own",
        Role.PATHS,
    )
    overwrite: bool = option(False, "replace the run that --out holds", Role.PATHS)
    vis: bool = option(
        False,
        "show one un-normalised image of each batch (a window, or PNG files in the run's folder)",
        Role.RUNTIME,
    )

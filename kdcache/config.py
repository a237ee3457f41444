"""The options of the two phases: dataclasses that check themselves and make their own command lines."""

import argparse
import dataclasses
import math
import shlex
import sys
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from kdcache.errors import InputError

SPLITS = ("train", "validation", "test")
DATASETS = ("cifar10", "cifar100", "folder", "shapes", "shapes-fine")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune")
CACHE_AUGMENTS = ("none", "flip", "crop-flip", "resized-crop")
PROJECTIONS = ("probe", "head", "probe+head", "none")
LOSSES = ("kl", "standardized-kl", "dkd", "dist", "mse")
MIXES = ("none", "mixup", "cutmix")


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts."""

    low: float = -math.inf
    high: float = math.inf
    low_excluded: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.low_excluded else self.low <= value
        return above and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{'above ' if self.low_excluded else ''}{self.low:.10g} to {self.high:.10g}"
        if self.low == -math.inf:
            return "finite"
        return f"{'above' if self.low_excluded else 'at least'} {self.low:g}"


POSITIVE = Range(0, low_excluded=True)
AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
FINITE = Range()
SEEDS = Range(0, 2**32 - 1)


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), within: Range | None = None) -> Any:
    """A dataclass field that is also a command-line option."""
    return field(default=default, metadata={"help": help, "choices": choices, "within": within})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both phases need to know."""

    script: ClassVar[str]  # whose options these are

    data: Path = option(Path("data"), "folder with the dataset's images")
    image_size: int | None = option(None, "side in pixels of the model's square input", within=AT_LEAST_1)
    mean: tuple[float, ...] | None = option(None, "channel means on the scale 0 to 1, as R,G,B", within=FINITE)
    std: tuple[float, ...] | None = option(None, "channel standard deviations, as R,G,B", within=POSITIVE)
    precision: str = option(
        "auto",
        "arithmetic of the model; auto: half on a GPU, bf16 on a CPU that has it for models of 1 GFLOP or more, else fp32",
        choices=PRECISIONS,
    )
    compile: str = option(
        "none", "torch.compile the model in this mode, where it runs long enough to pay for its start", choices=COMPILE_MODES
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    seed: int = option(0, "seed of every random choice but the 80/20 division", within=SEEDS)

    def __post_init__(self) -> None:
        faults = [fault for item in fields(self) if (fault := _fault(item, getattr(self, item.name)))]
        if faults:
            raise InputError(
                " and ".join(expected for expected, _ in faults),
                " and ".join(found for _, found in faults),
                "correct the option" + "s" * (len(faults) > 1),
            )

    def replace(self, **changes: Any) -> "typing.Self":
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "typing.Self":
        """The inverse of as_dict."""
        hints = typing.get_type_hints(cls)
        return cls(**{name: _restored(hints[name], value) for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: paths as text."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    def command_line(self) -> str:
        """The command for a shell that has these options, with those that differ from their defaults."""
        words = ["python", self.script]
        for item in fields(self):
            value, flag = getattr(self, item.name), "--" + item.name.replace("_", "-")
            if value == item.default:
                continue
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            # argparse takes a word that begins with a hyphen for an option
            words += [flag] if value is True else [f"{flag}={text}"] if text.startswith("-") else [flag, text]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """Which images, and how they are divided."""

    dataset: str | None = option(None, "which images (default: cifar10)", choices=DATASETS)
    limit: int | None = option(
        None,
        "take this many images of the training and of the test split, spread evenly over the classes",
        within=AT_LEAST_1,
    )
    store_size: int = option(
        256,
        "folder with mixed sizes: shorter side in pixels after resizing, and side of the centre crop",
        within=AT_LEAST_1,
    )
    split_seed: int = option(0, "seed of the division into 80 % training and 20 % validation", within=SEEDS)
    stream: bool = option(
        False,
        "read images ahead of each step instead of keeping them on the device; a folder's are kept decoded in a file in"
        " --data (default: where they do not fit)",
    )


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions(DatasetOptions):
    """Phase one."""

    script: ClassVar[str] = "precompute_teacher.py"
    cache: Path = option(Path("teacher.h5"), "the cache to write")
    teacher: str = option("vit_b_16", "a torchvision classification model, or package.module:callable")
    teacher_weights: str | None = option(
        None, "a torchvision weights name, none (random), or a file (default: IMAGENET1K_V1; none for a callable)"
    )
    augment: str = option("none", "how views 1, 2, ... of a training image are drawn", choices=CACHE_AUGMENTS)
    views: int = option(1, "views of each training image; view 0 is the whole image", within=Range(1, 1000))
    batch_size: int | None = option(
        None,
        "views in one forward pass; halved where memory is short (default: what suits the teacher and the device)",
        within=AT_LEAST_1,
    )
    restart: bool = option(False, "discard what an interrupted run left behind")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.views > 1) != (self.augment != "none"):
            raise InputError(
                "--views above 1 and an --augment other than none together",
                f"--views {self.views} --augment {self.augment}",
                "give both or neither",
            )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DatasetOptions):
    """Phase two."""

    script: ClassVar[str] = "train_student.py"
    cache: Path | None = option(None, "the teacher's cache; without it --dataset and --alpha 0")
    skip_checksums: bool = option(False, "do not read the whole cache to check its logits, where it is very large")
    student: str = option("resnet50", "a torchvision classification model, or package.module:callable")
    student_weights: str | None = option(
        None, "a torchvision weights name, none (random), or a file (default: IMAGENET1K_V1; none for a callable)"
    )
    small_stem: bool = option(False, "3 x 3 stride-1 stem without max-pool, for images trained at 32 px")
    projection: str | None = option(
        None,
        "teacher's classes to student's (default: none where the classes are the same, else probe)",
        choices=PROJECTIONS,
    )
    labels: str = option(
        "dataset",
        "the dataset's, or the teacher's classes with its top answers: no label is needed then",
        choices=("dataset", "teacher"),
    )
    loss: str = option("kl", "the distillation term", choices=LOSSES)
    temperature: float = option(4.0, "softens teacher and student", within=POSITIVE)
    alpha: float = option(0.9, "weight of the distillation term; the label term has 1 - alpha", within=Range(0, 1))
    epochs: int = option(20, "passes over the training part", within=AT_LEAST_1)
    batch_size: int = option(128, "images in one step", within=AT_LEAST_1)
    lr: float | None = option(
        None,
        "peak learning rate (default, for each 128 images of a batch: sgd 0.1 from scratch, 0.02 from weights;"
        " adamw 0.001, 0.0001)",
        within=POSITIVE,
    )
    optimizer: str = option("sgd", "sgd has Nesterov momentum 0.9", choices=("sgd", "adamw"))
    weight_decay: float | None = option(
        None, "on weights, not on biases and norms (default: sgd 0.0005, adamw 0.05)", within=AT_LEAST_0
    )
    warmup: float = option(0.05, "share of the steps in which the learning rate rises; then a cosine to 0", within=Range(0, 1))
    label_smoothing: float = option(0.0, "of the label term", within=Range(0, 1))
    augment: str | None = option(
        None,
        "the student's views: the cached ones, or its own (default: cached where there are several, else crop-flip)",
        choices=("cached", *CACHE_AUGMENTS),
    )
    train_images: int | None = option(
        None, "train on this many images of the training part, spread evenly over the classes", within=AT_LEAST_1
    )
    views: int | None = option(None, "use only this many of the cached views", within=AT_LEAST_1)
    mix: str = option(
        "none",
        "mix the images of a batch in pairs; exact for labels and a live teacher, approximate from a cache",
        choices=MIXES,
    )
    live_teacher: bool = option(False, "run the cache's teacher in every step instead of reading its logits")
    teacher_weights: str | None = option(None, "with --live-teacher: its weights, if phase one had them from a file")
    tensorboard: bool = option(False, "also write TensorBoard's event files into the run's folder")
    out: Path = option(Path("runs/student"), "folder for what the run leaves")
    resume: Path | None = option(None, "go on with the interrupted run in this folder; all other options are its own")
    overwrite: bool = option(False, "replace the run that --out holds")
    vis: bool = option(False, "show one un-normalised image of each batch (a window, or PNG files in the run's folder)")


def _fault(item: dataclasses.Field, value: Any) -> tuple[str, str] | None:
    """(expected, found) where `value` is not one that the option accepts."""
    flag = "--" + item.name.replace("_", "-")
    choices, within = item.metadata["choices"], item.metadata["within"]
    if value is None:
        return None
    if choices and value not in choices:
        return f"{flag} to be one of {', '.join(choices)}", f"{flag} {value}"
    if isinstance(value, tuple) and len(value) != 3:
        return f"{flag} to be three numbers R,G,B", f"{flag} {','.join(map(str, value))}"
    numbers = value if isinstance(value, tuple) else (value,)
    if within is not None and not all(number in within for number in numbers):
        return f"{flag} to be {within}", f"{flag} {','.join(map(str, numbers))}"
    return None


def _restored(hint: Any, value: Any) -> Any:
    """A value as JSON gave it back, in the type of its field."""
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in (hint, *typing.get_args(hint)) else value


def numbers(text: str) -> tuple[float, ...]:
    """'0.5,0.5,0.5' -> (0.5, 0.5, 0.5)"""
    return tuple(float(part) for part in text.split(","))


_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH", numbers: "R,G,B"}


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse_options(kind: type[Options], argv: list[str] | None, description: str | None) -> Any:
    """Make an instance of `kind` from a command line."""
    parser = OneLineParser(description=description)
    add_options(parser, kind)
    return kind(**vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))


def add_options(parser: argparse.ArgumentParser, kind: type[Options], without: tuple[str, ...] = ()) -> None:
    """Give a parser the options of `kind`. What is not on the command line will not be among the arguments."""
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        if item.name in without:
            continue
        flag, text = "--" + item.name.replace("_", "-"), item.metadata["help"].replace("%", "%%")
        if hints[item.name] is bool:
            parser.add_argument(flag, action="store_true", help=text, default=argparse.SUPPRESS)
            continue
        text += f" [{', '.join(item.metadata['choices'])}]" * bool(item.metadata["choices"])
        text += f" (default: {item.default})" * (item.default is not None)
        convert = _converter(hints[item.name])
        parser.add_argument(flag, type=convert, help=text, metavar=_METAVARS[convert], default=argparse.SUPPRESS)


def setting(kind: type[Options], text: str) -> tuple[str, tuple[Any, ...]]:
    """'temperature=1,2,4' -> ('temperature', (1.0, 2.0, 4.0)): values of one option of `kind`.

    Raises InputError where there is no such option, or it does not take these values.
    """
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    hints = typing.get_type_hints(kind)
    convert = _converter(hints[name]) if name in hints else None
    if convert in (None, numbers) or not values:
        raise InputError("--set OPTION=VALUE,VALUE,... with an option of train_student.py", f"--set {text}", "see its --help")
    if convert is bool:
        convert = {"true": True, "false": False}.__getitem__
    try:
        return name, tuple(convert(value) for value in values.split(","))
    except (ValueError, KeyError) as error:
        raise InputError(f"values that --{name.replace('_', '-')} takes", f"--set {text} ({error})", "correct them") from error


def _converter(hint: Any) -> Any:
    """The function that reads one value: int for `int | None`, three floats for a tuple."""
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    if typing.get_origin(kinds[0]) is tuple:
        return numbers
    return kinds[0]

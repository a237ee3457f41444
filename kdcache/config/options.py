"""What the options of both phases have in common: dataclasses that check themselves."""

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
    PRECISIONS,
)
from kdcache.config.fields import (
    AT_LEAST_1,
    FINITE,
    POSITIVE,
    SEEDS,
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
        "arithmetic of the model; auto: half on a GPU, bf16 on a CPU that has it for models of 1"
        " GFLOP or more, else fp32",
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
        0, "seed of every random choice but the 80/20 split", Role.SEED, within=SEEDS
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
        """The command for a shell, with the options that differ from their defaults."""
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
    """Which images, and how they are split."""

    dataset: str | None = option(
        None, "which images (default: cifar10)", Role.DATA, registry=DATASETS
    )
    limit: int | None = option(
        None,
        "take this many training and this many test images, spread evenly over the classes",
        Role.DATA,
        within=AT_LEAST_1,
    )
    store_size: int | None = option(
        None,
        "image folders of mixed sizes: side in pixels of the centre crop, to which each is resized"
        " (default: the size of at least nine in ten images, else 256)",
        Role.DATA,
        within=AT_LEAST_1,
    )
    split_seed: int = option(
        0, "seed of the split into 80 % training and 20 % validation", Role.DATA, within=SEEDS
    )
    stream: bool = option(
        False,
        "read images ahead of each step instead of keeping them on the device; those of a folder"
        " are kept decoded in a file in --data (default: where they do not fit)",
        Role.RUNTIME,
    )

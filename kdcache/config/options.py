"""What the options of both phases have in common: dataclasses that check themselves."""

import dataclasses
import shlex
import typing
from collections.abc import Collection, Iterable, Mapping
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
    IMAGE_SIZES,
    POSITIVE,
    SEEDS,
    Group,
    Need,
    Role,
    fault_of,
    flag_of,
    option,
    restored,
    spec_of,
)
from kdcache.errors import OptionError

Kind = TypeVar("Kind", bound="Options")

_NO_CACHE = Need(
    "without --cache, whose images are chosen already",
    lambda options: not options.images_from_cache,
    lambda options: " ".join(["--cache", *map(str, options.caches)]),
)
_MIXED_SIZES = Need(
    "with --dataset folder or one of your own",
    lambda options: options.dataset == "folder" or ":" in (options.dataset or ""),
    lambda options: f"--dataset {options.dataset or 'cifar10'}",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both phases need to know."""

    script: ClassVar[str]  # whose options these are
    model: ClassVar[str] = "model"  # whose input and precision are meant
    first: ClassVar[tuple[str, ...]] = ()  # the options that people change first, for --help
    examples: ClassVar[tuple[str, ...]] = ()  # what may follow the script's name

    data: Path = option(
        Path("data"),
        "folder with the dataset's images",
        Role.PATHS,
        group=Group.DATA,
    )
    image_size: int | None = option(
        None,
        "side in pixels of the model's square input",
        Role.RECIPE,
        within=IMAGE_SIZES,
        group=Group.MODEL,
    )
    mean: tuple[float, ...] | None = option(
        None,
        "channel means on the scale 0 to 1, as R,G,B",
        Role.RECIPE,
        within=FINITE,
        group=Group.MODEL,
    )
    std: tuple[float, ...] | None = option(
        None,
        "channel standard deviations, as R,G,B",
        Role.RECIPE,
        within=POSITIVE,
        group=Group.MODEL,
    )
    precision: str = option(
        "auto",
        "arithmetic of the model; auto: half on a GPU, bf16 on a CPU that has it for models of 1"
        " GFLOP or more, else fp32",
        Role.RECIPE,
        choices=PRECISIONS,
        group=Group.RUNTIME,
    )
    compile: str = option(
        "none",
        "torch.compile the model in this mode, where it runs long enough to pay for its start",
        Role.RUNTIME,
        choices=COMPILE_MODES,
        group=Group.RUNTIME,
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", Role.RUNTIME, group=Group.RUNTIME)
    seed: int = option(
        0,
        "seed of every random choice but the 80/20 split",
        Role.SEED,
        within=SEEDS,
        group=Group.RUNTIME,
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

    def changed(self) -> list[str]:
        """The options whose values are not their defaults."""
        return [item.name for item in fields(self) if getattr(self, item.name) != item.default]

    def unused(self, names: Iterable[str]) -> list[tuple[str, Need]]:
        """Those of some options that do nothing beside the others, and what each would need."""
        specs = {item.name: spec_of(item) for item in fields(self)}
        failing = ((name, need) for name in names for need in specs[name].needs)
        return [(name, need) for name, need in failing if not need.holds(self)]

    def check_used(self, names: Iterable[str]) -> None:
        """Raise OptionError where one of these options would do nothing."""
        first = dict(reversed(self.unused(names)))  # what each needs first, in reverse order
        if not first:
            return
        idle: dict[Need, list[str]] = {}
        for name, need in reversed(first.items()):
            value = getattr(self, name)
            words = [flag_of(name)] if isinstance(value, bool) else [flag_of(name), f"{value}"]
            idle.setdefault(need, []).append(" ".join(words))
        raise OptionError(
            "; ".join(f"{', '.join(given)} only {need.words}" for need, given in idle.items()),
            ", ".join(dict.fromkeys(need.found(self) for need in idle)),
            f"omit {', '.join(map(flag_of, reversed(first)))}",
        )

    def used_only(self: Kind) -> Kind:
        """The same options with the defaults of those that do nothing beside the others."""
        options = self
        while unused := {name for name, _ in options.unused(options.changed())}:
            options = options._with_defaults(unused)
        return options

    def without_start(self: Kind) -> Kind:
        """The same options with the defaults of those that say what becomes of an earlier run."""
        return self._with_defaults(self.names(Role.START))

    def _with_defaults(self: Kind, names: Collection[str]) -> Kind:
        defaults = {item.name: item.default for item in fields(self) if item.name in names}
        return self.replace(**defaults)

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

    @classmethod
    def names_of_code(cls) -> tuple[str, ...]:
        """The options whose value may be `package.module:name`."""
        return tuple(item.name for item in fields(cls) if spec_of(item).names_code)

    @classmethod
    def names_of_several(cls) -> tuple[str, ...]:
        """The options that take one value or more."""
        return tuple(item.name for item in fields(cls) if spec_of(item).several)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: paths as text."""
        return {name: _as_json(value) for name, value in vars(self).items()}

    def command_line(self) -> str:
        """The command for a shell, with the options that differ from their defaults."""
        return shlex.join(["python", self.script, *self.words(self.changed())])

    def words(self, names: Iterable[str]) -> list[str]:
        """The words of a command line that give these options."""
        words = []
        for name in names:
            flag, value = flag_of(name), getattr(self, name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            if name in self.names_of_several() and isinstance(value, tuple):
                words += [flag, *map(str, value)]
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif text.startswith("-"):  # argparse takes such a word for an option
                words.append(f"{flag}={text}")
            else:
                words += [flag, text]
        return words


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_json, value))
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """Which images, and how they are split."""

    dataset: str | None = option(
        None, "which images (default: cifar10)", Role.DATA, registry=DATASETS, group=Group.DATA
    )
    limit: int | None = option(
        None,
        "take this many training and this many test images (and validation images, where they are"
        " given), spread evenly over the classes",
        Role.DATA,
        within=AT_LEAST_1,
        group=Group.DATA,
        needs=[_NO_CACHE],
    )
    store_size: int | None = option(
        None,
        "image folders of mixed sizes: side in pixels of the centre crop, to which each is resized"
        " (default: the size of at least nine in ten images, else 256)",
        Role.DATA,
        within=AT_LEAST_1,
        group=Group.DATA,
        needs=[_NO_CACHE, _MIXED_SIZES],
    )
    split_seed: int = option(
        0,
        "seed of the split into 80 % training and 20 % validation, where the dataset has none",
        Role.DATA,
        within=SEEDS,
        group=Group.DATA,
        needs=[_NO_CACHE],
    )
    stream: bool = option(
        False,
        "read images ahead of each step instead of keeping them on the device; those of a folder"
        " are decoded each time (default: where they do not fit)",
        Role.RUNTIME,
        group=Group.DATA,
    )

    @property
    def images_from_cache(self) -> bool:
        """Whether a cache says which images these are."""
        return False

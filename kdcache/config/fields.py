"""An option: a dataclass field that knows its help, the values that it accepts, and its role."""

import contextlib
import dataclasses
import enum
import math
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.config.registry import Registry


class Role(enum.Enum):
    """What an option is for; sweeps, resuming and comparisons ask for it."""

    DATA = "data"
    """Which images and labels. All students of a sweep share them."""
    RECIPE = "recipe"
    """What is computed from them. Runs that differ in it are different experiments.

    A sweep may vary it.
    """
    SEED = "seed"
    """The seed of the random choices.

    Runs that differ in it alone are repetitions of one experiment.
    """
    PATHS = "input and output"
    """Where files lie."""
    START = "what is there already"
    """What becomes of what an earlier run left. It is no part of what a run is."""
    RUNTIME = "runtime"
    """How the work is done; the result is the same up to rounding."""


class Group(enum.Enum):
    """Under which heading `--help` shows an option; in this order."""

    DATA = "data"
    MODEL = "model"
    """The teacher in phase one, the student in phase two."""
    DISTILLATION = "distillation"
    OPTIMISATION = "optimisation"
    OUTPUT = "output"
    RUNTIME = "runtime"


@dataclass(frozen=True)
class Need:
    """What must hold for an option to do anything.

    Args:
        words: what is needed, for messages: "with --cache".
        holds: whether some options have it.
        found: what they have instead.
        strict: whether the option is refused in Python, too. Others may stand beside what makes
            them idle, so that `options.replace(alpha=0)` is a baseline.
    """

    words: str
    holds: Callable[[Any], bool]
    found: Callable[[Any], str]
    strict: bool = True


@dataclass(frozen=True)
class Span:
    """The values between two bounds, of which a search tries some.

    Args:
        low, high: both included.
        log: whether it is the logarithm that is spread evenly.
        whole: whether the values are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts."""

    low: float = -math.inf
    high: float = math.inf
    low_excluded: bool = False

    def __contains__(self, value: Any) -> bool:
        above = self.low < value if self.low_excluded else self.low <= value
        # not math.isfinite: an integer of a file may be too large for a float
        return above and value <= self.high and abs(value) <= sys.float_info.max

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
IMAGE_SIZES = Range(1, 4096)
"""Sides in pixels of a model's input: one image of the largest takes 200 MB."""
VIEW_COUNTS = Range(1, 1000)


@dataclass(frozen=True)
class Spec:
    """What is known of an option beside its name, type and default.

    `choices` are the words that it accepts beside what `registry` accepts; with neither, any text
    of its type goes. Where one of its `needs` does not hold, the option does nothing. `group` is
    its heading in `--help`. `names_code`: its value may be `package.module:name`. `several`: it
    takes one value or more; more are a tuple.
    """

    help: str
    role: Role
    choices: tuple[str, ...] = ()
    registry: Registry[Any] | None = None
    within: Range | None = None
    group: Group | None = None
    needs: tuple[Need, ...] = ()
    names_code: bool = False
    several: bool = False

    def accepts(self, word: str) -> bool:
        """Whether `word` is among the choices."""
        if word in self.choices:
            return True
        return self.registry.accepts(word) if self.registry is not None else not self.choices

    def describe_choices(self) -> str:
        """The choices in words; empty where there are none."""
        words = [*self.choices, *(self.registry or ())]
        more = ", or package.module:name" if self.registry is not None else ""
        return ", ".join(words) + more


def option(
    default: Any,
    help: str,
    role: Role,
    *,
    choices: Sequence[str] = (),
    registry: Registry[Any] | None = None,
    within: Range | None = None,
    group: Group | None = None,
    needs: Sequence[Need] = (),
    model: bool = False,
    several: bool = False,
) -> Any:
    """A dataclass field that is also a command-line option; with `model`, a model's name."""
    names_code = model or registry is not None
    spec = Spec(
        help, role, tuple(choices), registry, within, group, tuple(needs), names_code, several
    )
    return dataclasses.field(default=default, metadata={"spec": spec})


def spec_of(item: "dataclasses.Field[Any]") -> Spec:
    """The spec of a field that `option` made."""
    return item.metadata["spec"]


def flag_of(name: str) -> str:
    """'batch_size' -> '--batch-size'"""
    return "--" + name.replace("_", "-")


def fault_of(item: "dataclasses.Field[Any]", value: Any) -> tuple[str, str] | None:
    """(expected, found) where `value` is not one that the option accepts."""
    flag, spec = flag_of(item.name), spec_of(item)
    if value is None:
        return None
    if isinstance(value, str) and not spec.accepts(value):
        return f"{flag} to be one of {spec.describe_choices()}", f"{flag} {value}"
    if isinstance(value, tuple) and len(value) != 3 and not spec.several:
        return f"{flag} to be three numbers R,G,B", f"{flag} {','.join(map(str, value))}"
    if spec.within is not None:
        numbers = value if isinstance(value, tuple) else (value,)
        within = spec.within
        if not all(number in within for number in numbers):
            return f"{flag} to be {within}", f"{flag} {','.join(map(str, numbers))}"
    return None


def read_setting(hint: Any, value: Any) -> Any:
    """A value of a configuration file in the type of its field; 1 is a float where one is needed.

    Raises ValueError with what was expected.
    """
    kind: Any = converter(hint)
    several = value if takes_several(hint) else None
    if isinstance(several, list) and several:
        return one_or_more([read_setting(kind, one) for one in several])
    if kind is float and _is_number(value):
        with contextlib.suppress(OverflowError):  # of an integer of hundreds of digits
            return float(value)
    if kind is rgb and isinstance(value, list) and all(_is_number(one) for one in value):
        return rgb(",".join(map(str, value)))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise ValueError(_KINDS[kind])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def restored(hint: Any, value: Any) -> Any:
    """A value as JSON gave it back, in the type of its field."""
    takes_path = Path in (hint, *typing.get_args(hint))
    if isinstance(value, list):
        return tuple(Path(one) if takes_path else one for one in value)
    return Path(value) if isinstance(value, str) and takes_path else value


def takes_several(hint: Any) -> bool:
    """Whether a field takes one value or more: of `Path | tuple[Path, ...]` it does."""
    kinds = typing.get_args(hint)
    return any(kind not in (type(None), ...) and tuple[kind, ...] in kinds for kind in kinds)


def one_or_more(values: Sequence[Any]) -> Any:
    """The only value, or all of them as a tuple."""
    return values[0] if len(values) == 1 else tuple(values)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """All values of an option that takes one or more; nothing for None."""
    given = () if value is None else value
    return given if isinstance(given, tuple) else (given,)


def rgb(text: str) -> tuple[float, ...]:
    """'0.5,0.5,0.5' -> (0.5, 0.5, 0.5)"""
    return tuple(float(part) for part in text.split(","))


def converter(hint: Any) -> Callable[[str], Any]:
    """The function that reads one value: int for `int | None`, three floats for a tuple."""
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    if typing.get_origin(hint) is tuple or typing.get_origin(kinds[0]) is tuple:
        return rgb
    return kinds[0]


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    rgb: "three numbers [R, G, B]",
}

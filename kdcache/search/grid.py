"""Which students a sweep has, and which of them are finished; nothing here imports torch."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kdcache.config import Role, TrainOptions, expanded
from kdcache.errors import OptionError
from kdcache.runs import SUMMARY_FILE


def student(
    base: TrainOptions, chosen: Mapping[str, Any], given: Collection[str] = ()
) -> TrainOptions:
    """The options of the student with these values and seed.

    Its folder in `base.out` is named after them, but for those that do nothing beside the others,
    such as the temperature with alpha 0.

    Args:
        given: the options that the user gave for all; a recipe among the values leaves them.
    """
    chosen_for = base.replace(**expanded(chosen, given))
    idle = {name for name, _ in chosen_for.unused(chosen)}
    used = {key: value for key, value in chosen.items() if key not in idle}
    name = ",".join(f"{key}={value}".replace("/", "_") for key, value in used.items())
    return chosen_for.replace(out=base.out / name).used_only()


def combinations(
    base: TrainOptions,
    settings: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    given: Collection[str] = (),
) -> list[tuple[dict[str, Any], TrainOptions]]:
    """Every student, for each combination of `settings` and each seed: its values and options.

    Seeds are outermost so that after the first third of the time every combination has been seen
    once. Combinations that differ only in options that do nothing beside the others are one
    student.

    Args:
        given: as `student` has it.
    """
    students: dict[str, tuple[dict[str, Any], TrainOptions]] = {}
    for seed in seeds:
        for values in itertools.product(*settings.values()):
            chosen = dict(zip(settings, values, strict=True))
            options = student(base, chosen | {"seed": seed}, given)
            students.setdefault(options.out.name, (chosen, options))
    return list(students.values())


def check_swept(names: Mapping[str, Any], flag: str) -> None:
    """Raise OptionError where a student of one cache cannot have a value of its own."""
    for name in names:
        if name not in TrainOptions.names(Role.RECIPE):
            expected = f"{flag} of options in which students of one cache can differ"
            remedy = "run a sweep for each value, or use --seeds"
            raise OptionError(expected, f"{flag} {name}", remedy)


def finished(students: Sequence[TrainOptions]) -> list[TrainOptions]:
    """Those that have been trained and tested."""
    return [options for options in students if (options.out / SUMMARY_FILE).exists()]

"""Which students a sweep has, and which of them are finished; nothing here imports torch."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kdcache.config import Role, TrainOptions, expanded
from kdcache.errors import OptionError
from kdcache.runs import SUMMARY_FILE


def combinations(
    base: TrainOptions,
    settings: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    given: Collection[str] = (),
) -> list[TrainOptions]:
    """The options of every student: one for each combination of `settings` and each seed.

    Each gets a folder of its own in `base.out`, named after its settings. Seeds are outermost so
    that after the first third of the time every combination has been seen once. Combinations that
    differ only in options that do nothing beside the others, such as the temperature with alpha 0,
    are one student, which is named after the rest.

    Args:
        given: the options that the user gave for all; a recipe among `settings` leaves them.

    Raises OptionError where a setting is of something that all of them share.
    """
    for name in settings:
        if name not in TrainOptions.names(Role.RECIPE):
            expected = "--set of options in which students of one cache can differ"
            remedy = "run a sweep for each value, or use --seeds"
            raise OptionError(expected, f"--set {name}", remedy)
    students: dict[str, TrainOptions] = {}
    for seed in seeds:
        for values in itertools.product(*settings.values()):
            chosen = dict(zip(settings, values, strict=True)) | {"seed": seed}
            chosen_for = base.replace(**expanded(chosen, given))
            idle = {name for name, _ in chosen_for.unused(chosen)}
            used = {key: value for key, value in chosen.items() if key not in idle}
            name = ",".join(f"{key}={value}".replace("/", "_") for key, value in used.items())
            students.setdefault(name, chosen_for.replace(out=base.out / name).used_only())
    return list(students.values())


def finished(students: Sequence[TrainOptions]) -> list[TrainOptions]:
    """Those that have been trained and tested."""
    return [options for options in students if (options.out / SUMMARY_FILE).exists()]

"""What a sweep is asked for; nothing here imports torch or Optuna."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from kdcache.config import PRUNERS, SAMPLERS, Role, Span, TrainOptions
from kdcache.errors import OptionError
from kdcache.runtime import json_digest
from kdcache.search.grid import check_swept, combinations, student


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Every combination of some values, or settings that a sampler chooses; each with every seed.

    Args:
        base: the options that all students share; their folders are in `base.out`.
        choices: values of some options.
        spans: bounds of others, with `search` only.
        given: names of the options that the user gave for all, which a recipe leaves.
        seeds: the same for every setting, so that settings can be compared in pairs.
        search: how many settings a sampler chooses; None is every combination of `choices`.
        sampler: one of `kdcache.config.SAMPLERS`.
        pruner: one of `kdcache.config.PRUNERS`, which ends students early.
        storage: URL of the database of the study, which machines can share; None keeps it in a
            file in `base.out`, which processes of one machine share.
    """

    base: TrainOptions
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    spans: Mapping[str, Span] = field(default_factory=dict)
    given: Collection[str] = ()
    seeds: Sequence[int] = (0,)
    search: int | None = None
    sampler: str = SAMPLERS[0]
    pruner: str = PRUNERS[0]
    storage: str | None = None

    def __post_init__(self) -> None:
        check_swept(self.choices, "--set")
        check_swept(self.spans, "--range")
        if both := sorted(self.choices.keys() & self.spans.keys()):
            raise OptionError(
                "an option in --set or in --range", f"{both[0]} in both", "omit one of them"
            )
        if self.search is None and self.spans:
            raise OptionError(
                "--range with --search", "no --search", "say how many settings to try: --search 50"
            )
        if self.search is not None and not (self.choices or self.spans):
            raise OptionError(
                "--search with --range or --set",
                "neither",
                "say what may differ: --range lr=0.01:1:log",
            )
        for name, span in self.spans.items():  # an option checks its own values
            self.base.replace(**{name: span.low}).replace(**{name: span.high})

    @cached_property
    def grid(self) -> list[tuple[dict[str, Any], TrainOptions]]:
        """The students of every combination and seed, as `combinations` has them.

        None for a search.
        """
        if self.search is not None:
            return []
        return combinations(self.base, self.choices, self.seeds, self.given)

    def student(self, values: Mapping[str, Any], seed: int) -> TrainOptions:
        """The options of the student with these values, those between bounds to four digits."""
        chosen = {name: self._rounded(name, value) for name, value in values.items()}
        return student(self.base, chosen | {"seed": seed}, self.given)

    def _rounded(self, name: str, value: Any) -> Any:
        if name not in self.spans or self.spans[name].whole:
            return value
        return float(f"{value:.4g}")

    def study_name(self, content: str | None) -> str:
        """The name of the study: another one for other options, values or cache.

        Args:
            content: the digest of what the cache holds.
        """
        swept = {*self.choices, *self.spans}
        shared = {
            name: value
            for name, value in self.base.as_dict().items()
            if name in TrainOptions.names(Role.DATA, Role.RECIPE) and name not in swept
        }
        spans = {name: asdict(span) for name, span in self.spans.items()}
        values = {name: list(values) for name, values in self.choices.items()}
        told = [shared, values, spans, self.search is not None, content]
        return f"{self.base.out.name}-{json_digest(told)[:8]}"

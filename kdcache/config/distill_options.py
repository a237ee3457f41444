"""The options of phase two that say who teaches, and how: the cache, its views, and the loss."""

from dataclasses import dataclass
from pathlib import Path

from kdcache.config.choices import COMBINATIONS, LABELS, LOSSES, PROJECTIONS, VIEW_POLICIES
from kdcache.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    Group,
    Need,
    Range,
    Role,
    as_tuple,
    option,
)
from kdcache.config.options import DatasetOptions
from kdcache.config.recipes import RECIPES, expanded
from kdcache.errors import OptionError

CACHE = Need("with --cache", lambda options: options.cache is not None, lambda options: "no cache")
_SEVERAL = Need(
    "with several --cache", lambda options: len(options.caches) > 1, lambda options: "fewer"
)
_ONE_TEACHER = Need(
    "with one --cache", lambda options: len(options.caches) < 2, lambda options: "several"
)
_LABELS_OF_ONE = Need(
    _ONE_TEACHER.words,
    lambda options: len(options.caches) < 2 or options.labels == "dataset",
    _ONE_TEACHER.found,
)
_CACHED_VIEWS = Need(
    CACHE.words, lambda options: options.cache or options.augment != "cached", CACHE.found
)
_LABELS_OF_CACHE = Need(
    CACHE.words, lambda options: options.cache or options.labels == "dataset", CACHE.found
)
_DISTILLS = Need(
    "with --alpha above 0",
    lambda options: options.distills,
    lambda options: options.weights_in_words,
    strict=False,
)
LABEL_TERM = Need(
    "with --alpha below 1",
    lambda options: options.weights[0] > 0,
    lambda options: options.weights_in_words,
    strict=False,
)
_ALPHA_ALONE = Need(
    "without --label-weight and --distill-weight",
    lambda options: options.label_weight is None or options.distill_weight is None,
    lambda options: options.weights_in_words,
)
_WITH_DISTILL_WEIGHT = Need(
    "with --distill-weight",
    lambda options: options.distill_weight is not None,
    lambda options: "no --distill-weight",
)
_WITH_LABEL_WEIGHT = Need(
    "with --label-weight",
    lambda options: options.label_weight is not None,
    lambda options: "no --label-weight",
)
_HAS_TEMPERATURE = Need(
    "with a loss that has a temperature",
    lambda options: options.loss != "mse",
    lambda options: f"--loss {options.loss}",
    strict=False,
)
_TEACHER_SEES_VIEWS = Need(
    "with --augment cached, or with --alpha above 0 and no --live-teacher",
    lambda options: (
        options.augment == "cached"
        or (options.distills and not (options.live_teacher and options.augment))
    ),
    lambda options: "--live-teacher" if options.distills else options.weights_in_words,
    strict=False,
)
_LIVE = Need(
    "with --live-teacher",
    lambda options: options.live_teacher,
    lambda options: "no --live-teacher",
)


@dataclass(frozen=True, kw_only=True)
class DistillOptions(DatasetOptions):
    """Who teaches a student, and how.

    A `recipe` is not kept: the values that it stands for are. Given here, not on a command line, it
    yields to every value that differs from its default.
    """

    cache: Path | tuple[Path, ...] | None = option(
        None,
        "the teacher's cache, or several; else --dataset and --alpha 0",
        Role.PATHS,
        group=Group.DATA,
        several=True,
    )
    combine: str = option(
        "probabilities",
        "of several teachers: the mean of which, once projected",
        Role.RECIPE,
        choices=COMBINATIONS,
        group=Group.DISTILLATION,
        needs=[_SEVERAL],
    )
    teacher_weight: float | tuple[float, ...] | None = option(
        None,
        "weights of several teachers in that mean, in the order of --cache (default: equal)",
        Role.RECIPE,
        within=AT_LEAST_0,
        group=Group.DISTILLATION,
        needs=[_SEVERAL],
        several=True,
    )
    skip_checksums: bool = option(
        False,
        "do not read the whole cache to check its logits, where it is very large",
        Role.RUNTIME,
        group=Group.RUNTIME,
        needs=[CACHE],
    )
    projection: str | None = option(
        None,
        "teacher's classes to student's (default: none where the classes are the same, else probe)",
        Role.RECIPE,
        registry=PROJECTIONS,
        group=Group.DISTILLATION,
        needs=[CACHE],
    )
    labels: str = option(
        "dataset",
        "the dataset's; or the teacher's predictions in its own classes, for unlabelled images",
        Role.DATA,
        choices=LABELS,
        group=Group.DISTILLATION,
        needs=[_LABELS_OF_CACHE, _LABELS_OF_ONE],
    )
    recipe: str | None = option(
        None,
        "a method's published settings as defaults (docs/teaching.md); options beside it win",
        Role.RECIPE,
        choices=tuple(RECIPES),
        group=Group.DISTILLATION,
    )
    loss: str = option(
        "kl",
        "the distillation term",
        Role.RECIPE,
        registry=LOSSES,
        group=Group.DISTILLATION,
        needs=[_DISTILLS],
    )
    temperature: float = option(
        2.0,
        "softens teacher and student",
        Role.RECIPE,
        within=POSITIVE,
        group=Group.DISTILLATION,
        needs=[_DISTILLS, _HAS_TEMPERATURE],
    )
    alpha: float = option(
        0.5,
        "weight of the distillation term; the label term has 1 - alpha",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.DISTILLATION,
        needs=[_ALPHA_ALONE],
    )
    label_weight: float | None = option(
        None,
        "weight of the label term; with --distill-weight and in place of --alpha",
        Role.RECIPE,
        within=AT_LEAST_0,
        group=Group.DISTILLATION,
        needs=[_WITH_DISTILL_WEIGHT],
    )
    distill_weight: float | None = option(
        None,
        "weight of the distillation term; with --label-weight and in place of --alpha",
        Role.RECIPE,
        within=AT_LEAST_0,
        group=Group.DISTILLATION,
        needs=[_WITH_LABEL_WEIGHT],
    )
    distill_warmup: float = option(
        0.0,
        "fraction of the epochs in which the distillation term's weight rises to its value",
        Role.RECIPE,
        within=Range(0, 1),
        group=Group.DISTILLATION,
        needs=[_DISTILLS],
    )
    augment: str | None = option(
        None,
        "the student's views: the cached ones, or its own (default: cached where there are several"
        " and each is shown 8 times at most, else crop-flip)",
        Role.RECIPE,
        choices=("cached",),
        registry=VIEW_POLICIES,
        group=Group.DISTILLATION,
        needs=[_CACHED_VIEWS],
    )
    views: int | None = option(
        None,
        "use only this many of the cached views",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.DISTILLATION,
        needs=[CACHE, _TEACHER_SEES_VIEWS],
    )
    live_teacher: bool = option(
        False,
        "run the cache's teacher in every step instead of reading its logits",
        Role.RECIPE,
        group=Group.DISTILLATION,
        needs=[CACHE, _ONE_TEACHER, _DISTILLS],
    )
    teacher: str | None = option(
        None,
        "with --live-teacher: the cache's teacher; needed for one of your own,"
        " package.module:callable",
        Role.PATHS,
        group=Group.DISTILLATION,
        needs=[_LIVE],
        model=True,
    )
    teacher_weights: str | None = option(
        None,
        "with --live-teacher: its weights, if phase one had them from a file",
        Role.PATHS,
        group=Group.DISTILLATION,
        needs=[_LIVE],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe is not None:
            given = {name: getattr(self, name) for name in self.changed()}
            for name, value in expanded(given).items():
                object.__setattr__(self, name, value)
            object.__setattr__(self, "recipe", None)
        if self.label_weight == self.distill_weight == 0:
            expected = "--label-weight or --distill-weight above 0"
            raise OptionError(expected, "both 0", "correct one of them")

    @property
    def caches(self) -> tuple[Path, ...]:
        """The paths of the teachers' caches; none for labels only."""
        return as_tuple(self.cache)

    @property
    def teacher_weights_of_mean(self) -> tuple[float, ...] | None:
        """A weight for each of several teachers; None where they are equal."""
        return as_tuple(self.teacher_weight) or None

    @property
    def images_from_cache(self) -> bool:
        return self.cache is not None

    @property
    def weights(self) -> tuple[float, float]:
        """Of the label term and of the distillation term in the loss."""
        return self._own_weights or (1 - self.alpha, self.alpha)

    @property
    def weights_in_words(self) -> str:
        """As the command line has them."""
        if self._own_weights is None:
            return f"--alpha {self.alpha:g}"
        return "--label-weight {:g} --distill-weight {:g}".format(*self._own_weights)

    @property
    def distillation_share(self) -> float:
        """The distillation term's share of both weights: alpha, where that is given."""
        return self.alpha if self._own_weights is None else self.weights[1] / sum(self.weights)

    @property
    def _own_weights(self) -> tuple[float, float] | None:
        """The two weights that were given in place of alpha."""
        if self.label_weight is None or self.distill_weight is None:
            return None
        return self.label_weight, self.distill_weight

    @property
    def distills(self) -> bool:
        """Whether a teacher has a part in the loss."""
        return self.weights[1] > 0

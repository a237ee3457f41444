"""Groups of runs that differ in nothing but their seed: labels, baselines, and which is the best.

The best group is the one with the highest mean validation accuracy: the test split chooses nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from statistics import fmean, stdev
from typing import Any, Literal

from kdcache.config import Role, TrainOptions
from kdcache.errors import DataError
from kdcache.report.comparison.statistics import PairedTest, paired_test
from kdcache.runs import Run, RunSummary

Score = Literal["validation_accuracy", "test_accuracy", "seconds", "parameters"]
"""The numbers of a summary that are shown by group."""

_TOLD_BY_SUMMARY = {"dataset", "live_teacher"}  # by dataset and views
_ALWAYS = ("student", "dataset", "alpha", "temperature", "projection", "epochs", "fingerprint")
_SHORT = {"temperature": "T", "student_weights": "weights"}
_DIGITS_OF_A_FINGERPRINT = 8


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Args:
        label: distinguishes the group from the others: its kind, and the options in which groups of
            its kind differ.
        runs: one or more; those of one seed count as one.
        setting: the options that shape the result.
        baseline: label of the labels-only group that it is compared with; None for labels-only
            groups, and where there is none.
        versus_baseline: the test accuracies of this group against those of its baseline; None where
            `baseline` is.
        best: whether its mean validation accuracy is the highest of several groups.
    """

    label: str
    runs: tuple[Run, ...]
    setting: Mapping[str, Any]
    baseline: str | None = None
    versus_baseline: PairedTest | None = None
    best: bool = False

    @property
    def distilled(self) -> bool:
        return self.runs[0].summary.distilled

    @property
    def student(self) -> str:
        return self.runs[0].summary.student

    @property
    def short_label(self) -> str:
        """The label for charts, where colour or a heading tells the kind."""
        return self.label.removeprefix("distilled, ")

    def by_seed(self, score: Score) -> dict[int, float]:
        """A number of the summaries by seed, where they have it; the mean of runs with one seed."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            value = getattr(run.summary, score)
            if value is not None:
                found.setdefault(run.summary.seed, []).append(float(value))
        return {seed: fmean(found[seed]) for seed in sorted(found)}

    def mean_of(self, score: Score) -> float | None:
        """The mean over the seeds; None where no summary has the number."""
        values = list(self.by_seed(score).values())
        return fmean(values) if values else None

    def spread_of(self, score: Score) -> float | None:
        """The standard deviation over the seeds; None for a single one."""
        values = list(self.by_seed(score).values())
        return stdev(values) if len(values) > 1 else None

    @property
    def validation_accuracy(self) -> float:
        """The mean over the seeds."""
        return fmean(list(self.by_seed("validation_accuracy").values()))


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise DataError unless all runs were tested on the same images, as far as summaries say."""
    first = next((run for run in runs if run.summary.test_digest), runs[0])
    for run in runs:
        if not _tested_alike(first.summary, run.summary):
            raise DataError(
                f"runs tested on the same images as {first.name} ({first.summary.dataset})",
                f"{run.name} ({run.summary.dataset})",
                "compare runs of one dataset",
            )


def split_by_test_images(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs that were tested on the same images as most of them, and the odd ones.

    Where no images are those of more than half of the runs, none is odd.
    """
    for first in runs:
        alike = [run for run in runs if _tested_alike(first.summary, run.summary)]
        if 2 * len(alike) > len(runs):
            return alike, [run for run in runs if run not in alike]
    return list(runs), []


def _tested_alike(one: RunSummary, other: RunSummary) -> bool:
    if one.test_digest and other.test_digest:
        return one.test_digest == other.test_digest
    return (one.dataset, one.test_images) == (other.dataset, other.test_images)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Labels-only groups first, then the others, both in the order of their first runs."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_setting(run), sort_keys=True, default=str), []).append(run)
    groups = [Group("", tuple(some), _setting(some[0])) for some in members.values()]
    groups.sort(key=lambda group: group.distilled)
    groups = [replace(group, label=_label(group, groups)) for group in groups]
    best = max(groups, key=lambda group: group.validation_accuracy) if len(groups) > 1 else None
    return [_with_baseline(replace(group, best=group is best), groups) for group in groups]


def best_of(groups: Sequence[Group], distilled: bool) -> Group | None:
    """The group of a kind with the highest mean validation accuracy; None where there is none."""
    kind = [group for group in groups if group.distilled == distilled]
    return max(kind, key=lambda group: group.validation_accuracy, default=None)


def _setting(run: Run) -> dict[str, Any]:
    """The options that shape a run's result.

    Without distilling, the loss, the temperature and the probe are not among them.
    """
    options = run.config.options.as_dict() if run.config is not None else {}
    shaping = {*TrainOptions.names(Role.DATA, Role.RECIPE)} - _TOLD_BY_SUMMARY
    setting = {key: value for key, value in options.items() if key in shaping}
    setting |= {key: getattr(run.summary, key) for key in _ALWAYS}
    # the options' own `views` say how many there are, the summary's whose they are
    setting["matching"] = run.summary.views
    if not run.summary.distilled:
        setting |= {"temperature": None, "loss": None}
        setting["projection"] = "head" if options.get("projection") == "head" else None
    return setting


def _label(group: Group, groups: Sequence[Group]) -> str:
    """What tells a group from the others.

    The kind; temperature and alpha where the kind varies in them; what else its student's groups
    vary in; the student where there are several.
    """
    kind = [other for other in groups if other.distilled == group.distilled]
    kin = [other for other in kind if other.student == group.student]
    shown = [key for key in ("temperature", "alpha") if _varies(key, kind)]
    shown += [key for key in group.setting if _varies(key, kin) and key not in shown]
    lives = any(other.setting["matching"] == "live" for other in kin)
    if "augment" in shown and "matching" in shown and not lives:
        shown.remove("matching")  # it follows from the augmentation
    parts = ["distilled" if group.distilled else "labels only"]
    for key in shown:
        value = group.setting.get(key)
        if value not in (None, False):
            parts.append(_in_words(key, value))
    if _varies("student", groups):
        parts.append(group.student)
    return ", ".join(parts)


def varied_options(groups: Sequence[Group]) -> list[str]:
    """The options, as a group's `setting` names them, in which these groups differ."""
    keys = dict.fromkeys(key for group in groups for key in group.setting)
    return [key for key in keys if _varies(key, groups)]


def _varies(key: str, groups: Sequence[Group]) -> bool:
    return len({json.dumps(group.setting.get(key), default=str) for group in groups}) > 1


def _in_words(key: str, value: Any) -> str:
    if key == "matching":
        return "live teacher" if value == "live" else f"{value} views"
    return f"{_SHORT.get(key) or option_name(key)} {option_text(key, value)}"


def option_name(key: str) -> str:
    """What an option of a group's `setting` is called in a heading."""
    names = {"fingerprint": "cache", "matching": "whose views"}
    return names.get(key, key.replace("_", " "))


def option_text(key: str, value: Any) -> str:
    """Its value, short: of a path the name, of a fingerprint the beginning."""
    if value is None:
        return "–"
    if key == "fingerprint":
        return "+".join(one[:_DIGITS_OF_A_FINGERPRINT] for one in str(value).split("+"))
    if isinstance(value, str):
        return PurePath(value).name
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _with_baseline(group: Group, groups: Sequence[Group]) -> Group:
    """Compare a distilled group with its baseline.

    That is the labels-only group of the same student that differs in the fewest options; of equals,
    the best one.
    """
    candidates = [
        other for other in groups if not other.distilled and other.student == group.student
    ]
    if not group.distilled or not candidates:
        return group

    def differing(other: Group) -> int:
        return sum(value != group.setting.get(key) for key, value in other.setting.items())

    baseline = min(candidates, key=lambda other: (differing(other), -other.validation_accuracy))
    test = paired_test(group.by_seed("test_accuracy"), baseline.by_seed("test_accuracy"))
    return replace(group, baseline=baseline.label, versus_baseline=test)

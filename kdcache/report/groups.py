"""Runs that differ in nothing but their seed, as one row: how good, how sure, and against labels only.

The best row is the one with the highest mean validation accuracy: the test split chooses nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from kdcache.config import Role, TrainOptions
from kdcache.errors import KdcacheError
from kdcache.report.statistics import PairedTest, mean, paired_test, standard_deviation
from kdcache.runs import Run

_TOLD_BY_SUMMARY = {"dataset", "live_teacher"}  # by dataset and views
_ALWAYS = ("student", "dataset", "alpha", "temperature", "projection", "epochs", "fingerprint")
_SHORT = {
    "temperature": "T",
    "alpha": "alpha",
    "fingerprint": "cache",
    "student_weights": "weights",
}


_DIGITS_OF_A_FINGERPRINT = 8


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: distinguishes the group from the others: its kind, and the options in which groups of its kind differ.
        runs: one or more; those of one seed count as one.
        setting: the options that shape the result.
        zero: label of the labels-only group that is its zero line; None for labels-only groups and where there is none.
        versus_baseline: the test accuracies of this group against those of its zero line; None where `zero` is.
        best: whether its mean validation accuracy is the highest.
    """

    label: str
    runs: tuple[Run, ...]
    setting: Mapping[str, Any]
    zero: str | None = None
    versus_baseline: PairedTest | None = None
    best: bool = False

    @property
    def distilled(self) -> bool:
        return self.runs[0].distilled

    @property
    def student(self) -> str:
        return self.runs[0].summary["student"]

    @property
    def short(self) -> str:
        """The label for charts, where colour or a heading tells the kind."""
        return self.label.removeprefix("distilled, ")

    def by_seed(self, key: str) -> dict[int, float]:
        """A number of the summary, such as test_accuracy, by seed; the mean where runs share a seed."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            if run.summary.get(key) is not None:
                found.setdefault(run.seed, []).append(float(run.summary[key]))
        return {seed: mean(found[seed]) for seed in sorted(found)}

    def mean_of(self, key: str) -> float | None:
        values = list(self.by_seed(key).values())
        return mean(values) if values else None

    def spread_of(self, key: str) -> float | None:
        """The standard deviation over the seeds; None for a single one."""
        return standard_deviation(list(self.by_seed(key).values()))


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise KdcacheError unless all runs were tested on the same images, as far as their summaries say."""

    def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        keys = (
            ("test_digest",)
            if one.get("test_digest") and other.get("test_digest")
            else ("dataset", "test_images")
        )
        return all(one.get(key) == other.get(key) for key in keys)

    first = next((run for run in runs if run.summary.get("test_digest")), runs[0])
    for run in runs:
        if not same(first.summary, run.summary):
            raise KdcacheError(
                f"runs tested on the same images as {first.name} ({first.summary.get('dataset')})",
                f"{run.name} ({run.summary.get('dataset')})",
                "compare runs of one dataset",
            )


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Labels-only groups first, then the others, both in the order of their first runs."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_setting(run), sort_keys=True, default=str), []).append(run)
    groups = [Group("", tuple(some), _setting(some[0])) for some in members.values()]
    groups.sort(key=lambda group: group.distilled)
    groups = [
        replace(group, label=label) for group, label in zip(groups, _labels(groups), strict=True)
    ]
    best = max(groups, key=_validation) if len(groups) > 1 else None
    return [_with_baseline(replace(group, best=group is best), groups) for group in groups]


def best_of(groups: Sequence[Group], distilled: bool) -> Group | None:
    """The group of a kind with the highest mean validation accuracy; the first of equals, None of none."""
    return max(
        (group for group in groups if group.distilled == distilled), key=_validation, default=None
    )


def _validation(group: Group) -> float:
    return group.mean_of("validation_accuracy") or 0.0


def _setting(run: Run) -> dict[str, Any]:
    """The options that shape a run's result; without distilling, neither temperature nor probe are among them."""
    shaping = {*TrainOptions.names(Role.DATA, Role.RECIPE)} - _TOLD_BY_SUMMARY
    setting = {key: value for key, value in run.options.items() if key in shaping}
    setting |= {key: run.summary.get(key) for key in _ALWAYS}
    setting["matching"] = run.summary.get(
        "views"
    )  # matched, unmatched or live; options have how many views there are
    if not run.distilled:
        setting |= {
            "temperature": None,
            "projection": "head" if run.options.get("projection") == "head" else None,
        }
    return setting


def _labels(groups: Sequence[Group]) -> list[str]:
    """The kind, temperature and alpha where the kind varies in them, what else its student's groups vary in, the student."""
    labels = []
    for group in groups:
        kind = [other for other in groups if other.distilled == group.distilled]
        kin = [other for other in kind if other.student == group.student]
        keys = [key for key in ("temperature", "alpha") if _values(kind, key) > 1]
        more = dict.fromkeys(key for other in kin for key in other.setting if _values(kin, key) > 1)
        if "augment" in more and all(other.setting["matching"] != "live" for other in kin):
            more.pop("matching", None)  # it follows from the augmentation
        shown = {key: group.setting.get(key) for key in dict.fromkeys([*keys, *more])}
        parts = [_named(key, value) for key, value in shown.items() if value not in (None, False)]
        parts += [group.student] * (_values(groups, "student") > 1)
        labels.append(", ".join(["distilled" if group.distilled else "labels only", *parts]))
    return labels


def _values(groups: Sequence[Group], key: str) -> int:
    return len({json.dumps(group.setting.get(key), default=str) for group in groups})


def _named(key: str, value: Any) -> str:
    if key == "fingerprint":
        value = str(value)[:_DIGITS_OF_A_FINGERPRINT] if value else "none"
    elif isinstance(value, str):
        value = PurePath(value).name
    if key == "matching":
        return {"live": "live teacher"}.get(value, f"{value} views")
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{_SHORT.get(key, key.replace('_', ' '))} {shown}"


def _with_baseline(group: Group, groups: Sequence[Group]) -> Group:
    """The labels-only group of the same student that differs in the fewest options; of equals, the best one."""
    candidates = [
        other for other in groups if not other.distilled and other.student == group.student
    ]
    if not group.distilled or not candidates:
        return group

    def differing(other: Group) -> int:
        return sum(value != group.setting.get(key) for key, value in other.setting.items())

    zero = min(candidates, key=lambda other: (differing(other), -_validation(other)))
    test = paired_test(group.by_seed("test_accuracy"), zero.by_seed("test_accuracy"))
    return replace(group, zero=zero.label, versus_baseline=test)


def rows_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Everything known of each group with full precision, JSON-ready; the teachers first, which have few of the keys.

    Accuracies and their differences are shares (0..1), sd the standard deviation over the n seeds, seconds the mean.
    """
    return _teachers([run for group in groups for run in group.runs]) + [
        _row(group) for group in groups
    ]


def _row(group: Group) -> dict[str, Any]:
    summary, test = group.runs[0].summary, group.versus_baseline
    low, high = test.interval if test and test.interval else (None, None)
    return {
        "what": group.label,
        "kind": "distilled" if group.distilled else "labels only",
        "model": group.student,
        "parameters": summary.get("parameters"),
        "alpha": summary["alpha"],
        "temperature": summary.get("temperature") if group.distilled else None,
        "n": len(group.by_seed("validation_accuracy")),
        "seeds": sorted({run.seed for run in group.runs}),
        "validation_accuracy": group.mean_of("validation_accuracy"),
        "validation_sd": group.spread_of("validation_accuracy"),
        "test_accuracy": group.mean_of("test_accuracy"),
        "test_sd": group.spread_of("test_accuracy"),
        "best": group.best,
        "baseline": group.baseline,
        "shared_seeds": len(test.seeds) if test else None,
        "difference": test.difference if test else None,
        "difference_low": low,
        "difference_high": high,
        "p": test.p if test else None,
        "why_no_p": (
            test.reason if test else "no labels-only run of this student" if group.distilled else ""
        )
        or None,
        "seconds": group.mean_of("seconds"),
        "fingerprint": summary.get("fingerprint"),
        "runs": [str(run.folder) for run in group.runs],
    }


def _teachers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each teacher that the runs had, seen through the projection with which it taught."""
    found: dict[tuple, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: not run.distilled):
        if teacher := run.summary.get("teacher"):
            scores = {key: teacher.get(key) for key in ("validation_accuracy", "test_accuracy")}
            projection = run.summary.get("projection")
            what = "teacher" if projection in (None, "none") else f"teacher, {projection}"
            row = {"what": what, "kind": "teacher", "model": teacher.get("name"), **scores}
            found.setdefault((row["model"], *scores.values()), row)
    return list(found.values())

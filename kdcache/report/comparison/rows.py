"""The rows of a comparison: what is known of each group and each teacher, with full precision."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kdcache.report.comparison.groups import Group
from kdcache.runs import Run


def short_name(model: str) -> str:
    """A model's name for headings and charts: of package.module:name, the name."""
    return model.rpartition(":")[2]


@dataclass(frozen=True)
class TeacherRow:
    """A teacher as its students saw it. Accuracies are fractions of 1; None where not recorded."""

    what: str
    model: str
    validation_accuracy: float | None
    test_accuracy: float | None

    @property
    def label(self) -> str:
        """What it is, and which one."""
        return f"{self.what}: {short_name(self.model)}"

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "kind": "teacher"} | {
            key: getattr(self, key) for key in ("model", "validation_accuracy", "test_accuracy")
        }


@dataclass(frozen=True)
class Row:
    """What is known of a group, with full precision.

    Accuracies and their differences are fractions of 1, `..._sd` the standard deviation over the
    `n` seeds, None of a single one; seconds and the accuracies of each class are means.
    `difference` is to the labels-only group `baseline`, over the `shared_seeds`, `difference_low`
    to `difference_high` its 95 % interval; `why_no_p` says why there is no p, where one could be.
    """

    what: str
    kind: str
    model: str
    parameters: int | None
    alpha: float
    temperature: float | None
    n: int
    seeds: list[int]
    validation_accuracy: float
    validation_sd: float | None
    test_accuracy: float | None
    test_sd: float | None
    best: bool
    baseline: str | None
    shared_seeds: int | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p: float | None
    why_no_p: str | None
    seconds: float | None
    fingerprint: str | None
    runs: list[str]
    validation_class_accuracy: list[float | None] | None = None
    test_class_accuracy: list[float | None] | None = None

    @property
    def distilled(self) -> bool:
        return self.kind == "distilled"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def row_of(group: Group) -> Row:
    """The group's numbers."""
    summary, test = group.runs[0].summary, group.versus_baseline
    why_no_p = None
    if group.distilled:
        why_no_p = "no labels-only run of this student" if test is None else test.reason or None
    low, high = (test and test.interval) or (None, None)
    return Row(
        what=group.label,
        kind="distilled" if group.distilled else "labels only",
        model=group.student,
        parameters=summary.parameters,
        alpha=summary.alpha,
        temperature=summary.temperature if group.distilled else None,
        n=len(group.by_seed("validation_accuracy")),
        seeds=sorted({run.summary.seed for run in group.runs}),
        validation_accuracy=group.validation_accuracy,
        validation_sd=group.spread_of("validation_accuracy"),
        test_accuracy=group.mean_of("test_accuracy"),
        test_sd=group.spread_of("test_accuracy"),
        best=group.best,
        baseline=group.baseline,
        shared_seeds=len(test.seeds) if test else None,
        difference=test.difference if test else None,
        difference_low=low,
        difference_high=high,
        p=test.p if test else None,
        why_no_p=why_no_p,
        validation_class_accuracy=_mean_by_class(group, "validation_class_accuracy"),
        test_class_accuracy=_mean_by_class(group, "test_class_accuracy"),
        seconds=group.mean_of("seconds"),
        fingerprint=summary.fingerprint,
        runs=[str(run.folder) for run in group.runs],
    )


def _mean_by_class(group: Group, name: str) -> list[float | None] | None:
    """The mean over the runs; None where one of them has not recorded it."""
    recorded = [getattr(run.summary, name) for run in group.runs]
    if None in recorded or len({len(one) for one in recorded}) > 1:
        return None
    return [None if None in own else fmean(own) for own in zip(*recorded, strict=True)]


def teachers_of(runs: Sequence[Run]) -> tuple[TeacherRow, ...]:
    """Each teacher and ensemble once, seen through the projection with which it taught."""
    found: dict[tuple[object, ...], TeacherRow] = {}
    for run in sorted(runs, key=lambda run: not run.summary.distilled):
        teacher, projection = run.summary.teacher, run.summary.projection
        if teacher is None:
            continue
        what = "teacher" if projection in (None, "none") else f"teacher, {projection}"
        for one in (*(teacher.members or ()), teacher):
            # a labels-only run of the same cache records the same scores and no projection
            same = (one.name, one.validation_accuracy, one.test_accuracy)
            found.setdefault(same, TeacherRow(what, *same))
    return tuple(found.values())

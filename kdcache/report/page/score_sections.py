"""What a page on finished runs shows of their scores: a section each, None without content."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdcache.report.comparison import Group, Score, TeacherRow, best_of
from kdcache.report.page import charts
from kdcache.report.page.svg import escape

_LABELLED_CURVES = 5  # more groups than this, and only labels only and the best are named
_CURVES: tuple[tuple[Literal["validation_accuracy", "agreement"], str], ...] = (
    ("validation_accuracy", "Validation accuracy"),
    ("agreement", "Agreement with the teacher"),
)
_COSTS: tuple[tuple[Score, str], ...] = (
    ("parameters", "The student's parameters."),
    ("seconds", "Seconds of training and validation, the mean run."),
)


@dataclass(frozen=True)
class Section:
    """A section of the page: title and remark as plain text, body as HTML."""

    title: str
    remark: str
    body: str


def kind_of(group: Group, groups: Sequence[Group]) -> str:
    """The class of a group's marks.

    `best` for the best distilled one, `baseline` for labels only, else `other`.
    """
    if not group.distilled:
        return "baseline"
    return "best" if group is best_of(groups, True) else "other"


def figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def accuracies(groups: Sequence[Group], teachers: Sequence[TeacherRow]) -> str:
    """The figure of every seed's test accuracy; empty where nothing was tested."""
    rows = []
    for group in groups:
        values = [100 * value for value in group.by_seed("test_accuracy").values()]
        if values:
            rows.append((group.short_label, kind_of(group, groups), values))
    lines = [
        (row.what, 100 * row.test_accuracy) for row in teachers if row.test_accuracy is not None
    ]
    caption = (
        "Test accuracy in percent: a dot a seed, an upright stroke at their mean, which is also the"
        " number."
    )
    return figure(charts.dots(rows, lines), caption) if rows else ""


def learning(groups: Sequence[Group]) -> Section | None:
    few = len(groups) <= _LABELLED_CURVES
    body = ""
    for key, what in _CURVES:
        series = []
        for group in groups:
            if line := _line(group, key, kind_of(group, groups), few):
                series.append(line)
        if series:
            spoken = "; ".join(f"{line.name} ends at {line.y[-1]:.1f} %" for line in series)
            body += figure(
                charts.curves(series, f"{what} by epoch: {spoken}", "epoch"), f"{what} in percent."
            )
    if not body:
        return None
    remark = (
        "Mean over the seeds, and one standard deviation to both sides. Measured on the validation"
        " split after each epoch."
    )
    if not few:
        remark += " In grey, the other distilled groups."
    return Section("Learning", remark, f'<div class="sections">{body}</div>')


def _line(
    group: Group, key: Literal["validation_accuracy", "agreement"], kind: str, named: bool
) -> charts.Line | None:
    """Mean and band over the runs, as far as all went; None where an epoch lacks the number."""
    histories = [[getattr(epoch, key) for epoch in run.history] for run in group.runs]
    histories = [history for history in histories if history]
    if not histories or any(value is None for history in histories for value in history):
        return None
    length = min(map(len, histories))
    values = 100 * np.array([history[:length] for history in histories], np.float64)
    if not np.isfinite(values).all():
        return None
    centre = values.mean(0)
    band = values.std(0, ddof=1) if len(values) > 1 else np.zeros(length)
    epochs = [float(number) for number in range(1, length + 1)]
    low, high = (centre - band).tolist(), (centre + band).tolist()
    labelled = named or kind in ("best", "baseline")
    return charts.Line(group.short_label, kind, epochs, centre.tolist(), low, high, labelled)


def temperature_and_alpha(groups: Sequence[Group]) -> Section | None:
    """A heat map of the largest family of distilled groups that differ in nothing else.

    None where they vary in one of the two only.
    """
    families: dict[str, list[Group]] = {}
    for group in groups:
        if group.distilled and group.mean_of("test_accuracy") is not None:
            rest = {
                key: value
                for key, value in group.setting.items()
                if key not in ("temperature", "alpha")
            }
            families.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(group)
    family = max(families.values(), key=len, default=[])
    alphas = sorted({group.setting["alpha"] for group in family})
    temperatures = sorted({group.setting["temperature"] or 0.0 for group in family})
    if len(alphas) < 2 or len(temperatures) < 2:
        return None
    scores = np.full((len(alphas), len(temperatures)), np.nan)
    for group in family:
        score = 100 * (group.mean_of("test_accuracy") or 0.0)
        scores[
            alphas.index(group.setting["alpha"]),
            temperatures.index(group.setting["temperature"] or 0.0),
        ] = score
    low, high = np.nanmin(scores), np.nanmax(scores)
    shades = 0.08 + 0.92 * (scores - low) / ((high - low) or 1)
    texts = [["" if math.isnan(score) else f"{score:.1f}" for score in row] for row in scores]
    rows, columns = (
        [f"alpha {alpha:g}" for alpha in alphas],
        [f"T {value:g}" for value in temperatures],
    )
    spoken = "; ".join(
        f"{row} {column} {text} %" for row, line in zip(rows, texts, strict=True)
        for column, text in zip(columns, line, strict=True) if text
    )  # fmt: skip
    svg = charts.matrix(
        shades,
        texts,
        rows,
        columns,
        ("weight of the teacher", "temperature"),
        f"Test accuracy: {spoken}",
    )
    remark = (
        "How much the teacher weighs, and how much its predictions are softened. The stronger the"
        " shade, the more accurate."
    )
    caption = (
        "Mean test accuracy in percent over the seeds. The shades span the range of these numbers,"
        " however narrow."
    )
    return Section(
        "Temperature and alpha", remark, f'<div class="sections">{figure(svg, caption)}</div>'
    )


def cost(groups: Sequence[Group]) -> Section | None:
    """Seconds, and where the students differ in them parameters, against test accuracy."""
    body = ""
    for key, caption in _COSTS:
        marks = []
        for group in groups:
            x, y = group.mean_of(key), group.mean_of("test_accuracy")
            if x and y is not None:
                marks.append((group.short_label, kind_of(group, groups), x, 100 * y))
        if len({x for _, _, x, _ in marks}) > 1:
            spoken = "; ".join(f"{label}: {x:,.0f} {key}, {y:.1f} %" for label, _, x, y in marks)
            svg = charts.scatter(
                marks, key, len(groups) <= _LABELLED_CURVES, f"Test accuracy by {key}. {spoken}"
            )
            body += figure(svg, caption)
    if not body:
        return None
    remark = (
        "Test accuracy in percent against what it costs: to the left is cheaper, above is better."
        " Seconds are those of the machine that trained, with whatever else it did."
    )
    return Section("Cost", remark, f'<div class="sections">{body}</div>')

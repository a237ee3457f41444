"""The page's charts of predictions for the test images, pooled over the runs of a group."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from scipy import stats
from torch import Tensor

from kdcache.distill import confusion, joint_outcomes, reliability
from kdcache.report.comparison import Group, best_of
from kdcache.report.page.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    RED,
    SHADES,
    Chart,
    Look,
    escape,
    figure,
    looks,
    named_axis,
    wrapped,
)
from kdcache.report.tables import cell_percent
from kdcache.runs import Run

_MOST_CLASSES = 100  # of a confusion matrix
_CELL_TEXTS = 20  # more classes than this, and cells have no room for a number
_MOST_NAMED = 5  # confusions under a matrix
_MOST_BARS = 40  # classes with a bar each
FEW_IMAGES = 10  # a bin of confidence with fewer has a hollow mark
_OUTCOMES = (GREEN, BLUE, GREY, ORANGE, PALE)

Pooled = tuple[Tensor, Tensor]
"""labels int64 `(n M,)` and logits `(n M, K)` of n runs."""


def pooled(group: Group, who: Literal["student", "teacher"] = "student") -> Pooled | None:
    """Those of the group's runs that left them.

    None where none did, or where their classes differ in number.
    """
    import torch

    labels, logits = [], []
    for run in group.runs:
        rows = getattr(run.predictions, who, None)
        if run.predictions is not None and rows is not None:
            labels.append(run.predictions.labels)
            logits.append(rows)
    if len({rows.shape[1] for rows in logits}) != 1:
        return None
    return torch.cat(labels), torch.cat(logits)


def shown_pair(groups: Sequence[Group]) -> list[Group]:
    """The best labels-only and the best distilled group, of those that left predictions."""
    able = [group for group in groups if pooled(group) is not None]
    return [group for group in (best_of(able, False), best_of(able, True)) if group is not None]


def class_names(run: Run, classes: int) -> list[str]:
    names = list(run.class_names)
    return names if len(names) == classes else [f"class {number}" for number in range(classes)]


def _of_pair(groups: Sequence[Group]) -> list[tuple[Group, Look, Tensor, Tensor]]:
    """The shown pair with the looks, labels and logits of both."""
    look_of = dict(zip([group.label for group in groups], looks(groups), strict=True))
    found = []
    for group in shown_pair(groups):
        if (predictions := pooled(group)) is not None:
            found.append((group, look_of[group.label], *predictions))
    return found


def classes(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy by class, and where there are two groups, what distilling changed in each."""
    pair = _of_pair(groups)
    if not pair or len({logits.shape[1] for *_, logits in pair}) > 1:
        return []
    names = np.array(class_names(pair[0][0].runs[0], pair[0][3].shape[1]))
    rights, totals = [], []
    for group, _, labels, logits in pair:
        counts = confusion(labels, logits).numpy() / len(labels) * _images(group, labels)
        rights.append(np.rint(np.diag(counts)).astype(int))
        totals.append(np.rint(counts.sum(1)).astype(int))
    present = np.flatnonzero(np.min(totals, axis=0) > 0)
    ends = [_interval(right[present], total[present]) for right, total in zip(
        rights, totals, strict=True)]  # fmt: skip
    scores = [right[present] / total[present] for right, total in zip(rights, totals, strict=True)]
    value, (low, high) = scores[-1], ends[-1]
    hover = "%{customdata[0]}: %{x:.1f} %, %{customdata[1]} images<extra></extra>"
    caption = "The line is the 95 % interval (Wilson) of one run's test images."
    title, axis = "Accuracy by class", "accuracy (%)"
    told = [names[present], totals[-1][present]]
    if len(pair) == 2:
        title, axis = "What distilling changed in each class", "difference (percentage points)"
        (low_0, high_0), (low_1, high_1) = ends
        value = scores[1] - scores[0]
        # Newcombe 1998, "Interval estimation for the difference between independent proportions"
        low = value - np.hypot(scores[1] - low_1, high_0 - scores[0])
        high = value + np.hypot(high_1 - scores[1], scores[0] - low_0)
        told += [100 * scores[1], 100 * scores[0]]
        hover = (
            "%{customdata[0]}: %{x:+.1f}; %{customdata[2]:.1f} % distilled, %{customdata[3]:.1f} %"
            " from labels only, %{customdata[1]} images<extra></extra>"
        )
        caption = (
            f"{pair[1][0].label} against {pair[0][0].label}: accuracy on each label's test images."
            " The line is the 95 % interval (Newcombe) of one run's test images."
        )
    order = np.argsort(value, kind="stable")
    if len(order) > _MOST_BARS:
        order = np.concatenate([order[: _MOST_BARS // 2], order[-_MOST_BARS // 2 :]])
        caption += f" The {_MOST_BARS // 2} lowest and the {_MOST_BARS // 2} highest classes."
    bars = go.Bar(
        x=100 * value[order],
        y=list(range(len(order))),
        orientation="h",
        marker={"color": [RED if change < 0 else BLUE for change in value[order]], "opacity": 0.75},
        error_x={
            "array": 100 * (high - value)[order],
            "arrayminus": 100 * (value - low)[order],
            "symmetric": False,
        },
        customdata=[[escape(row[0]), *row[1:]] for row in zip(
            *(column[order].tolist() for column in told), strict=True)],
        hovertemplate=hover,
    )  # fmt: skip
    shown = [str(name) for name in names[present][order]]
    y = named_axis(shown) | {"tickvals": list(range(len(shown)))}
    y["ticktext"] = [wrapped(name[:24], 24) for name in shown]
    x = {"title": axis, "zeroline": True}
    return [Chart(title, caption, figure([bars], 90 + 20 * len(order), xaxis=x, yaxis=y))]


def _images(group: Group, labels: Tensor) -> float:
    """How many test images there were, of which each run predicted all."""
    return len(labels) / sum(run.predictions is not None for run in group.runs)


def _interval(right: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of each proportion; `total` is at least 1."""
    ends = [
        stats.binomtest(int(k), int(n)).proportion_ci(0.95, "wilson")
        for k, n in zip(right, total, strict=True)
    ]
    return np.array([end.low for end in ends]), np.array([end.high for end in ends])


def confusions(groups: Sequence[Group]) -> list[Chart]:
    return [
        _confusion(group, labels, logits)
        for group, _, labels, logits in _of_pair(groups)
        if logits.shape[1] <= _MOST_CLASSES
    ]


def _confusion(group: Group, labels: Tensor, logits: Tensor) -> Chart:
    counts = confusion(labels, logits).numpy()
    number = len(counts)
    images = counts.sum(1, keepdims=True)
    percent = np.divide(100 * counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    names = class_names(group.runs[0], number)
    worst = []
    for place in np.argsort(-percent, axis=None, kind="stable"):
        label, prediction = divmod(int(place), number)
        if label != prediction and percent[label, prediction] > 0 and len(worst) < _MOST_NAMED:
            text = cell_percent(percent[label, prediction])
            worst.append(f"{names[label]} taken for {names[prediction]} {text} %")
    texts = [[cell_percent(value) for value in row] for row in percent]
    cells = go.Heatmap(
        # the root makes a confusion of 1 % visible beside a diagonal of 90 %
        z=np.sqrt(percent),
        zmin=0,
        zmax=10,
        text=texts if number <= _CELL_TEXTS else None,
        texttemplate="%{text}" if number <= _CELL_TEXTS else None,
        textfont={"size": 10},
        colorscale=SHADES,
        showscale=False,
        xgap=1,
        ygap=1,
        customdata=np.stack([percent.round(2), counts], -1).tolist(),
        hovertemplate="%{customdata[0]:.1f} % (%{customdata[1]} predictions)<br>label %{hovertext}"
        "<extra></extra>",
        hovertext=[
            [f"{escape(label)}, predicted {escape(other)}" for other in names] for label in names
        ]
        if number <= _CELL_TEXTS
        else [[f"{row}, predicted {column}" for column in range(number)] for row in range(number)],
    )
    y = named_axis(names, title="label") | {"range": [number - 0.5, -0.5]}
    made = figure([cells], 420, xaxis=named_axis(names, title="prediction"), yaxis=y)
    caption = "In percent of each label's test images, so that a row sums to 100."
    if worst:
        caption += f" Most often: {'; '.join(worst)}."
    return Chart(group.label, caption, made)


def calibration(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy over confidence, with the interval that the images of each bin leave."""
    shown = [(look.name, look.colour, (labels, logits)) for _, look, labels, logits in _of_pair(
        groups)]  # fmt: skip
    teachers = [pooled(group, "teacher") for group in reversed(shown_pair(groups))]
    teacher = next((found for found in teachers if found is not None), None)
    if teacher is not None:
        shown.append(("teacher", GREY, teacher))
    if not shown:
        return []
    line = {"color": PALE, "dash": "dash", "width": 1}
    traces = [
        go.Scatter(
            x=[0, 100], y=[0, 100], mode="lines", line=line, hoverinfo="skip", showlegend=False
        )
    ]
    errors = []
    for name, colour, predictions in shown:
        found = reliability(*predictions)
        counts = found.counts.numpy()
        bins = np.flatnonzero(counts)
        counts, confidence = counts[bins], 100 * found.confidence.numpy()[bins]
        accuracy = found.accuracy.numpy()[bins]
        low, high = _interval(np.rint(accuracy * counts), counts)
        shared = {"legendgroup": name, "name": name, "customdata": counts}
        traces.append(
            go.Scatter(
                x=confidence,
                y=100 * accuracy,
                mode="lines+markers",
                line={"color": colour, "width": 1},
                marker={
                    "color": colour,
                    "size": 8,
                    "symbol": ["circle" if n >= FEW_IMAGES else "circle-open" for n in counts],
                },
                error_y={
                    "array": 100 * (high - accuracy),
                    "arrayminus": 100 * (accuracy - low),
                    "symmetric": False,
                    "thickness": 1,
                },
                hovertemplate="confidence %{x:.1f} %: %{y:.1f} % right, %{customdata} images"
                f"<extra>{name}</extra>",
                **shared,
            )
        )
        traces.append(
            go.Scatter(
                x=confidence,
                y=100 * counts / counts.sum(),
                yaxis="y2",
                mode="lines",
                line={"color": colour, "width": 1.5},
                showlegend=False,
                hovertemplate=f"%{{y:.1f}} % of the images<extra>{name}</extra>",
                **shared,
            )
        )
        errors.append(f"{name} {100 * found.calibration_error:.1f} %")
    made = figure(
        traces,
        460,
        xaxis={"title": "confidence (%)", "range": [-2, 102], "anchor": "y2"},
        yaxis={"title": "right (%)", "range": [-3, 103], "domain": [0.3, 1]},
        yaxis2={"title": "images (%)", "domain": [0, 0.2], "rangemode": "tozero", "nticks": 3},
    )
    caption = (
        "Of the test images on which a network is 80 % confident, does it get 80 % right? Marks on"
        " the dashed line say yes; their lines are 95 % intervals (Wilson), and hollow marks stand"
        f" for fewer than {FEW_IMAGES} images. Expected calibration error (15 bins):"
    )
    return [Chart("Reliability", f"{caption} {'; '.join(errors)}.", made)]


def agreement(groups: Sequence[Group]) -> list[Chart]:
    """How often student and teacher are right and wrong together."""
    rows, fractions = [], []
    for group, _, labels, logits in _of_pair(groups):
        theirs = pooled(group, "teacher")
        if theirs is not None and theirs[1].shape == logits.shape:
            rows.append(wrapped(group.label))
            fractions.append(joint_outcomes(labels, logits, theirs[1]))
    if not rows:
        return []
    traces = [
        go.Bar(
            x=[100 * found[case] for found in fractions],
            y=rows,
            orientation="h",
            name=case,
            marker={"color": colour, "opacity": 0.8},
            texttemplate="%{x:.0f}",
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=f"{case}: %{{x:.1f}} %<extra></extra>",
        )
        for case, colour in zip(fractions[0], _OUTCOMES, strict=True)
    ]
    x = {"title": "test images (%)", "range": [0, 100.5]}
    made = figure(traces, 170 + 55 * len(rows), xaxis=x, barmode="stack")
    same = [math.fsum((found["both right"], found["the same mistake"])) for found in fractions]
    whole = "; ".join(f"{100 * value:.1f} %" for value in same)
    return [Chart("Student and teacher", f"The same prediction: {whole} of the images.", made)]

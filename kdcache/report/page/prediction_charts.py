"""The page's charts of predictions for the test images, pooled over the runs of a group."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from scipy import stats
from torch import Tensor

from kdcache.distill import confusion, joint_outcomes, reliability
from kdcache.report.comparison import Group, best_of
from kdcache.report.page.charts import (
    BLUE,
    CELLS,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    RED,
    Chart,
    Look,
    chart,
    escape,
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
_FEW_IMAGES = 10  # a bin of confidence with fewer has a hollow mark
_OUTCOMES = (GREEN, BLUE, GREY, ORANGE, PALE)


def pooled(
    group: Group, who: Literal["student", "teacher"] = "student"
) -> tuple[Tensor, Tensor] | None:
    """labels int64 `(n M,)` and logits `(n M, K)` of the group's n runs that left them.

    None where none did, or where their classes differ in number.
    """
    held = [run.predictions for run in group.runs if run.predictions is not None]
    held = [predictions for predictions in held if getattr(predictions, who) is not None]
    logits = [getattr(predictions, who) for predictions in held]
    if len({rows.shape[1] for rows in logits}) != 1:
        return None
    return torch.cat([predictions.labels for predictions in held]), torch.cat(logits)


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
    found = [(group, look_of[group.label], pooled(group)) for group in shown_pair(groups)]
    return [(group, look, *rows) for group, look, rows in found if rows is not None]


def _interval(right: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of each proportion; NaN where `total` is 0."""
    pairs = zip(right.astype(int).tolist(), total.astype(int).tolist(), strict=True)
    ends = [
        stats.binomtest(k, n).proportion_ci(0.95, "wilson") if n else (np.nan, np.nan)
        for k, n in pairs
    ]
    low, high = np.array(ends).T
    return low, high


def _error_bar(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
    """In percent, of fractions."""
    return {
        "symmetric": False,
        "array": 100 * (high - value),
        "arrayminus": 100 * (value - low),
        "thickness": 1,
    }


def classes(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy by class, or where there are two groups, what distilling changed in each class."""
    pair = _of_pair(groups)
    if not pair or len({logits.shape[1] for *_, logits in pair}) > 1:
        return []
    scores, lows, highs, images = [], [], [], np.zeros(0)
    for group, _, labels, logits in pair:
        runs = sum(run.predictions is not None for run in group.runs)
        counts = confusion(labels, logits).numpy() / runs  # of one run, so that n is the images
        images = counts.sum(1)
        low, high = _interval(np.rint(np.diag(counts)), np.rint(images))
        scores.append(np.diag(counts) / np.where(images, images, np.nan))
        lows.append(np.minimum(low, scores[-1]))
        highs.append(np.maximum(high, scores[-1]))
    value, low, high = scores[-1], lows[-1], highs[-1]
    title, axis, against = "Accuracy by class", "accuracy (%)", ""
    hover = "%{customdata[0]}: %{customdata[2]:.1f} %, %{customdata[1]} images<extra></extra>"
    if len(pair) == 2:
        # Newcombe 1998, "Interval estimation for the difference between independent proportions"
        value = scores[1] - scores[0]
        low = value - np.hypot(scores[1] - lows[1], highs[0] - scores[0])
        high = value + np.hypot(highs[1] - scores[1], scores[0] - lows[0])
        title, axis = "What distilling changed in each class", "difference (percentage points)"
        against = f"{pair[1][0].label} against {pair[0][0].label}. "
        hover = hover.replace(": ", ": %{x:+.1f}, to ", 1).replace(
            "%,", "% from %{customdata[3]:.1f} %,"
        )
    order = np.argsort(value, kind="stable")[: np.count_nonzero(~np.isnan(value))]
    caption = f"{against}The lines are 95 % intervals from the number of each label's test images."
    if len(order) > _MOST_BARS:
        caption += f" The {_MOST_BARS // 2} lowest and the {_MOST_BARS // 2} highest classes."
        order = np.concatenate([order[: _MOST_BARS // 2], order[-_MOST_BARS // 2 :]])
    names = [class_names(pair[0][0].runs[0], len(value))[label] for label in order]
    told = [[escape(name), int(images[at])] for name, at in zip(names, order, strict=True)]
    told = [
        row + [100 * s[at] for s in reversed(scores)] for row, at in zip(told, order, strict=True)
    ]
    bars = go.Bar(
        x=100 * value[order],
        y=list(range(len(order))),
        orientation="h",
        marker={"color": [RED if change < 0 else BLUE for change in value[order]], "opacity": 0.75},
        error_x=_error_bar(value[order], low[order], high[order]),
        customdata=told,
        hovertemplate=hover,
    )
    y = named_axis(names, "") | {"tickvals": bars.y, "ticktext": [escape(n[:24]) for n in names]}
    x = {"title": axis, "zeroline": True}
    return [chart(title, caption, [bars], 90 + 22 * len(order), x=x, y=y, wide=True)]


def confusions(groups: Sequence[Group]) -> list[Chart]:
    return [
        _confusion(group, confusion(labels, logits).numpy())
        for group, _, labels, logits in _of_pair(groups)
        if logits.shape[1] <= _MOST_CLASSES
    ]


def _confusion(group: Group, counts: np.ndarray) -> Chart:
    number, images = len(counts), counts.sum(1, keepdims=True)
    percent = np.divide(100 * counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    names = class_names(group.runs[0], number)
    wrong = np.where(np.eye(number, dtype=bool) | ~(percent > 0), 0, percent)
    worst = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_NAMED]:
        row, column = divmod(int(place), number)
        if wrong[row, column]:
            text = cell_percent(percent[row, column])
            worst.append(f"{names[row]} taken for {names[column]} {text} %")
    # the root makes a confusion of 1 % visible beside a diagonal of 90 %
    cells = CELLS | {"z": np.sqrt(percent), "zmin": 0, "zmax": 10}
    if number <= _CELL_TEXTS:
        texts = [[cell_percent(value) for value in row] for row in percent]
        cells |= {"text": texts, "texttemplate": "%{text}", "textfont": {"size": 10}}
    hover = "label %{y}, predicted %{x}: %{customdata[0]:.1f} %, %{customdata[1]} predictions"
    told = np.stack([percent.round(2), counts], -1).tolist()
    trace = go.Heatmap(**cells, customdata=told, hovertemplate=f"{hover}<extra></extra>")
    caption = "In percent of each label's test images, so that a row sums to 100."
    if worst:
        caption += f" Most often: {'; '.join(worst)}."
    x = named_axis(names, "prediction", tickangle=-45)
    y = named_axis(names, "label", range=[number - 0.5, -0.5])
    return chart(group.label, caption, [trace], 420, x=x, y=y)


def calibration(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy over confidence, with the interval that the images of each bin leave."""
    shown = [(look.name, look.colour, rows) for _, look, *rows in _of_pair(groups)]
    teachers = [pooled(group, "teacher") for group in reversed(shown_pair(groups))]
    teacher = next((found for found in teachers if found is not None), None)
    if teacher is not None:
        shown.append(("teacher", GREY, [*teacher]))
    if not shown:
        return []
    line = {"color": PALE, "dash": "dash", "width": 1}
    ideal = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}
    traces, errors = [go.Scatter(x=[0, 100], y=[0, 100], **ideal)], []
    for name, colour, (labels, logits) in shown:
        found = reliability(labels, logits)
        bins = found.counts.nonzero()[:, 0].numpy()
        columns = (found.counts, found.confidence, found.accuracy)
        counts, confidence, accuracy = (column.numpy()[bins] for column in columns)
        symbols = ["circle" if count >= _FEW_IMAGES else "circle-open" for count in counts]
        shared = {"x": 100 * confidence, "customdata": counts, "legendgroup": name, "name": name}
        shared |= {"line": {"color": colour, "width": 1}}
        marks = go.Scatter(
            **shared,
            y=100 * accuracy,
            mode="lines+markers",
            marker={"color": colour, "size": 8, "symbol": symbols},
            error_y=_error_bar(accuracy, *_interval(np.rint(accuracy * counts), counts)),
            hovertemplate="confidence %{x:.1f} %: %{y:.1f} % right, %{customdata} images",
        )
        share = shared | {"yaxis": "y2", "mode": "lines", "showlegend": False}
        hover = "%{y:.1f} % of the images"
        below = go.Scatter(y=100 * counts / counts.sum(), hovertemplate=hover, **share)
        traces += [marks, below]
        errors.append(f"{name} {100 * found.calibration_error:.1f} %")
    caption = (
        "Of the test images on which a network is 80 % confident, does it get 80 % right? Marks on"
        " the dashed line say yes; their lines are 95 % intervals, and hollow marks stand for fewer"
        f" than {_FEW_IMAGES} images. Expected calibration error (15 bins): {'; '.join(errors)}."
    )
    x = {"title": "confidence (%)", "range": [-2, 102], "anchor": "y2"}
    y = {"title": "right (%)", "range": [-3, 103], "domain": [0.3, 1]}
    y2 = {"title": "images (%)", "domain": [0, 0.2], "rangemode": "tozero", "nticks": 3}
    return [chart("Reliability", caption, traces, 460, x=x, y=y, wide=True, yaxis2=y2)]


def agreement(groups: Sequence[Group]) -> list[Chart]:
    """How often student and teacher are right and wrong together."""
    rows, fractions, same = [], [], []
    for group, _, labels, logits in _of_pair(groups):
        theirs = pooled(group, "teacher")
        if theirs is not None and theirs[1].shape == logits.shape:
            found = joint_outcomes(labels, logits, theirs[1])
            rows.append(wrapped(group.label))
            fractions.append(found)
            agreed = 100 * (found["both right"] + found["the same mistake"])
            same.append(f"{group.label} {agreed:.1f} %")
    if not rows:
        return []
    look = {"orientation": "h", "texttemplate": "%{x:.0f}", "insidetextanchor": "middle"}
    look |= {"textangle": 0, "textposition": "inside", "opacity": 0.8}
    traces = []
    for case, colour in zip(fractions[0], _OUTCOMES, strict=True):
        x, hover = [100 * found[case] for found in fractions], f"{case}: %{{x:.1f}} %"
        said = {"name": case, "hovertemplate": f"{hover}<extra></extra>"}
        traces.append(go.Bar(x=x, y=rows, marker={"color": colour}, **said, **look))
    caption = f"The same prediction: {'; '.join(same)} of the images."
    x = {"title": "test images (%)", "range": [0, 100.5]}
    layout = {"barmode": "stack", "legend": {"traceorder": "normal"}, "wide": True}
    title, height = "Student and teacher", 170 + 55 * len(rows)
    return [chart(title, caption, traces, height, x=x, y={}, **layout)]

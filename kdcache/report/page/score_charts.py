"""The page's charts of scores: accuracies, learning curves, what a sweep varied, and cost."""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go

from kdcache.report.comparison import (
    Group,
    Score,
    TeacherRow,
    option_name,
    option_text,
    varied_options,
)
from kdcache.report.page.charts import (
    BLUE,
    CELLS,
    GREY,
    ORANGE,
    Chart,
    Look,
    chart,
    escape,
    looks,
    noise,
    wrapped,
)
from kdcache.report.plot_style import spans_decades

_Series = Sequence[tuple[str, str, str]]  # a field of EpochRecord, its name, and how it is dashed
_LOSSES: _Series = (
    ("train_loss", "training", "dot"),
    ("label_loss", "label term", "dash"),
    ("distillation_loss", "distillation term", "dashdot"),
    ("validation_loss", "validation", "solid"),
)
_ACCURACIES: _Series = (
    ("train_accuracy", "training", "dot"),
    ("validation_accuracy", "validation", "solid"),
)
_AGREEMENT: _Series = (("agreement", "validation", "solid"),)
_SCORES: tuple[Score, ...] = ("validation_accuracy", "test_accuracy")
_COSTS: tuple[tuple[Score, str, str, str], ...] = (
    ("parameters", "Parameters", "the student's parameters (log scale)", "~s"),
    ("seconds", "Training time", "training time in seconds (log scale)", ",~r"),
)
_MOST_AXIS_TEXTS = 8
_FEW_EPOCHS = 10  # more than this, and not each has a tick


def accuracies(groups: Sequence[Group], teachers: Sequence[TeacherRow]) -> list[Chart]:
    """Every seed's test accuracy, and the mean with the noise of the test images."""
    images = groups[0].runs[0].summary.test_images
    rows = [
        (Look(-1, "", GREY, True), row.label, {0: row.test_accuracy})
        for row in teachers
        if row.test_accuracy is not None
    ]
    for group, look in zip(groups, looks(groups), strict=True):
        if scores := group.by_seed("test_accuracy"):
            rows.append((look, group.label, scores))
    traces = []
    names = [wrapped(label) for _, label, _ in rows]
    several = any(len(scores) > 1 for *_, scores in rows)
    for (look, _, scores), name in zip(rows, names, strict=True):
        meta: dict[str, Any] = {"meta": look.number if look.number >= 0 else None}
        if len(scores) > 1:
            x = [100 * score for score in scores.values()]
            own: dict[str, Any] = meta | {"opacity": 0.45, "customdata": list(scores)}
            hover = "%{x:.2f} %, seed %{customdata}"
            traces.append(look.points(x, [name] * len(x), hover, **own))
        bar = {"error_x": noise(fmean(scores.values()), images)}
        centre = [100 * fmean(scores.values())]
        traces.append(look.points(centre, [name], "%{x:.2f} %", symbol="diamond", **bar | meta))
    if not traces:
        return []
    words = "A diamond is the mean over the seeds, a dot one seed. " if several else ""
    if images:
        words += f"The line is the 95 % interval that {images:,} test images leave."
    height = 110 + sum(20 + 15 * name.count("<br>") for name in names)
    y = {"categoryarray": names, "categoryorder": "array", "autorange": "reversed"}
    x = {"title": "test accuracy (%)"}
    return [chart("Test accuracy", words, traces, height, x=x, y=y, wide=True)]


def learning(groups: Sequence[Group]) -> list[Chart]:
    """Loss, accuracy and agreement by epoch: training (dotted) beside validation."""
    several = any(len(group.by_seed("validation_accuracy")) > 1 for group in groups)
    mean = "Mean over the seeds; the bands are one standard deviation. " if several else ""
    beside = "Dotted: training; solid: validation. " if len(groups) > 1 else ""
    total = "The training loss of a distilled student is that of both terms."
    kept = "Diamonds: the epoch whose weights were kept, one a run; the tables show its accuracy."
    losses = _LOSSES if len(groups) == 1 else [_LOSSES[0], _LOSSES[-1]]
    charts = []
    for title, caption, series, scale, axis in (
        ("Loss", mean + beside + total, losses, 1, "loss (nats)"),
        ("Accuracy", mean + beside + kept, _ACCURACIES, 100, "accuracy (%)"),
        ("Agreement with the teacher", mean, _AGREEMENT, 100, "same prediction (%)"),
    ):
        traces: list[Any] = []
        for group, look in _named_last(groups):
            for field, what, dash in series:
                traces += _curve(group, look, field, what, dash, scale, alone=len(groups) == 1)
            if series is _ACCURACIES and look.named:
                traces += _kept_epochs(group, look)
        if not traces:
            continue
        lines = [trace.y for trace in traces if trace.name is not None]
        log = title == "Loss" and spans_decades(np.concatenate(lines).tolist())
        y = {"title": axis + (" (log scale)" if log else ""), "type": "log" if log else "linear"}
        epochs = max(len(run.history) for group in groups for run in group.runs)
        x = {"title": "epoch"} | ({"dtick": 1} if epochs <= _FEW_EPOCHS else {})
        charts.append(chart(title, caption.strip(), traces, 340, x=x, y=y))
    return charts


def _named_last(groups: Sequence[Group]) -> list[tuple[Group, Look]]:
    """So that what has a name lies above what has none."""
    return sorted(zip(groups, looks(groups), strict=True), key=lambda pair: pair[1].named)


def _curve(
    group: Group, look: Look, field: str, what: str, dash: str, scale: int, *, alone: bool
) -> list[go.Scatter]:
    """Mean and band over the runs, as far as all went; empty where an epoch lacks the number."""
    histories = [[getattr(epoch, field) for epoch in run.history] for run in group.runs]
    histories = [history for history in histories if history]
    if not histories or any(value is None for history in histories for value in history):
        return []
    length = min(map(len, histories))
    values = scale * np.array([history[:length] for history in histories], np.float64)
    values[~np.isfinite(values)] = np.nan  # a gap
    epochs, centre, traces = list(range(1, length + 1)), values.mean(0), []
    if len(values) > 1 and look.named and dash == "solid" and not np.isnan(values).any():
        band = values.std(0, ddof=1)
        edge = np.concatenate([centre + band, (centre - band)[::-1]])
        shown = look.trace | {"opacity": 0.18, "fillcolor": look.colour, "showlegend": False}
        shown |= {"fill": "toself", "mode": "none", "hoverinfo": "skip", "name": None}
        traces.append(go.Scatter(x=epochs + epochs[::-1], y=edge, **shown))
    line = {"color": look.colour, "dash": dash, "width": 2 if look.named else 1}
    hover = f"%{{y:.4~g}}{' %' * (scale == 100)}, epoch %{{x}}<extra>{look.name}, {what}</extra>"
    shown = look.trace | {"line": line, "mode": "lines" if length > 1 else "lines+markers"}
    shown |= {"showlegend": look.named and (alone or dash == "solid")}
    if alone:  # each curve can be hidden by itself
        shown |= {"name": what, "legendgroup": field}
    return [*traces, go.Scatter(x=epochs, y=centre, hovertemplate=hover, **shown)]


def _kept_epochs(group: Group, look: Look) -> list[go.Scatter]:
    """The best epoch of each run, with the validation accuracy that summary and tables have."""
    runs = [run for run in group.runs if run.history]
    best = [max(run.history, key=lambda epoch: epoch.validation_accuracy).epoch for run in runs]
    x = [run.summary.best_epoch or epoch for run, epoch in zip(runs, best, strict=True)]
    y = [100 * run.summary.validation_accuracy for run in runs]
    return [look.points(x, y, "%{y:.2f} %, kept: epoch %{x}", symbol="diamond")] if runs else []


def options(groups: Sequence[Group]) -> list[Chart]:
    """Parallel coordinates of what the distilled groups vary in, and the map of T and alpha."""
    tested = [
        (number, group)
        for number, group in enumerate(groups)
        if group.distilled and group.mean_of("test_accuracy") is not None
    ]
    keys = varied_options([group for _, group in tested])
    if len(tested) < 3 or not keys:
        return []
    return [_parallel_coordinates(tested, keys), *_temperature_and_alpha(tested)]


def _parallel_coordinates(tested: Sequence[tuple[int, Group]], keys: Sequence[str]) -> Chart:
    """A line a group, with its number, through its options to its accuracies.

    Plotly's own trace for this needs WebGL and `eval`, which the page's policy forbids.
    """
    axes: list[tuple[str, list[float], list[str], dict[str, float]]] = []
    for key in keys:
        values = [option_text(key, group.setting.get(key)) for _, group in tested]
        distinct = sorted(set(values), key=_numbers_first)
        place = {value: at / max(1, len(distinct) - 1) for at, value in enumerate(distinct)}
        shown = distinct[:: -(-len(distinct) // _MOST_AXIS_TEXTS)]
        heights = [place[value] for value in values]
        axes.append((option_name(key), heights, values, {text: place[text] for text in shown}))
    for score in _SCORES:
        numbers = [100 * (group.mean_of(score) or 0.0) for _, group in tested]
        low, high = min(numbers), max(numbers)
        heights = [(value - low) / ((high - low) or 1) for value in numbers]
        ends = {f"{low:.2f}": 0.0, f"{high:.2f}": float(high > low)}
        name = score.replace("_accuracy", " %")
        axes.append((name, heights, [f"{value:.2f}" for value in numbers], ends))
    colours = plotly.colors.sample_colorscale([ORANGE, GREY, BLUE], axes[-1][1])
    places, traces = list(range(len(axes))), []
    for row, ((number, _), colour) in enumerate(zip(tested, colours, strict=True)):
        hover = "<br>".join(escape(f"{name} {texts[row]}") for name, _, texts, _ in axes)
        y, line = [heights[row] for _, heights, _, _ in axes], {"color": colour, "width": 2}
        look = {"mode": "lines+markers", "line": line, "meta": number}
        traces.append(go.Scatter(x=places, y=y, hovertemplate=f"{hover}<extra></extra>", **look))
    text = {"showarrow": False, "xanchor": "left", "xshift": 6}
    notes = [
        text | {"x": place, "y": height, "text": escape(said[:24])}
        for place, (_, _, _, ends) in enumerate(axes)
        for said, height in ends.items()
    ]
    x = {"tickvals": places, "ticktext": [wrapped(name, 12) for name, *_ in axes], "side": "top"}
    caption = (
        "A line is a group of runs: through its options to its mean accuracies. The bluer, the"
        " more accurate on the test images."
    )
    return chart(
        "Parallel coordinates", caption, traces, 340, x=x | {"range": [-0.45, len(axes) - 0.45]},
        y={"visible": False, "range": [-0.05, 1.05]}, wide=True, showlegend=False, annotations=notes
    )  # fmt: skip


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _temperature_and_alpha(tested: Sequence[tuple[int, Group]]) -> list[Chart]:
    """A heat map of the largest family of groups that differ in nothing else.

    Empty where they vary in one of the two only.
    """
    families: dict[str, list[Group]] = {}
    for _, group in tested:
        rest = {key: group.setting[key] for key in group.setting.keys() - {"temperature", "alpha"}}
        families.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(group)
    family = max(families.values(), key=len)
    alphas = sorted({group.setting["alpha"] for group in family})
    temperatures = sorted({group.setting["temperature"] or 0.0 for group in family})
    if len(alphas) < 2 or len(temperatures) < 2:
        return []
    scores = np.full((len(alphas), len(temperatures)), np.nan)
    for group in family:
        column = temperatures.index(group.setting["temperature"] or 0.0)
        score = group.mean_of("test_accuracy") or 0.0
        scores[alphas.index(group.setting["alpha"]), column] = 100 * score
    names = [[f"{value:g}" for value in axis] for axis in (temperatures, alphas)]
    hover = "alpha %{y}, T %{x}: %{z:.2f} %<extra></extra>"
    cells = CELLS | {"texttemplate": "%{z:.1f}", "hovertemplate": hover}
    caption = (
        "Mean test accuracy in percent. The shades span the range of these numbers, however narrow."
    )
    axis = {"type": "category", "showgrid": False}
    x, y = axis | {"title": "temperature"}, axis | {"title": "alpha"}
    trace = go.Heatmap(z=scores, x=names[0], y=names[1], **cells)
    return [chart("Temperature and alpha", caption, [trace], 320, x=x, y=y)]


def cost(groups: Sequence[Group]) -> list[Chart]:
    """Seconds, and where the students differ in them parameters, against test accuracy."""
    images, charts = groups[0].runs[0].summary.test_images, []
    for key, title, axis, form in _COSTS:
        traces, costs = [], []
        for group, look in _named_last(groups):
            x, y = group.mean_of(key), group.mean_of("test_accuracy")
            if x and y is not None:
                hover = f"{look.name}: %{{y:.2f}} %, %{{x:,.4~s}}"
                more = {"error_y": noise(y, images), "showlegend": look.named}
                traces.append(look.points([x], [100 * y], hover, **more))
                costs.append(x)
        if len(set(costs)) < 2:
            continue
        # in decades
        low, high = math.log10(min(costs)), math.log10(max(costs))
        room = max(0.05, 0.1 * (high - low))
        ticks = [float(f"{tick:.2g}") for tick in np.geomspace(min(costs), max(costs), 4)]
        x = {"title": axis, "type": "log", "tickvals": ticks, "tickformat": form}
        caption = "Mean of the runs; to the left is cheaper, above is better."
        if images:
            caption += f" The line is the 95 % interval that {images:,} test images leave."
        x |= {"range": [low - room, high + room]}
        charts.append(chart(title, caption, traces, 340, x=x, y={"title": "test accuracy (%)"}))
    return charts

"""The page's charts of scores: accuracies, learning curves, what a sweep varied, and cost."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go

from kdcache.report.comparison import Group, Score, TeacherRow, margin, varied_options
from kdcache.report.page.charts import (
    GREY,
    SHADES,
    Chart,
    Look,
    escape,
    figure,
    looks,
    wrapped,
)
from kdcache.report.plot_style import spans_decades
from kdcache.runs import Run

_LOSSES = (("train_loss", "training", "dot"), ("validation_loss", "validation", "solid"))
_TERMS = (("label_loss", "label term", "dash"), ("distillation_loss", "distillation", "dashdot"))
_ACCURACIES = (
    ("train_accuracy", "training", "dot"),
    ("validation_accuracy", "validation", "solid"),
)
_AGREEMENT = (("agreement", "validation", "solid"),)
_COSTS: tuple[tuple[Score, str, str], ...] = (
    ("parameters", "Parameters", "the student's parameters (log scale)"),
    ("seconds", "Training time", "training time in seconds (log scale)"),
)
_MOST_AXIS_TEXTS = 8


def accuracies(groups: Sequence[Group], teachers: Sequence[TeacherRow]) -> list[Chart]:
    """Every seed's test accuracy, and the mean with the noise of the test images."""
    images = groups[0].runs[0].summary.test_images
    traces, rows = [], []
    for teacher in teachers:
        if (score := teacher.test_accuracy) is not None:
            rows.append(wrapped(teacher.label))
            traces.append(_mean(score, rows[-1], images, GREY, {}))
    for group, look in zip(groups, looks(groups), strict=True):
        scores = group.by_seed("test_accuracy")
        if not scores:
            continue
        rows.append(wrapped(group.label))
        shared = {"meta": look.number, "name": look.name}
        if len(scores) > 1:
            traces.append(
                go.Scatter(
                    x=[100 * score for score in scores.values()],
                    y=[rows[-1]] * len(scores),
                    customdata=list(scores),
                    mode="markers",
                    marker={"color": look.colour, "size": 7, "opacity": 0.5},
                    hovertemplate="%{x:.2f} %, seed %{customdata}<extra></extra>",
                    **shared,
                )
            )
        centre = sum(scores.values()) / len(scores)
        traces.append(_mean(centre, rows[-1], images, look.colour, shared))
    if not traces:
        return []
    several = any(len(group.by_seed("test_accuracy")) > 1 for group in groups)
    words = "A diamond is the mean over the seeds, a dot one seed. " if several else ""
    if images:
        words += f"The line is the 95 % interval that {images:,} test images leave."
    made = figure(
        traces,
        110 + sum(20 + 15 * row.count("<br>") for row in rows),
        xaxis={"title": "test accuracy (%)"},
        yaxis={"categoryarray": rows, "categoryorder": "array", "autorange": "reversed"},
        showlegend=False,
    )
    return [Chart("Test accuracy", words, made)]


def _mean(score: float, row: str, images: int | None, colour: str, shared: dict) -> go.Scatter:
    noise = {"type": "constant", "value": 100 * margin(score, images)} if images else {}
    return go.Scatter(
        x=[100 * score],
        y=[row],
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": "diamond"},
        error_x=noise,
        hovertemplate="%{x:.2f} %<extra></extra>",
        **shared,
    )


def learning(groups: Sequence[Group]) -> list[Chart]:
    """Loss, accuracy and agreement by epoch: training (dotted) beside validation."""
    several = any(len(group.by_seed("validation_accuracy")) > 1 for group in groups)
    mean = "Mean over the seeds; the bands are one standard deviation. " if several else ""
    losses = _LOSSES + (_TERMS if len(groups) == 1 else ())
    total = "The training loss of a distilled student is that of both terms."
    kept = "Diamonds: the epoch whose weights were kept, one a run; the tables show its accuracy."
    found = [
        ("Loss", f"{mean}{total}", losses, 1.0, "loss (nats)"),
        ("Accuracy", f"{mean}{kept}", _ACCURACIES, 100.0, "accuracy (%)"),
        ("Agreement with the teacher", mean, _AGREEMENT, 100.0, "same prediction (%)"),
    ]
    charts = []
    for title, caption, series, scale, axis in found:
        traces: list[Any] = []
        for group, look in _best_last(groups):
            for number, (field, what, dash) in enumerate(series):
                traces += _curve(group, look, field, what, dash, scale, legend=number == len(
                    series) - 1 if len(groups) > 1 else True)  # fmt: skip
            if field == "validation_accuracy":
                traces += _kept_epochs(group, look)
        if not traces:
            continue
        everything = [value for trace in traces if trace.mode == "lines" for value in trace.y]
        log = title == "Loss" and spans_decades(everything)
        y = {"title": axis + " (log scale)" * log, "type": "log" if log else "linear"}
        charts.append(
            Chart(title, caption.strip(), figure(traces, 340, xaxis={"title": "epoch"}, yaxis=y))
        )
    return charts


def _best_last(groups: Sequence[Group]) -> list[tuple[Group, Look]]:
    """So that what has a name lies above what has none."""
    return sorted(zip(groups, looks(groups), strict=True), key=lambda pair: pair[1].named)


def _curve(
    group: Group, look: Look, field: str, what: str, dash: str, scale: float, *, legend: bool
) -> list[go.Scatter]:
    """Mean and band over the runs, as far as all went; empty where an epoch lacks the number."""
    histories = [[getattr(epoch, field) for epoch in run.history] for run in group.runs]
    histories = [history for history in histories if history]
    if not histories or any(value is None for history in histories for value in history):
        return []
    length = min(map(len, histories))
    values = scale * np.array([history[:length] for history in histories], np.float64)
    values[~np.isfinite(values)] = np.nan
    epochs, centre = list(range(1, length + 1)), values.mean(0)
    alone = look.name if legend and dash == "solid" else f"{look.name}, {what}"
    unit = " %" if scale == 100 else ""
    traces = []
    if len(values) > 1 and look.named and dash == "solid" and np.isfinite(values).all():
        band = values.std(0, ddof=1)
        edge = np.concatenate([centre + band, (centre - band)[::-1]])
        traces.append(
            go.Scatter(
                x=epochs + epochs[::-1],
                y=edge,
                fill="toself",
                line={"width": 0, "color": look.colour},
                hoverinfo="skip",
                showlegend=False,
                **look.trace() | {"opacity": 0.2},
                mode="none",
            )
        )
    traces.append(
        go.Scatter(
            x=epochs,
            y=centre,
            mode="lines" if length > 1 else "lines+markers",
            line=look.line(dash),
            showlegend=legend and look.named,
            hovertemplate=f"%{{y:.4~g}}{unit}, epoch %{{x}}<extra>{look.name}, {what}</extra>",
            **look.trace() | {"name": alone},
        )
    )
    return traces


def _kept_epochs(group: Group, look: Look) -> list[go.Scatter]:
    """The best epoch of each run."""
    places = [place for run in group.runs if (place := _kept_epoch(run)) is not None]
    if not places or not look.named:
        return []
    return [
        go.Scatter(
            x=[epoch for epoch, _ in places],
            y=[100 * accuracy for _, accuracy in places],
            mode="markers",
            marker={"color": look.colour, "size": 8, "symbol": "diamond"},
            showlegend=False,
            hovertemplate=f"%{{y:.2f}} %, kept: epoch %{{x}}<extra>{look.name}</extra>",
            **look.trace(),
        )
    ]


def _kept_epoch(run: Run) -> tuple[int, float] | None:
    """Its number and its validation accuracy, as the summary and the tables have it."""
    if not run.history:
        return None
    best = max(run.history, key=lambda epoch: (epoch.validation_accuracy, -epoch.epoch))
    return run.summary.best_epoch or best.epoch, run.summary.validation_accuracy


def options(groups: Sequence[Group]) -> list[Chart]:
    """Parallel coordinates of what the distilled groups vary in, and the map of T and alpha."""
    tested = [group for group in groups if group.distilled and group.mean_of("test_accuracy")]
    keys = varied_options(tested)
    charts = []
    if len(tested) > 2 and keys:
        charts.append(_parallel_coordinates(groups, tested, keys))
    family = _temperature_and_alpha(tested)
    return charts + ([family] if family else [])


def _parallel_coordinates(
    groups: Sequence[Group], tested: Sequence[Group], keys: Sequence[str]
) -> Chart:
    """A line a group through its options to its accuracies.

    Plotly's own trace for this needs WebGL and `eval`, which the page's policy forbids.
    """
    numbers = {group.label: number for number, group in enumerate(groups)}
    scores = {"validation %": "validation_accuracy", "test %": "test_accuracy"}
    columns = {key.replace("_", " "): [group.setting.get(key) for group in tested] for key in keys}
    for name, score in scores.items():
        columns[name] = [100 * (group.mean_of(score) or 0) for group in tested]  # pyright: ignore
    places, notes = [], []
    for number, (name, values) in enumerate(columns.items()):
        heights, texts = _heights(values, as_score=name in scores)
        places.append(heights)
        notes += [
            {"x": number, "y": height, "text": escape(text), "xanchor": "left", "xshift": 4}
            for height, text in texts
        ]
    last = columns["test %"]
    low, high = min(last), max(last)
    shades = [(value - low) / ((high - low) or 1) for value in last]
    colours = plotly.colors.sample_colorscale("Portland", shades)
    traces = []
    for row, (group, colour) in enumerate(zip(tested, colours, strict=True)):
        shown = [f"{name} {_in_words(values[row])}" for name, values in columns.items()]
        traces.append(
            go.Scatter(
                x=list(range(len(columns))),
                y=[heights[row] for heights in places],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                hovertemplate="<br>".join(map(escape, shown)) + "<extra></extra>",
                meta=numbers[group.label],
                name=escape(group.short_label),
            )
        )
    names = [wrapped(name, 12) for name in columns]
    made = figure(
        traces,
        340,
        showlegend=False,
        annotations=[note | {"showarrow": False} for note in notes],
        xaxis={
            "tickvals": list(range(len(columns))),
            "ticktext": names,
            "range": [-0.2, len(columns) - 0.55],
            "side": "top",
            "showgrid": True,
        },
        yaxis={"visible": False, "range": [-0.05, 1.05]},
    )
    caption = (
        "A line is a group of runs: through its options to its mean accuracies. The redder, the"
        " more accurate on the test images."
    )
    return Chart("Parallel coordinates", caption, made, wide=True)


def _heights(values: Sequence[Any], as_score: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """The place of each value on its axis from 0 to 1, and the axis's texts.

    Numbers lie in proportion, or evenly where that would press several into one; all else evenly.
    """
    if as_score:
        low, high = min(values), max(values)
        heights = [(value - low) / ((high - low) or 1) for value in values]
        return heights, [(0.0, _in_words(low)), (1.0, _in_words(high))][: 1 + (high > low)]
    numbers = all(isinstance(value, (int, float)) for value in values)
    distinct = sorted(set(values)) if numbers else sorted(set(map(str, values)))
    step = 1 / max(1, len(distinct) - 1)
    place = {value: number * step for number, value in enumerate(distinct)}
    every = -(-len(distinct) // _MOST_AXIS_TEXTS)
    texts = [(place[value], _in_words(value)) for value in distinct[::every]]
    return [place[value if numbers else str(value)] for value in values], texts


def _in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:24]


def _temperature_and_alpha(groups: Sequence[Group]) -> Chart | None:
    """A heat map of the largest family of groups that differ in nothing else.

    None where they vary in one of the two only.
    """
    families: dict[str, list[Group]] = {}
    for group in groups:
        rest = {key: group.setting[key] for key in group.setting.keys() - {"temperature", "alpha"}}
        families.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(group)
    family = max(families.values(), key=len, default=[])
    alphas = sorted({group.setting["alpha"] for group in family})
    temperatures = sorted({group.setting["temperature"] or 0.0 for group in family})
    if len(alphas) < 2 or len(temperatures) < 2:
        return None
    scores = np.full((len(alphas), len(temperatures)), np.nan)
    for group in family:
        place = alphas.index(group.setting["alpha"])
        score = 100 * (group.mean_of("test_accuracy") or math.nan)
        scores[place, temperatures.index(group.setting["temperature"] or 0.0)] = score
    made = figure(
        [
            go.Heatmap(
                z=scores,
                x=[f"{value:g}" for value in temperatures],
                y=[f"{value:g}" for value in alphas],
                texttemplate="%{z:.1f}",
                colorscale=SHADES,
                showscale=False,
                xgap=2,
                ygap=2,
                hovertemplate="alpha %{y}, T %{x}: %{z:.2f} %<extra></extra>",
            )
        ],
        320,
        xaxis={"type": "category", "title": "temperature", "showgrid": False},
        yaxis={"type": "category", "title": "alpha", "showgrid": False},
    )
    caption = (
        "Mean test accuracy in percent. The shades span the range of these numbers, however narrow."
    )
    return Chart("Temperature and alpha", caption, made)


def cost(groups: Sequence[Group]) -> list[Chart]:
    """Seconds, and where the students differ in them parameters, against test accuracy."""
    images = groups[0].runs[0].summary.test_images
    charts = []
    for key, title, axis in _COSTS:
        traces, costs = [], []
        for group, look in _best_last(groups):
            x, y = group.mean_of(key), group.mean_of("test_accuracy")
            if not x or y is None:
                continue
            costs.append(x)
            traces.append(
                go.Scatter(
                    x=[x],
                    y=[100 * y],
                    mode="markers",
                    marker={"color": look.colour, "size": 10},
                    error_y={"type": "constant", "value": 100 * margin(y, images)}
                    if images
                    else {},
                    showlegend=look.named,
                    hovertemplate=f"%{{y:.2f}} %, %{{x:,.4~s}}<extra>{look.name}</extra>",
                    **look.trace(),
                )
            )
        if len(set(costs)) < 2:
            continue
        room = max(0.1, 0.2 - 0.5 * math.log10(max(costs) / min(costs)))  # of a decade, at least
        ends = [math.log10(min(costs)) - room, math.log10(max(costs)) + room]
        x_axis = {"title": axis, "type": "log", "range": ends, "minor": {"ticks": "outside"}}
        x_axis |= {"dtick": "D2", "tickformat": "~s"}
        y_axis = {"title": "test accuracy (%)"}
        caption = "Mean of the runs; to the left is cheaper, above is better."
        if images:
            caption += f" The line is the 95 % interval that {images:,} test images leave."
        made = figure(traces, 340, xaxis=x_axis, yaxis=y_axis)
        charts.append(Chart(title, caption, made))
    return charts

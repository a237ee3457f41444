"""Plots as PNG files: learning curves, confusions, soft targets, and runs side by side."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from kdcache.report.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RULE,
    STYLE,
    fit_text,
    save_png,
    spans_decades,
)
from kdcache.report.tables import cell_percent
from kdcache.runs import EpochRecord

_CELL_TEXT_CLASSES = 20  # more classes than this, and a confusion matrix shows colours alone
_TICK_LABELS = 50
_MARKED_EPOCHS = 30  # more epochs than this, and the points of a curve are not marked one by one


class _Series(NamedTuple):
    """A field of `EpochRecord` as a line."""

    field: str
    name: str
    colour: str
    style: str


_LOSSES = (
    _Series("train_loss", "training", GREY, "-"),
    _Series("validation_loss", "validation", BLUE, "-"),
    _Series("label_loss", "label term", ORANGE, "--"),
    _Series("distillation_loss", "distillation term", PURPLE, ":"),
)
_ACCURACIES = (
    _Series("train_accuracy", "training", GREY, "-"),
    _Series("validation_accuracy", "validation", BLUE, "-"),
    _Series("agreement", "agreement", GREEN, "--"),
)
_RATES = (_Series("lr", "", INK, "-"),)


@matplotlib.rc_context(STYLE)
def learning_curves(history: Sequence[EpochRecord], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    What is missing or not finite is a gap in its curve.
    """
    figure = Figure(figsize=(13, 3.8), layout=ConstrainedLayoutEngine(wspace=0.06))
    losses, accuracies, rates = figure.subplots(1, 3, width_ratios=(4, 4, 2.6))
    everything = np.concatenate([_column(history, series.field) for series in _LOSSES])
    log = spans_decades(everything.tolist())
    if log:
        losses.set_yscale("log")
        losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        losses.yaxis.set_minor_locator(NullLocator())
    _draw_curves(losses, history, _LOSSES, 1, "{:.3g}")
    _draw_curves(accuracies, history, _ACCURACIES, 100, "{:.1f} %")
    _draw_curves(rates, history, _RATES, 1, "")
    losses.set(title="Loss", ylabel="loss (nats, log scale)" if log else "loss (nats)")
    accuracies.set(title="Accuracy" + _best_epoch(history), ylabel="images (%)")
    rates.set(title="Learning rate")
    rates.set_ylim(bottom=0)
    save_png(figure, path)


def _draw_curves(
    axes: Axes,
    history: Sequence[EpochRecord],
    series: Sequence[_Series],
    scale: float,
    value: str,
) -> None:
    """The `series` that were recorded, each with its name and last value at the right."""
    epochs = _column(history, "epoch")
    labels = []  # (height in data units, text, colour)
    for field, name, colour, style in series:
        if all(getattr(record, field) is None for record in history):
            continue
        y = scale * _column(history, field)
        finite = np.isfinite(y)
        isolated = finite & ~np.append(finite[1:], False) & ~np.append(False, finite[:-1])
        marked = np.flatnonzero(finite if len(y) <= _MARKED_EPOCHS else isolated).tolist()
        line = {"color": colour, "marker": "o", "markersize": 4, "markevery": marked}
        axes.plot(epochs, y, style, **line, clip_on=False)
        if not name:
            continue
        if not finite.any():
            labels.append((-math.inf, f"{name} not finite", colour))
            continue
        last = np.flatnonzero(finite)[-1]
        ended = "" if last == len(y) - 1 else f" (epoch {epochs[last]:.0f})"
        labels.append((y[last], f"{name} {value.format(y[last])}{ended}", colour))
    first, final = (epochs[0], epochs[-1]) if len(epochs) else (1, 1)
    margin = max(0.4, 0.02 * (final - first))
    axes.set(xlabel="epoch", xlim=(first - margin, final + margin))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y")
    to_axes = axes.transScale + axes.transLimits  # 0 at the bottom, 1 at the top
    heights = [0.0 if math.isinf(y) else to_axes.transform((1, y))[1] for y, _, _ in labels]
    wanted = np.clip(heights, 0, 1).tolist()
    for height, (_, text, colour) in zip(_spread(wanted, 0.07), labels, strict=True):
        place = {"transform": axes.transAxes, "va": "center"}
        axes.text(1.02, height, text, color=colour, fontsize=8.5, **place)


def _column(history: Sequence[EpochRecord], field: str) -> np.ndarray:
    """One value an epoch, float64 `(epochs,)`; NaN for what is missing or infinite."""
    values = np.array([getattr(record, field) for record in history], np.float64)  # None: NaN
    return np.where(np.isfinite(values), values, np.nan)


def _best_epoch(history: Sequence[EpochRecord]) -> str:
    accuracy = _column(history, "validation_accuracy")
    if not np.isfinite(accuracy).any():
        return ""
    best = int(np.nanargmax(accuracy))
    return f": best validation {100 * accuracy[best]:.1f} % at epoch {history[best].epoch}"


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart, upwards in their order, until they lie at least `gap` apart."""
    order = np.argsort(positions, kind="stable")
    placed = np.array(positions, np.float64)
    for lower, upper in itertools.pairwise(order):
        placed[upper] = max(placed[upper], placed[lower] + gap)
    return (placed - max(0.0, placed.max(initial=0.0) - 1)).tolist()


@matplotlib.rc_context(STYLE)
def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw how the images of each label were predicted, in percent of that label's images.

    Args:
        counts: int `(K, K)`, rows are labels, columns predictions; a row without
            images is left grey.
        class_names: K names.
        path: the PNG.
    """
    classes = len(class_names)
    images = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    side = min(max(0.5 * classes, 3.5), 8.0)
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.subplots()
    few = classes <= _CELL_TEXT_CLASSES
    _draw_matrix(axes, percent, class_names, "label's images (%)", slanted=few)
    axes.set(xlabel="prediction", ylabel="label")
    if total := int(counts.sum()):
        axes.set_title(f"{100 * np.trace(counts) / total:.1f} % accuracy on {total:,} images")
    if few:
        for row, column in np.argwhere(counts > 0):
            value = float(percent[row, column])
            colour = "white" if value > 20 else INK
            text = cell_percent(value)
            axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=8)
    save_png(figure, path)


@matplotlib.rc_context(STYLE)
def soft_target_sheet(
    entropies: Mapping[str, np.ndarray],
    by_label: np.ndarray,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draw how spread out soft targets are, and which classes the teacher holds to be alike.

    Args:
        entropies: nats `(N,)` under the name of each temperature.
        by_label: float `(K, K)`, the mean soft target of the images of each label (rows).
        class_names: K names.
        path: the PNG.
    """
    largest = np.log(len(class_names))
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    spread, alike = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for (name, values), colour in zip(entropies.items(), (BLUE, ORANGE, GREEN), strict=False):
        counts, edges = np.histogram(values, bins=60, range=(0, largest))
        percent = 100 * counts / len(values)
        spread.stairs(percent, edges, color=colour, linewidth=1.8, label=name)
    spread.set(xlim=(0, largest), xlabel=f"entropy of a soft target (nats; at most {largest:.2f})")
    spread.set(ylabel="training views (%)", title="Spread of the soft targets")
    spread.grid(axis="y")
    # above the axes, to the right of the title: no curve passes there
    at_the_top = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderpad": 0}
    spread.legend(ncols=len(entropies), frameon=False, **at_the_top)
    _draw_matrix(alike, 100 * by_label, class_names, "mean probability (%)", slanted=False)
    alike.set(xlabel="class in the soft target", ylabel="label")
    alike.set(title="Mean soft target of each label (T = 1, validation split)")
    save_png(figure, path)


def _draw_matrix(
    axes: Axes, percent: np.ndarray, class_names: Sequence[str], meaning: str, *, slanted: bool
) -> None:
    """Percentages `(K, K)` as colours, names at two sides, and beside them a bar of the colours."""
    blues = LinearSegmentedColormap.from_list("blues", ("white", "#8CC3E6", BLUE, "#00253D"))
    # the root makes a confusion of 1 % visible beside a diagonal of 90 %
    root = PowerNorm(0.5, 0, 100)
    picture = axes.imshow(percent, cmap=blues.with_extremes(bad=RULE), norm=root)
    ticks = (0, 1, 5, 10, 25, 50, 75, 100)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.7, aspect=25, ticks=ticks, label=meaning)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    axes.spines[:].set_visible(True)

    classes = len(class_names)
    steps = (step * scale for scale in (1, 10, 100, 1000) for step in (1, 2, 5))
    step = next(step for step in steps if classes <= step * _TICK_LABELS)
    size = 8 if slanted else 7
    names = [fit_text(name, 1.3, size) for name in class_names[::step]]
    turn: dict[str, Any] = {"rotation": 90}
    if slanted:
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_yticks(range(0, classes, step), names, fontsize=size, parse_math=False)
    axes.set_xticks(range(0, classes, step), names, fontsize=size, parse_math=False, **turn)
    axes.tick_params(length=0 if slanted else 2)


@matplotlib.rc_context(STYLE)
def comparison_chart(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw the test accuracies of the rows of `comparison`: runs as bars, teachers as lines."""
    tested = [row for row in rows if row["test %"] is not None]
    teachers = [row for row in tested if str(row["kind"]).startswith("teacher")]
    runs = [row for row in tested if row not in teachers]
    height = 1.3 + 0.42 * max(len(runs), 1) + 0.2 * len(teachers)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    for position, row in enumerate(runs):
        score = float(str(row["test %"]))
        colour = GREY if row["kind"] == "labels only" else BLUE
        axes.barh(position, score, height=0.62, color=colour, zorder=2)
        style = {"fontsize": 8.5, "va": "center", "zorder": 3}
        text = f"{row['test %']}  {row['kind']}"
        if score > 35:  # there is room inside the bar
            axes.text(score - 0.8, position, text, color="white", ha="right", **style)
        else:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(score + 0.8, position, text, color=INK, ha="left", bbox=box, **style)
    for number, row in enumerate(teachers):
        score = float(str(row["test %"]))
        axes.axvline(score, color=ORANGE, linestyle="--", linewidth=1.4, zorder=1)
        text = f"{row['kind']}: {fit_text(str(row['model']), 2, 8.5)} {row['test %']}"
        place = {"xytext": (0, 4 + 13 * number), "textcoords": "offset points"}
        style = {"fontsize": 8.5, "ha": "right" if score > 50 else "left", "parse_math": False}
        at_the_top = (score, 1)
        axes.annotate(
            text, at_the_top, xycoords=("data", "axes fraction"), color=ORANGE, **place, **style
        )
    axes.set(xlim=(0, 100), ylim=(max(len(runs), 1) - 0.5, -0.5), xlabel="test accuracy (%)")
    names = [fit_text(str(row["name"]), 2.5, 8.5, keep_end=True) for row in runs]
    axes.set_yticks(range(len(runs)), names, color=INK, fontsize=8.5, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    save_png(figure, path)

"""Pictures (PNG) and tables of what a run did.

Everything is drawn on `Figure` objects of its own; pyplot is imported only to show a window. Colours are Okabe and
Ito's, darkened where they carry text, and never the only thing that tells two things apart.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import _c_internal_utils
from matplotlib.axes import Axes
from matplotlib.backends import backend_registry
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdcache.errors import KdcacheError

DPI = 150
INK, GREY, RULE = "#24292F", "#6A737D", "#E4E7EB"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#C25200", "#007F5C", "#9C5184"
RIGHT, WRONG, UNJUDGED = "✓", "✗", "·"
_FONT = "DejaVu Sans"  # comes with matplotlib and has both marks
_STYLE = {
    "font.family": _FONT, "font.size": 9, "text.color": INK, "text.usetex": False, "savefig.facecolor": "white",
    "figure.facecolor": "white", "axes.facecolor": "white", "axes.edgecolor": "#B4BCC4", "axes.labelcolor": INK,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": False,
    "grid.color": RULE, "grid.linewidth": 0.8, "grid.linestyle": "-", "xtick.color": GREY, "ytick.color": GREY,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 1.8,
}  # fmt: skip


_WINDOW = "kdcache"
_TOOLKITS = {
    "macosx": ("matplotlib.backends._macosx",), "qt": ("PyQt6", "PySide6", "PyQt5", "PySide2"),
    "gtk4": ("gi",), "gtk3": ("gi",), "tk": ("_tkinter",), "wx": ("wx",),
}  # fmt: skip


_CELL_TEXT_CLASSES = 20  # more classes than this, and a confusion matrix shows colours alone
_TICK_LABELS = 50
_MARKED_EPOCHS = 30  # more epochs than this, and the points of a curve are not marked one by one
_LONGEST_TEXT = 200  # characters, more than any label has room for
_LOSSES = (
    ("train_loss", "training", GREY, "-"),
    ("validation_loss", "validation", BLUE, "-"),
    ("label_loss", "label term", ORANGE, "--"),
    ("distillation_loss", "distillation term", PURPLE, ":"),
)


_SHARES = (
    ("train_accuracy", "training", GREY, "-"),
    ("validation_accuracy", "validation", BLUE, "-"),
    ("agreement", "agreement", GREEN, "--"),
)


_RATES = (("lr", "", INK, "-"),)


@matplotlib.rc_context(_STYLE)
def learning_curves(history: list[dict[str, float]], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: one dict an epoch: epoch (1..), lr, train_loss, validation_loss, train_accuracy, validation_accuracy
            (0..1) and, where there are any, agreement (0..1), label_loss and distillation_loss. What is missing or
            not finite is a gap in its curve.
        path: the PNG.
    """
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    losses, shares, rates = figure.subplots(1, 3, width_ratios=(4, 4, 2.6))
    _curves(losses, history, _LOSSES, 1, "{:.3g}")
    _curves(shares, history, _SHARES, 100, "{:.1f} %")
    _curves(rates, history, _RATES, 1, "")
    losses.set(title="Loss", ylabel="loss (nats)")
    shares.set(title="Accuracy" + _best_epoch(history), ylabel="share of the images (%)")
    rates.set(title="Learning rate")
    rates.set_ylim(bottom=0)
    _save(figure, path)


def _curves(
    axes: Axes,
    history: list[dict[str, float]],
    series: Sequence[tuple[str, str, str, str]],
    scale: float,
    value: str,
) -> None:
    """Lines of the `series` that occur in the history, each with its name, if any, and last value at the right."""
    epochs = _column(history, "epoch")
    labels = []
    for key, name, colour, style in series:
        if not any(key in record for record in history):
            continue
        y = scale * _column(history, key)
        finite = np.isfinite(y)
        isolated = finite & ~np.append(finite[1:], False) & ~np.append(False, finite[:-1])
        marked = np.flatnonzero(finite if len(y) <= _MARKED_EPOCHS else isolated).tolist()
        axes.plot(
            epochs,
            y,
            style,
            color=colour,
            marker="o",
            markersize=4,
            markevery=marked,
            clip_on=False,
        )
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
    low, high = axes.get_ylim()
    heights = _spread([min(max((y - low) / (high - low), 0), 1) for y, _, _ in labels], 0.07)
    for height, (_, text, colour) in zip(heights, labels, strict=True):
        axes.text(
            1.02, height, text, color=colour, transform=axes.transAxes, va="center", fontsize=8.5
        )


def _column(history: list[dict[str, float]], key: str) -> np.ndarray:
    """One value an epoch, float64 `(epochs,)`; NaN for what is missing or infinite."""
    values = np.array([record.get(key) for record in history], np.float64)  # None becomes NaN
    return np.where(np.isfinite(values), values, np.nan)


def _best_epoch(history: list[dict[str, float]]) -> str:
    accuracy = _column(history, "validation_accuracy")
    if not np.isfinite(accuracy).any():
        return ""
    best = int(np.nanargmax(accuracy))
    return f": best validation {100 * accuracy[best]:.1f} % at epoch {_column(history, 'epoch')[best]:.0f}"


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart, upwards in their order, until they lie at least `gap` from each other, and re-centre."""
    order = np.argsort(positions, kind="stable")
    placed = np.array(positions, np.float64)
    for lower, upper in itertools.pairwise(order):
        placed[upper] = max(placed[upper], placed[lower] + gap)
    return (placed - max(0.0, placed.max(initial=0.0) - 1)).tolist()


@matplotlib.rc_context(_STYLE)
def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw the share of each label's images that got each answer.

    Args:
        counts: int `(K, K)`, rows are labels, columns the student's predictions. A row without images is left grey.
        class_names: K names.
        path: the PNG.
    """
    counts, classes = np.asarray(counts), len(class_names)
    images = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    side = min(max(0.5 * classes, 3.5), 8.0)
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list(
        "shares", ("white", "#8CC3E6", BLUE, "#00253D")
    ).with_extremes(bad=RULE)
    # The root makes a confusion of 1 % visible beside a diagonal of 90 %.
    picture = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.5, 0, 100))
    axes.spines[:].set_visible(True)
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.6, aspect=25, ticks=(0, 1, 5, 10, 25, 50, 75, 100)
    )
    bar.set_label("share of the label's images (%)")
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    steps = (step * scale for scale in (1, 10, 100, 1000) for step in (1, 2, 5))
    step = next(step for step in steps if classes <= step * _TICK_LABELS)
    few = classes <= _CELL_TEXT_CLASSES
    size = 8 if few else 7
    names = [_fit(name, 1.3, size) for name in class_names[::step]]
    axes.set_yticks(range(0, classes, step), names, fontsize=size, parse_math=False)
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(range(0, classes, step), names, fontsize=size, parse_math=False, **slant)
    axes.tick_params(length=0 if few else 2)
    axes.set(xlabel="student's answer", ylabel="label")
    if total := int(counts.sum()):
        axes.set_title(f"{100 * np.trace(counts) / total:.1f} % of {total:,} images right")
    if few:
        for row, column in np.argwhere(counts > 0):
            share = shares[row, column]
            text, colour = f"{share:.0f}" if share >= 0.5 else "<1", "white" if share > 20 else INK
            axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=8)
    _save(figure, path)


@matplotlib.rc_context(_STYLE)
def view_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    teacher_predictions: np.ndarray | None,
    student_predictions: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    *,
    teacher_names: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Draw a sheet of images, each with its label, the teacher's answer and the student's.

    Args:
        images: uint8 `(n, 3, H, W)`, n at most 64.
        labels: int `(n,)`.
        teacher_predictions: int `(n,)`, or None where there is no teacher.
        student_predictions: int `(n,)`.
        class_names: the student's classes.
        path: the PNG.
        teacher_names: the teacher's classes where they are others than the student's; its predictions are then
            neither right nor wrong.
        columns: tiles in a row.
    """
    judged = teacher_names is None or list(teacher_names) == list(class_names)
    captions = []
    for index, label in enumerate(labels):
        lines = [("label", "", class_names[label], INK)]
        if teacher_predictions is not None:
            answer = teacher_predictions[index]
            mark, colour = _verdict(answer == label) if judged else (UNJUDGED, INK)
            lines.append(("teacher", mark, (teacher_names or class_names)[answer], colour))
        mark, colour = _verdict(student_predictions[index] == label)
        lines.append(("student", mark, class_names[student_predictions[index]], colour))
        captions.append(lines)
    figure = Figure()
    _tiles(figure, images, captions, columns, 1.7)
    _save(figure, path)


@matplotlib.rc_context(_STYLE)
def prediction_sheet(
    images: np.ndarray,
    labels: Sequence[str],
    predictions: Sequence[Sequence[tuple[str, float]]],
    native_predictions: Sequence[str] | None,
    path: Path,
    *,
    columns: int,
) -> None:
    """Draw a sheet of images, each with its label and what the teacher holds it to be.

    Args:
        images: uint8 `(n, 3, H, W)`.
        labels: n names.
        predictions: for each image names and probabilities (0 to 1) in the student's classes, the most probable first.
        native_predictions: for each image the top answer in the teacher's own classes; None where those are the student's.
        path: the PNG.
        columns: tiles in a row.
    """
    captions = []
    for index, (label, guesses) in enumerate(zip(labels, predictions, strict=True)):
        lines = [("label", "", label, INK)]
        lines += [
            (
                f"{100 * probability:.0f} %",
                *((RIGHT, name, GREEN) if name == label else ("", name, INK)),
            )
            for name, probability in guesses
        ]
        if native_predictions is not None:
            lines.append(("sees", "", native_predictions[index], BLUE))
        captions.append(lines)
    figure = Figure()
    _tiles(figure, images, captions, columns, 1.5)
    _save(figure, path)


@matplotlib.rc_context(_STYLE)
def single_image(
    image: np.ndarray, label: str, teacher_answer: str | None, path: Path | None
) -> None:
    """Draw one image with its label and the teacher's answer.

    Args:
        image: `(3, H, W)`, float32 in 0..1 or uint8.
        label: name of its class.
        teacher_answer: name of the teacher's class, or None where there is no teacher.
        path: the PNG; None shows it in a window, the same one each time, without waiting for anybody.

    Raises:
        KdcacheError: if `path` is None and no window can be opened here.
    """
    lines = [("label", "", label, INK)]
    if teacher_answer is not None:
        lines.append(("teacher", "", teacher_answer, BLUE))
    if path is not None:
        figure = Figure()
        _tiles(figure, image[None], [lines], 1, 3.0)
        _save(figure, path)
        return
    if not has_window():
        raise KdcacheError(
            "a display to open a window on", "none", "have the pictures written to a folder"
        )
    from matplotlib import pyplot  # chooses a backend

    opened = pyplot.fignum_exists(_WINDOW)
    figure = pyplot.figure(_WINDOW, clear=True)
    _tiles(figure, image[None], [lines], 1, 3.0)
    if not opened:  # showing it again would lift it over other windows
        pyplot.show(block=False)
    figure.canvas.draw_idle()
    figure.canvas.flush_events()


def has_window() -> bool:
    """Whether a window can be opened here: a display answers, and the backend, or some backend, is there to use it.

    Nothing is chosen, imported or opened.
    """
    backend = matplotlib.get_backend(auto_select=False)
    if backend and backend.startswith(
        "module://"
    ):  # a notebook's, which need not even be installed here
        return False
    toolkit = backend_registry.resolve_backend(backend)[1] if backend else None
    usable = _TOOLKITS.get(toolkit, ()) if backend else sum(_TOOLKITS.values(), ())
    # Matplotlib asks the same question before it falls back to drawing without a window. A DISPLAY that is set but
    # dead, as in an old tmux, is none.
    return any(find_spec(module) for module in usable) and _c_internal_utils.display_is_valid()


def _verdict(right: bool) -> tuple[str, str]:
    return (RIGHT, GREEN) if right else (WRONG, ORANGE)


def _tiles(
    figure: Figure,
    images: np.ndarray,
    captions: list[list[tuple[str, str, str, str]]],
    columns: int,
    side: float,
) -> None:
    """Fill the figure with images `(n, 3, H, W)` and, below each, lines of (heading, mark, text, colour).

    A tile is `side` inches wide; the axes count inches from the upper left corner, so nothing can overlap.
    """
    gap, line, heading, mark_width = 0.14, 0.15, 0.5, 0.13
    count, _, height, width = images.shape
    tall, wide = side * min(1, height / width), side * min(1, width / height)
    if images.dtype != np.uint8:
        images = np.clip(images, 0, 1)
    columns = max(1, min(columns, count))
    tile_height = tall + line * max(map(len, captions), default=0) + 2 * gap
    size = (columns * (side + gap) + gap, max(1, -(-count // columns)) * tile_height)
    figure.set_size_inches(*size)
    axes = figure.add_axes((0, 0, 1, 1))
    pixels = "nearest" if max(height, width) <= side * DPI else "auto"
    for index, (image, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = gap + index % columns * (side + gap), gap + index // columns * tile_height
        x = left + (side - wide) / 2
        axes.imshow(
            image.transpose(1, 2, 0), extent=(x, x + wide, top + tall, top), interpolation=pixels
        )
        axes.add_patch(
            Rectangle((x, top), wide, tall, fill=False, edgecolor=lines[-1][3], linewidth=1.2)
        )
        for number, (title, mark, text, colour) in enumerate(lines):
            y = top + tall + (number + 0.8) * line
            start = left + heading + (mark_width if mark else 0)
            axes.text(left, y, title, color=GREY, fontsize=7, va="center_baseline")
            axes.text(left + heading, y, mark, color=colour, fontsize=8, va="center_baseline")
            text = _fit(text, left + side - start, 8)
            axes.text(
                start, y, text, color=colour, fontsize=8, va="center_baseline", parse_math=False
            )
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    axes.axis("off")


@lru_cache(maxsize=4096)
def _fit(text: str, inches: float, size: float, *, keep_end: bool = False) -> str:
    """The text on one line; if it is wider than `inches` at `size` points, its beginning (or end) and an ellipsis."""
    text = " ".join(text.split())[:_LONGEST_TEXT]
    font = FontProperties(family=_FONT, size=size)

    def width(candidate: str) -> float:
        """In inches, with 3 % for hinting."""
        return (
            1.03 / 72 * text_to_path.get_text_width_height_descent(candidate, font, ismath=False)[0]
        )

    def part(length: int) -> str:
        return text[len(text) - length :] if keep_end else text[:length]

    if width(text) <= inches:
        return text
    fitting = part(
        bisect_right(range(1, len(text)), inches, key=lambda length: width(part(length) + "…"))
    )
    return "…" + fitting.lstrip(" ,") if keep_end else fitting.rstrip(" ,") + "…"


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12)
    except OSError as error:
        raise KdcacheError(
            f"room and the right to write {path}", f"{error.strerror}", "give another folder"
        ) from error


@matplotlib.rc_context(_STYLE)
def soft_target_sheet(
    entropies: Mapping[str, np.ndarray],
    by_label: np.ndarray,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draw how spread out soft targets are, and which classes they hold to be alike.

    Args:
        entropies: nats `(N,)` under the name of each temperature.
        by_label: float `(K, K)`, the mean soft target of the images of each label (rows).
        class_names: K names.
        path: the PNG.
    """
    classes = len(class_names)
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    spread, alike = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for (name, values), colour in zip(entropies.items(), (BLUE, ORANGE, GREEN), strict=False):
        shares, edges = np.histogram(values, bins=60, range=(0, np.log(classes)))
        shares = 100 * shares / len(values)
        spread.stairs(shares, edges, color=colour, linewidth=1.8)
        top = int(shares.argmax())
        spread.annotate(
            name,
            (edges[top : top + 2].mean(), shares[top]),
            (0, 3),
            textcoords="offset points",
            color=colour,
            ha="center",
        )
    spread.set(
        xlim=(0, np.log(classes)),
        xlabel=f"entropy of a soft target (nats; at most {np.log(classes):.2f})",
    )
    spread.set(ylabel="share of the training views (%)", title="How much the teacher hesitates")
    spread.grid(axis="y")
    colours = LinearSegmentedColormap.from_list("shares", ("white", "#8CC3E6", BLUE, "#00253D"))
    picture = alike.imshow(100 * by_label, cmap=colours, norm=PowerNorm(0.5, 0, 100))
    bar = figure.colorbar(
        picture, ax=alike, shrink=0.8, aspect=25, ticks=(0, 1, 5, 10, 25, 50, 75, 100)
    )
    bar.set_label("mean probability (%)")
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    step = -(-classes // _TICK_LABELS)
    names = [_fit(name, 1.3, 7) for name in class_names[::step]]
    alike.set_yticks(range(0, classes, step), names, fontsize=7, parse_math=False)
    alike.set_xticks(range(0, classes, step), names, fontsize=7, parse_math=False, rotation=90)
    alike.set(
        xlabel="the teacher's answer",
        ylabel="label",
        title="What it holds to be alike (T = 1, validation part)",
    )
    alike.spines[:].set_visible(True)
    _save(figure, path)


@matplotlib.rc_context(_STYLE)
def comparison_chart(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw the test accuracy of the rows of `comparison` as bars, and the teacher's as a line across them."""
    tested = [row for row in rows if row["test %"] is not None]
    teachers = [row for row in tested if str(row["kind"]).startswith("teacher")]
    runs = [row for row in tested if row not in teachers]
    scores = [float(str(row["test %"])) for row in runs]
    figure = Figure(
        figsize=(8, 1.3 + 0.42 * max(len(runs), 1) + 0.2 * len(teachers)), layout="constrained"
    )
    axes = figure.subplots()
    colours = [GREY if row["kind"] == "labels only" else BLUE for row in runs]
    axes.barh(range(len(runs)), scores, height=0.62, color=colours, zorder=2)
    for position, (row, score) in enumerate(zip(runs, scores, strict=True)):
        text, inside = f"{row['test %']}  {row['kind']}", score > 35
        axes.text(
            score + (-0.8 if inside else 0.8), position, text, color="white" if inside else INK, fontsize=8.5,
            ha="right" if inside else "left", va="center", zorder=3,
            bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    for number, row in enumerate(teachers):
        score = float(str(row["test %"]))
        axes.axvline(score, color=ORANGE, linestyle="--", linewidth=1.4, zorder=1)
        axes.annotate(
            f"{row['kind']}: {_fit(str(row['model']), 2, 8.5)} {row['test %']}", (score, 1), (0, 4 + 13 * number),
            xycoords=("data", "axes fraction"), textcoords="offset points", color=ORANGE, fontsize=8.5,
            ha="right" if score > 50 else "left", parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(max(len(runs), 1) - 0.5, -0.5), xlabel="test accuracy (%)")
    names = [_fit(str(row["name"]), 2.5, 8.5, keep_end=True) for row in runs]
    axes.set_yticks(range(len(runs)), names, color=INK, fontsize=8.5, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    _save(figure, path)

"""Pictures of images: sheets of tiles with predictions beneath them, and single images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdcache.report.plot_style import BLUE, DPI, GREEN, GREY, INK, ORANGE, STYLE, fit_text, save_png

_RIGHT, _WRONG, _UNJUDGED = "✓", "✗", "·"
_WINDOW = "kdcache"

# inches
_GAP = 0.14
_LINE_HEIGHT = 0.15
_HEADING_WIDTH = 0.5
_MARK_WIDTH = 0.13


class _Line(NamedTuple):
    """A line of a tile's caption: a grey heading, a mark or nothing, and a text."""

    heading: str
    mark: str
    text: str
    colour: str


@matplotlib.rc_context(STYLE)
def view_sheet(
    images: np.ndarray,
    labels: Sequence[int | None],
    teacher_predictions: Sequence[int] | None,
    student_predictions: Sequence[int],
    class_names: Sequence[str],
    path: Path,
    *,
    teacher_names: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Draw a sheet of images, each with its label and the predictions of teacher and student.

    Args:
        images: uint8 `(n, 3, H, W)`, n at most 64.
        labels: the class of each image; None where it is not known.
        teacher_predictions: the teacher's class for each image; None where there is no teacher.
        student_predictions: the student's.
        class_names: the student's classes.
        path: the PNG.
        teacher_names: the teacher's classes where they are others than the student's; its
            predictions are then neither right nor wrong.
        columns: tiles in a row.
    """
    judged = teacher_names is None or list(teacher_names) == list(class_names)
    captions = []
    for index, label in enumerate(labels):
        unjudged = (_UNJUDGED, INK)
        lines = [_Line("label", "", "none" if label is None else class_names[label], INK)]
        if teacher_predictions is not None:
            predicted = teacher_predictions[index]
            known = judged and label is not None
            mark, colour = _verdict(predicted == label) if known else unjudged
            lines.append(_Line("teacher", mark, (teacher_names or class_names)[predicted], colour))
        predicted = student_predictions[index]
        mark, colour = unjudged if label is None else _verdict(predicted == label)
        lines.append(_Line("student", mark, class_names[predicted], colour))
        captions.append(lines)
    figure = Figure()
    _draw_tiles(figure, images, captions, columns, 1.7)
    save_png(figure, path)


@matplotlib.rc_context(STYLE)
def prediction_sheet(
    images: np.ndarray,
    labels: Sequence[str],
    predictions: Sequence[Sequence[tuple[str, float]]],
    native_predictions: Sequence[str] | None,
    path: Path,
    *,
    columns: int,
) -> None:
    """Draw a sheet of images, each with its label and the teacher's predictions.

    Args:
        images: uint8 `(n, 3, H, W)`.
        labels: the name of each image's class.
        predictions: for each image names and probabilities (0 to 1) in the student's classes,
            the most probable first.
        native_predictions: for each image the top prediction in the teacher's own classes; None
            where those are the student's.
        path: the PNG.
        columns: tiles in a row.
    """
    captions = []
    for index, (label, guesses) in enumerate(zip(labels, predictions, strict=True)):
        lines = [_Line("label", "", label, INK)]
        for name, probability in guesses:
            mark, colour = (_RIGHT, GREEN) if name == label else ("", INK)
            lines.append(_Line(f"{100 * probability:.0f} %", mark, name, colour))
        if native_predictions is not None:
            lines.append(_Line("teacher", "", native_predictions[index], BLUE))
        captions.append(lines)
    figure = Figure()
    _draw_tiles(figure, images, captions, columns, 1.5)
    save_png(figure, path)


@matplotlib.rc_context(STYLE)
def save_image(image: np.ndarray, label: str, teacher_prediction: str | None, path: Path) -> None:
    """Draw one image with its label and the teacher's prediction.

    Args:
        image: `(3, H, W)`, float32 in 0..1 or uint8.
        label: the name of its class.
        teacher_prediction: the name of the teacher's class; None where there is no teacher.
        path: the PNG.
    """
    figure = Figure()
    _draw_image(figure, image, label, teacher_prediction)
    save_png(figure, path)


@matplotlib.rc_context(STYLE)
def show_image(image: np.ndarray, label: str, teacher_prediction: str | None) -> bool:
    """Draw the same in a window, one for all images, without waiting for anybody.

    Returns whether it was shown: without a display, for one, matplotlib opens no windows.
    """
    from matplotlib import pyplot  # only here: it chooses a backend for the whole process

    is_open = pyplot.fignum_exists(_WINDOW)
    try:
        figure = pyplot.figure(_WINDOW, clear=True)
    except (ImportError, RuntimeError):  # the backend that was asked for cannot be loaded here
        return False
    if getattr(figure.canvas, "required_interactive_framework", None) is None:
        pyplot.close(figure)  # a backend for files or for a notebook
        return False
    _draw_image(figure, image, label, teacher_prediction)
    if not is_open:  # showing it again would lift it over other windows
        pyplot.show(block=False)
    figure.canvas.draw_idle()
    figure.canvas.flush_events()
    return True


def _verdict(right: bool) -> tuple[str, str]:
    return (_RIGHT, GREEN) if right else (_WRONG, ORANGE)


def _draw_image(
    figure: Figure, image: np.ndarray, label: str, teacher_prediction: str | None
) -> None:
    lines = [_Line("label", "", label, INK)]
    if teacher_prediction is not None:
        lines.append(_Line("teacher", "", teacher_prediction, BLUE))
    _draw_tiles(figure, image[None], [lines], 1, 3.0)


def _draw_tiles(
    figure: Figure,
    images: np.ndarray,
    captions: Sequence[Sequence[_Line]],
    columns: int,
    side: float,
) -> None:
    """Fill the figure with images `(n, 3, H, W)` and each one's caption below it.

    A tile is `side` inches wide. The axes count inches from the upper left corner, so that nothing
    can overlap.
    """
    count, _, height, width = images.shape
    if images.dtype != np.uint8:
        images = np.clip(images, 0, 1)
    tall = side * min(1, height / width)
    wide = side * min(1, width / height)
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    tile_height = tall + _LINE_HEIGHT * max(map(len, captions), default=0) + 2 * _GAP
    total_width = columns * (side + _GAP) + _GAP
    total_height = rows * tile_height
    figure.set_size_inches(total_width, total_height)
    axes = figure.add_axes((0, 0, 1, 1))
    interpolation = "nearest" if max(height, width) <= side * DPI else "auto"
    for index, (image, lines) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = _GAP + column * (side + _GAP), _GAP + row * tile_height
        x = left + (side - wide) / 2
        axes.imshow(
            image.transpose(1, 2, 0),
            extent=(x, x + wide, top + tall, top),
            interpolation=interpolation,
        )
        frame = Rectangle((x, top), wide, tall, fill=False, linewidth=1.2)
        frame.set_edgecolor(lines[-1].colour)
        axes.add_patch(frame)
        for number, line in enumerate(lines):
            y = top + tall + (number + 0.8) * _LINE_HEIGHT
            start = left + _HEADING_WIDTH + (_MARK_WIDTH if line.mark else 0)
            text = fit_text(line.text, left + side - start, 8)
            style = {"color": line.colour, "fontsize": 8, "va": "center_baseline"}
            axes.text(left, y, line.heading, color=GREY, fontsize=7, va="center_baseline")
            axes.text(left + _HEADING_WIDTH, y, line.mark, **style)
            axes.text(start, y, text, **style, parse_math=False)
    axes.set(xlim=(0, total_width), ylim=(total_height, 0), aspect="auto")
    axes.axis("off")

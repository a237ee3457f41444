"""The pictures of a run and of a cache, made from their images, targets and predictions."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.config import UNLABELLED
from kdcache.data import ImageData, Renderer, Split, whole_image_views
from kdcache.distill import Head, TeacherTargets, confusion, soften
from kdcache.report import image_sheets, plots

if TYPE_CHECKING:  # pictures of a cache need no training code
    from kdcache.engine import StudentRun

_SHEET_IMAGES = 8  # images on a sheet of views, and columns on a sheet of whole images
_SHEET_VIEWS = 4  # views of each image, and rows
_TOP_PREDICTIONS = 3


def draw_pictures(run: "StudentRun") -> None:
    """Draw curves.png, confusion.png and views.png in a finished run's folder.

    They show the learning curves, the confusion matrix of the test split, and images in the views
    that the student was trained on, with predictions.
    """
    assert run.test is not None, "the run is not finished"
    out = run.options.out
    plots.learning_curves(run.history, out / "curves.png")
    counts = confusion(run.images.splits["test"].labels, run.test.logits)
    plots.confusion_matrix(counts.numpy(), run.images.class_names, out / "confusion.png")
    several = run.view_table is not None and run.view_table.shape[1] > 1
    if run.options.augment == "cached" and several:
        _draw_cached_views(run, out / "views.png")
    else:
        _draw_whole_images(run, out / "views.png")


def show_batch(
    run: "StudentRun", step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
) -> None:
    """Show the first image of a batch, un-normalised, in a window or, without one, as a PNG file.

    Args:
        step: of the training, from 0; the PNG files are vis/step-000001.png and so on in the run's
            folder.
        image_index, view_index: int64 `(B,)`.
        inputs: float32 `(B, 3, S, S)`, normalised, as the student is about to see them.
    """
    known = run.config.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
    image = (inputs[0].cpu() * std + mean).clamp(0, 1).numpy()
    row, view = int(image_index[0]), int(view_index[0])
    label = _label_name(run.images, int(run.images.splits["train"].labels[row]))
    prediction = None
    if run.targets is not None:
        head, logits = next(iter(run.targets.train.items()))
        prediction = _class_names(run, head)[int(logits[row, view].argmax())]
    if not image_sheets.show_image(image, label, prediction):
        path = run.options.out / "vis" / f"step-{step + 1:06d}.png"
        path.parent.mkdir(exist_ok=True)
        image_sheets.save_image(image, label, prediction, path)


def draw_teacher_predictions(
    cache: Cache, images: ImageData, targets: TeacherTargets, path: Path
) -> None:
    """Draw some training images in several of their cached views, with the teacher's predictions.

    Args:
        images: those that the cache was made from.
        targets: the teacher's logits in the student's classes.
    """
    split, cached = images.splits["train"], cache.splits["train"]
    views = min(_SHEET_VIEWS, cached.views.shape[1])
    sheet_rows = _SHEET_IMAGES * _SHEET_VIEWS // (2 * views)
    rows, view_index = _rows_and_views(len(split), sheet_rows, views)
    names = images.class_names

    probabilities = soften(targets.train["student"][rows, view_index], 1.0)
    top = probabilities.topk(min(_TOP_PREDICTIONS, len(names)))
    predictions = []
    for classes, values in zip(top.indices.tolist(), top.values.tolist(), strict=True):
        predictions.append([(names[k], p) for k, p in zip(classes, values, strict=True)])

    native = None
    native_names = cache.manifest.teacher.class_names
    if native_names is not None and native_names != names:
        logits = np.asarray(cached.logits[rows, view_index])
        native = [native_names[k] for k in logits.argmax(1)]

    tiles = _render_tiles(split.images[rows], torch.from_numpy(cached.views)[rows, view_index])
    labels = [_label_name(images, label) for label in split.labels[rows].tolist()]
    columns = 2 * views
    image_sheets.prediction_sheet(tiles, labels, predictions, native, path, columns=columns)


def _label_name(images: ImageData, label: int) -> str:
    return "none" if label == UNLABELLED else images.class_names[label]


def _class_names(run: "StudentRun", head: Head) -> list[str]:
    """The names of the classes that a head predicts."""
    if head == "student" or run.cache is None:
        return list(run.images.class_names)
    teacher = run.cache.manifest.teacher
    unnamed = [f"class {number}" for number in range(teacher.classes)]
    return list(teacher.class_names or unnamed)


def _draw_cached_views(run: "StudentRun", path: Path) -> None:
    """Some training images, each in several of its cached views."""
    assert run.targets is not None and run.view_table is not None
    views = min(_SHEET_VIEWS, run.view_table.shape[1])
    rows, view_index = _rows_and_views(len(run.images.splits["train"]), _SHEET_IMAGES, views)
    teacher = None
    if "student" in run.targets.train:
        teacher = run.targets.train["student"][rows, view_index].argmax(1).tolist()
    shown = torch.from_numpy(run.view_table)[rows, view_index]
    _draw_views(run, run.images.splits["train"], rows, shown, teacher, path, columns=2 * views)


def _draw_whole_images(run: "StudentRun", path: Path) -> None:
    """Some validation images."""
    split = run.images.splits["validation"]
    rows = _spread_rows(len(split), _SHEET_IMAGES * _SHEET_VIEWS)
    teacher = None
    if run.targets is not None:
        teacher = run.targets.predictions["validation"][rows].argmax(1).tolist()
    whole = whole_image_views(len(rows), *run.images.image_shape)
    _draw_views(run, split, rows, whole, teacher, path, columns=_SHEET_IMAGES)


def _draw_views(
    run: "StudentRun",
    split: Split,
    rows: Tensor,
    views: Tensor,
    teacher_predictions: list[int] | None,
    path: Path,
    *,
    columns: int,
) -> None:
    """A sheet of some rows of a split, each in its view int16 `(n, 5)`, and what is predicted."""
    logits = run.trainer.student.predict(split.images, rows, views)
    student_predictions = logits.argmax(1).tolist()
    image_sheets.view_sheet(
        _render_tiles(split.images[rows], views),
        [None if label == UNLABELLED else label for label in split.labels[rows].tolist()],
        teacher_predictions,
        student_predictions,
        run.images.class_names,
        path,
        columns=columns,
    )


def _spread_rows(count: int, wanted: int) -> Tensor:
    """At most `wanted` rows, evenly spread over `count`."""
    return torch.linspace(0, count - 1, min(wanted, count)).round().long()


def _rows_and_views(count: int, wanted: int, views: int) -> tuple[Tensor, Tensor]:
    """The row and the view of each tile, int64: `wanted` rows, each in its first `views` views."""
    rows = _spread_rows(count, wanted)
    return rows.repeat_interleave(views), torch.arange(views).repeat(len(rows))


def _render_tiles(images: Tensor, views: Tensor) -> np.ndarray:
    """The pixels uint8 `(n, 3, S, S)` of images in their views."""
    height, width = images.shape[2:]
    # a mean of 0 and a deviation of 1 / 255 leave the pixels on their scale of 0 to 255
    render = Renderer(max(height, width), (0, 0, 0), (1 / 255,) * 3, (height, width))
    return render(images, views).round().clamp(0, 255).to(torch.uint8).numpy()

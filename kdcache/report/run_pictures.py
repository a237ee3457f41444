"""What a run and a cache show: pictures made from their images, targets and predictions."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.data import ImageData, Renderer
from kdcache.distill import TeacherTargets, soften
from kdcache.engine import StudentRun
from kdcache.report import figures as report

_IMAGES, _VIEWS = 8, 4
_ANSWERS = 3


def draw_pictures(run: StudentRun) -> None:
    """Learning curves, confusion matrix of the test split and a sheet of views, as PNG files in a finished run's folder."""
    out, classes = run.options.out, run.config.classes
    labels = run.images.splits["test"].labels.numpy()
    counts = np.bincount(labels * classes + run.test_predictions, minlength=classes**2).reshape(
        classes, classes
    )
    report.learning_curves(run.history, out / "curves.png")
    report.confusion_matrix(counts, run.images.class_names, out / "confusion.png")
    if run.options.augment == "cached" and run.view_table.shape[1] > 1:
        _sheet_of_views(run)
    else:
        _sheet_of_images(run)


def show_batch(
    run: StudentRun, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
) -> None:
    """--vis: the first image of a batch as the student saw it, scaled back to [0, 1], in a window or a PNG file."""
    preprocessing = run.config.preprocessing
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    image = (inputs[0].cpu() * std + mean).clamp(0, 1).numpy()
    row, view = int(image_index[0]), int(view_index[0])
    label = run.images.class_names[run.images.splits["train"].labels[row]]
    answer = None
    if run.targets is not None:
        classes, logits = next(iter(run.targets.train.items()))
        answer = _names(run, classes)[int(logits[row, view].argmax())]
    path = None if report.has_window() else run.options.out / "vis" / f"step-{step + 1:06d}.png"
    if path is not None:
        path.parent.mkdir(exist_ok=True)
    report.single_image(image, label, answer, path)


def draw_teacher_predictions(
    cache: Cache, images: ImageData, targets: TeacherTargets, path: Path
) -> None:
    """Some training images in several of their cached views, with the teacher's top predictions to each."""
    split, part = images.splits["train"], cache.splits["train"]
    shown = min(_VIEWS, part.views.shape[1])
    rows = _spread(len(split), _IMAGES * _VIEWS // (2 * shown)).repeat_interleave(shown)
    view_index = torch.arange(shown).repeat(len(rows) // shown)
    top = soften(targets.train["student"][rows, view_index], 1.0).topk(
        min(_ANSWERS, len(images.class_names))
    )
    names, teacher = images.class_names, cache.manifest.teacher
    predictions = [
        [
            (names[label], probability)
            for label, probability in zip(labels, probabilities, strict=True)
        ]
        for labels, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    own = None
    if teacher.class_names not in (None, names):
        own = [
            teacher.class_names[row] for row in np.asarray(part.logits[rows, view_index]).argmax(1)
        ]
    tiles = _tiles(split.images[rows], torch.from_numpy(part.views)[rows, view_index].long())
    labels = [names[label] for label in split.labels[rows].tolist()]
    report.prediction_sheet(tiles, labels, predictions, own, path, columns=2 * shown)


def _names(run: StudentRun, classes: str) -> list[str]:
    """Names of the "student" classes, or of the "teacher" ones."""
    if classes == "student":
        return list(run.images.class_names)
    teacher = run.cache.manifest.teacher
    return list(teacher.class_names or ()) or [
        f"class {number}" for number in range(teacher.classes)
    ]


def _sheet_of_views(run: StudentRun) -> None:
    """Some training images, each in several of its cached views."""
    split, table = run.images.splits["train"], run.view_table
    shown = min(_VIEWS, table.shape[1])
    rows = _spread(len(split), _IMAGES).repeat_interleave(shown)
    view_index = torch.arange(shown).repeat(len(rows) // shown)
    teacher = None
    if "student" in run.targets.train:
        teacher = run.targets.train["student"][rows, view_index].argmax(1).numpy()
    views = torch.from_numpy(table)[rows, view_index].long()
    _sheet(run, split.images[rows], split.labels[rows], views, teacher, columns=2 * shown)


def _sheet_of_images(run: StudentRun) -> None:
    """Some validation images, whole."""
    split = run.images.splits["validation"]
    rows = _spread(len(split), _IMAGES * _VIEWS)
    views = torch.tensor([[0, 0, *split.images.shape[2:], 0]]).repeat(len(rows), 1)
    teacher = None
    if run.targets is not None:
        teacher = run.targets.predictions["validation"][rows].argmax(1).numpy()
    _sheet(run, split.images[rows], split.labels[rows], views, teacher, columns=_IMAGES)


def _spread(count: int, wanted: int) -> Tensor:
    """At most `wanted` rows, evenly spread over `count`."""
    return torch.linspace(0, count - 1, min(wanted, count)).round().long()


def _sheet(
    run: StudentRun,
    images: Tensor,
    labels: Tensor,
    views: Tensor,
    teacher: np.ndarray | None,
    columns: int,
) -> None:
    student = run.trainer.student.predict(images, views).argmax(1).numpy()
    names, path = run.images.class_names, run.options.out / "views.png"
    report.view_sheet(
        _tiles(images, views), labels.numpy(), teacher, student, names, path, columns=columns
    )


def _tiles(images: Tensor, views: Tensor) -> np.ndarray:
    """The pixels uint8 `(n, 3, S, S)` of images in views."""
    shape = tuple(images.shape[2:])
    pixels = Renderer(max(shape), (0, 0, 0), (1 / 255,) * 3, shape)(
        images, views
    )  # back on the scale 0 to 255
    return pixels.round().clamp(0, 255).to(torch.uint8).numpy()

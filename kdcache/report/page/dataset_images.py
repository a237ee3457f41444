"""The images that runs were tested on, from their dataset, and those on which they disagree."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import image as image_files
from torch import Tensor

from kdcache.config import DATASETS, is_import_path
from kdcache.data import Images, load_images
from kdcache.distill import notable_images
from kdcache.errors import DataError, KdcacheError
from kdcache.report.comparison import Group
from kdcache.report.page.prediction_charts import class_names, shown_pair
from kdcache.runs import Predictions, Run

_MOST_TILES = 24
_TILE_SIDE = 96  # pixels, of images that are larger


@dataclass(frozen=True)
class Tile:
    """A test image: its PNG in base 64, its label, and who predicts what, rightly or not."""

    row: int
    png: str
    label: str
    predictions: list[tuple[str, str, bool]]


def load_test_images(runs: Sequence[Run], folder: Path | None) -> Images | str:
    """The images that the runs were tested on, uint8 `(M, 3, H, W)`, or why they cannot be shown.

    Args:
        runs: tested on the same images.
        folder: where the dataset is; None where that is not known, which is no matter for an
            embedded dataset.

    Raises KdcacheError where `folder` is given and does not hold them.
    """
    run = next((run for run in runs if run.summary.test_digest), runs[0])
    name, count, digest = run.summary.dataset, run.summary.test_images, run.summary.test_digest
    if not (name and count and digest):
        return (
            "The summaries do not say which images these were, because an older version wrote them."
        )
    if is_import_path(name):  # code, which does not run because a file names it
        return f"Images of a dataset of one's own ({name}) are not shown here."
    if folder is None and not DATASETS.load(name).embedded:
        return f"Give --data DIR with the images of {name} to see them here."
    try:
        return _test_images(run, name, count, digest, folder)
    except KdcacheError as error:
        if folder is not None:
            raise
        return f"They cannot be shown: {error}."


def _test_images(run: Run, name: str, count: int, digest: str, folder: Path | None) -> Images:
    # as many test images as there were are the same ones, whatever the run's own --limit was
    images = load_images(name, folder or Path(), limit=count, image_shape=run.image_shape)
    test = images.splits["test"]
    if test.digest() != digest:
        where = f"in {folder}" if folder else f"in this version's {name}"
        raise DataError(
            f"the images on which {run.name} was tested", f"others {where}", "correct --data"
        )
    return test.images


def disagreements(
    groups: Sequence[Group], pixels: Images | str
) -> tuple[str, list[tuple[str, list[Tile]]]] | None:
    """Test images on which students disagree with each other, the teacher or the label.

    Args:
        pixels: uint8 `(M, 3, H, W)`, or why there are none.

    Returns a remark, and the tiles by kind; None where no run left predictions.
    """
    runs = [_best_run(group) for group in shown_pair(groups)]
    if not runs:
        return None
    if isinstance(pixels, str):
        return f"Test images with label and predictions. {pixels}", []
    (run, shown), baseline = runs[-1], runs[0][1].student if len(runs) > 1 else None
    labels, names = shown.labels, class_names(run, shown.student.shape[1])
    logits = {"teacher": shown.teacher, "labels only": baseline}
    logits |= {"distilled" if run.summary.distilled else "student": shown.student}
    predicted = {who: rows.argmax(1) for who, rows in logits.items() if rows is not None}

    def tile(row: int) -> Tile:
        label = int(labels[row])
        guesses = {who: int(rows[row]) for who, rows in predicted.items()}
        verdicts = [(who, names[guess], guess == label) for who, guess in guesses.items()]
        return Tile(row, _png(pixels[row]), names[label], verdicts)

    kinds = notable_images(labels, shown.student, baseline, shown.teacher, _MOST_TILES)
    content = [
        (f"{kind} ({count:,} of {len(labels):,})", [tile(row) for row in rows.tolist()])
        for kind, rows, count in kinds
    ]
    whose = ", ".join(run.name for run, _ in runs)
    remark = (
        "Some of the test images of each kind, spread evenly over the split. Predictions of"
        f" {whose}; beneath each image its label."
    )
    return remark, content


def _best_run(group: Group) -> tuple[Run, Predictions]:
    """The run with the highest validation accuracy of those that left predictions: one at least."""
    held = [(run, run.predictions) for run in group.runs if run.predictions is not None]
    return max(held, key=lambda pair: pair[0].summary.validation_accuracy)


def _png(pixels: Tensor) -> str:
    scale = _TILE_SIDE / max(pixels.shape[1:])
    if scale < 1:
        smaller = torch.nn.functional.interpolate(
            pixels[None].float(), scale_factor=scale, mode="bilinear", antialias=True
        )
        pixels = smaller[0].round().clamp(0, 255).byte()
    file = io.BytesIO()
    image_files.imsave(file, np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), format="png")
    return base64.b64encode(file.getvalue()).decode()

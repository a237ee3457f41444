"""The images that runs were tested on, from their dataset."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kdcache.config import DATASETS, is_import_path
from kdcache.data import load_images
from kdcache.errors import DataError, KdcacheError
from kdcache.runs import Run


def load_test_images(runs: Sequence[Run], folder: Path | None) -> Tensor | str:
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


def _test_images(run: Run, name: str, count: int, digest: str, folder: Path | None) -> Tensor:
    # as many test images as there were are the same ones, whatever the run's own --limit was
    images = load_images(name, folder or Path(), limit=count, image_shape=run.image_shape)
    test = images.splits["test"]
    if test.digest() != digest:
        where = f"in {folder}" if folder else f"in this version's {name}"
        raise DataError(
            f"the images on which {run.name} was tested", f"others {where}", "correct --data"
        )
    return test.images

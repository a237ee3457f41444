"""What a dataset is to the package: a reader, which opens a source of labels and pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.data.files.image_folder import LazyImages
from kdcache.data.splits import evenly_spread_rows
from kdcache.errors import DataError


@dataclass(frozen=True)
class Request:
    """What is wanted of a dataset.

    Args:
        folder: where its files are, or where they are downloaded to.
        limit: of the images of each split, and of those without labels, take this many, spread
            evenly over the classes; None takes all.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop; None
            leaves it to the images.
        image_shape: folder only: height and width in pixels to which all images are brought, where
            that is known; None leaves it to the images.
        stream: leave the pixels in their files (True), or have them in memory (False), or there
            where they fit (None). A dataset that is always in memory need not look at it.
    """

    folder: Path
    limit: int | None = None
    store_size: int | None = None
    image_shape: tuple[int, int] | None = None
    stream: bool | None = None


@dataclass(frozen=True)
class Source:
    """A dataset whose labels are known, and whose pixels can be read.

    Args:
        class_names: K names; label k is the class class_names[k].
        train_labels: int64 `(N,)` of the training images.
        test_labels: int64 `(M,)` of the test images.
        read: takes rows, int64 `(R,)`, and returns their pixels, uint8 `(R, 3, H, W)`, or the
            `LazyImages` of the files that they are in. Rows count
            all images: the training images from 0, then the test images, the validation images and
            the unlabelled ones, each in the order of their labels.
        files: of each row, to name it in messages; empty where images have no files of their own.
        validation_labels: int64 `(L,)`, where there is a validation split; None has one drawn from
            the training images.
        unlabelled: how many more images there are to train on, without labels.
    """

    class_names: tuple[str, ...]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8] | LazyImages]
    files: Sequence[str] = ()
    validation_labels: NDArray[np.int64] | None = None
    unlabelled: int = 0

    @property
    def labels(self) -> dict[str, NDArray[np.int64]]:
        """Those of each split that is given, in the order of the rows."""
        labels = {"train": self.train_labels, "test": self.test_labels}
        if self.validation_labels is not None:
            labels["validation"] = self.validation_labels
        return labels


@dataclass(frozen=True)
class DatasetReader:
    """One dataset: what `--dataset` names.

    Args:
        open: finds its labels and says how to read its pixels.
        is_at_hand: tells, as far as a glance does, whether a folder holds it, so that opening it
            downloads nothing.
        embedded: whether it is drawn, and needs no files at all.
    """

    open: Callable[[Request], Source]
    is_at_hand: Callable[[Path], bool] = lambda folder: False
    embedded: bool = False


def check_labels(source: Source, name: str) -> None:
    """A dataset of the user's own may have made them in any way."""
    classes = len(source.class_names)
    for labels in source.labels.values():
        right_type = labels.dtype == np.int64 and labels.ndim == 1
        if right_type and np.all((labels >= 0) & (labels < classes)):
            continue
        raise DataError(
            f"--dataset {name} to have labels int64 (N,) of 0 to {classes - 1}",
            f"{labels.dtype} {labels.shape} with {np.unique(labels)[[0, -1]]}",
            "correct its reader",
        )


def check_pixels(pixels: NDArray[np.uint8], count: int, name: str) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (count, 3):
        raise DataError(
            f"--dataset {name} to read pixels uint8 ({count}, 3, height, width)",
            f"{pixels.dtype} {pixels.shape}",
            "correct its reader",
        )


Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `(N, 3, H, W)` and labels `(N,)`."""


def source_in_memory(
    class_names: Sequence[str], train: Pair, test: Pair, *, limit: int | None = None
) -> Source:
    """A dataset that is in memory already.

    Args:
        train, test: images uint8 `(N, 3, H, W)` and labels int64 `(N,)`.
        limit: as in `Request`.
    """
    train_images, train_labels = train
    test_images, test_labels = test
    train_rows = evenly_spread_rows(train_labels, limit)
    test_rows = evenly_spread_rows(test_labels, limit)

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(rows), *test_images.shape[1:]), test_images.dtype)
        for place, row in enumerate(rows):  # one by one: no second copy of all
            if row < len(train_rows):
                images[place] = train_images[train_rows[row]]
            else:
                images[place] = test_images[test_rows[row - len(train_rows)]]
        return images

    return Source(tuple(class_names), train_labels[train_rows], test_labels[test_rows], read)

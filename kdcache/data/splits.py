"""Splits: images with their labels and checksums, and which images a split gets."""

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from kdcache.config import UNLABELLED
from kdcache.data.files.image_folder import Images, LazyImages

_VALIDATION_FRACTION = 0.2
_PIECE = 256  # images that are checked at a time


@dataclass(frozen=True)
class Split:
    """The images of one split, in memory or in their files.

    Args:
        images: uint8 `(N, 3, H, W)`; those in files are decoded when they are looked at.
        labels: int64 `(N,)`; a row of both is an `image_index`. The last rows of a training split
            may be `UNLABELLED`.
        files: the path of each image; empty where images have no files of their own.
    """

    images: Images
    labels: Tensor
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> int:
        """How many of the images have a label: the first ones."""
        return int((self.labels != UNLABELLED).sum())

    @property
    def unlabelled(self) -> int:
        """How many have none: the last ones."""
        return len(self) - self.labelled

    def select(self, rows: NDArray[np.int64]) -> "Split":
        """Only these rows: a copy of images in memory; those in files stay there."""
        index = torch.from_numpy(rows)
        images = self.images
        images = images.select(rows) if isinstance(images, LazyImages) else images[index]
        files = [self.files[int(row)] for row in rows] if self.files else ()
        return Split(images, self.labels[index], files)

    def spread(self, count: int | None) -> NDArray[np.int64]:
        """The rows of `count` labelled images, spread evenly over the classes; of all for None.

        Behind them those of all images without a label.
        """
        chosen = evenly_spread_rows(self.labels[: self.labelled].numpy(), count)
        return np.concatenate((chosen, np.arange(self.labelled, len(self))))

    def row_checksums(self) -> NDArray[np.uint32]:
        """CRC32 of each image's pixels followed by its label as int64, uint32 `(N,)`."""
        return self._checksums_and_digest[0]

    def digest(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        return self._checksums_and_digest[1]

    @cached_property
    def _checksums_and_digest(self) -> tuple[NDArray[np.uint32], str]:
        """Both in one pass, and once: all students of a sweep ask, and files are decoded for it."""
        labels = self.labels.contiguous().numpy()
        checksums = np.empty(len(self), "<u4")
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        in_memory = isinstance(self.images, Tensor)
        bar = tqdm(
            desc="checking images", total=len(self), unit="image", leave=False, delay=1,
            disable=in_memory,
        )  # fmt: skip
        with bar:
            for start in range(0, len(self), _PIECE):
                images = self.images[start : start + _PIECE].contiguous().numpy()
                sha.update(images.data)
                for row, image in enumerate(images, start):
                    checksums[row] = zlib.crc32(labels[row].tobytes(), zlib.crc32(image))
                bar.update(len(images))
        sha.update(labels.data)
        return checksums, sha.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A dataset in three splits.

    Args:
        name: as `--dataset` has it.
        class_names: K names; label k is the class class_names[k].
        splits: the `Split` of train, validation and test, in this order.
        streamed: whether pixels are to be read ahead of their use from where they lie, instead of
            being moved to the device.
        limit, store_size: with which the images were read.
        split_seed: of the choice of validation images; None where the dataset has them.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    streamed: bool = False
    limit: int | None = None
    store_size: int | None = None
    split_seed: int | None = 0

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.splits["train"].images.shape[2:]
        return height, width

    def with_train(self, rows: NDArray[np.int64]) -> "ImageData":
        """With only these rows of the training split."""
        train = self.splits["train"]
        if len(rows) == len(train):
            return self
        return dataclasses.replace(self, splits=self.splits | {"train": train.select(rows)})


def validation_rows(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Which training images become the validation split: 20 % of each class, drawn at random.

    At least one of each class that has two. Returns their rows, ascending.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(round(len(rows) * _VALIDATION_FRACTION), int(len(rows) > 1))
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def evenly_spread_rows(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Rows spread evenly over the classes: one of each class in turn until there are `limit`.

    The first ones of each class are taken. Returns them in ascending order; all rows without a
    limit.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    rank_in_class = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = labels == label
        rank_in_class[members] = np.arange(members.sum())
    return np.sort(np.lexsort((labels, rank_in_class))[:limit])

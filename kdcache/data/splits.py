"""TODO data.splits."""

import dataclasses
import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Images uint8 `(N, 3, H, W)` and labels int64 `(N,)`; a row of both is an `image_index`.

    Images that lie in a mapped file are read from it when they are looked at.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "Split":
        """Only these rows: a copy in memory, also where the images lie in a mapped file."""
        rows = torch.from_numpy(rows)
        return Split(self.images[rows], self.labels[rows])

    def spread(self, count: int | None) -> np.ndarray:
        """The rows of `count` images, the same share of every class; all rows for None."""
        return evenly_spread_rows(self.labels.numpy(), count)

    def row_checksums(self) -> np.ndarray:
        """CRC32 of each image's pixels followed by its label as int64, uint32 `(N,)`."""
        pairs = zip(self.images.contiguous().numpy(), self.labels.numpy(), strict=True)
        return np.fromiter(
            (zlib.crc32(label.tobytes(), zlib.crc32(image)) for image, label in pairs),
            "<u4",
            len(self),
        )

    def digest(self) -> str:
        """SHA-256 of shape, pixels and labels; worked out once, since all students of a sweep ask for it."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        sha.update(self.images.contiguous().numpy())
        sha.update(self.labels.contiguous().numpy())
        return sha.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A dataset divided into training part, validation part and test split.

    `streamed`: whether pixels are to be read ahead of their use from where they lie, instead of being moved to the device.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    streamed: bool = False

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.splits["train"].images.shape[2:])

    def with_train(self, rows: np.ndarray) -> "ImageData":
        """With only these rows of the training part."""
        train = self.splits["train"]
        if len(rows) == len(train):
            return self
        return dataclasses.replace(self, splits=self.splits | {"train": train.select(rows)})


def validation_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """The rows of the validation part, ascending: 20 % of each class, at least one where a class has two."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(round(len(rows) * _VALIDATION_SHARE), int(len(rows) > 1))
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def evenly_spread_rows(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """The first rows of each class in turn until there are `limit`, ascending; all rows without a limit."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    rank_in_class = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = labels == label
        rank_in_class[members] = np.arange(members.sum())
    return np.sort(np.lexsort((labels, rank_in_class))[:limit])

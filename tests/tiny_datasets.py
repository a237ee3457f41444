"""Datasets of a user's own, reached as 'tiny_datasets:STRIPES'; some whose readers are wrong."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kdcache.data import DatasetReader, Request, Source, source_in_memory


def _stripes(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = np.arange(count) % 2
    pixels = np.zeros((count, 3, 16, 16), np.uint8)
    pixels[labels == 0, :, ::2] = 200
    pixels[labels == 1, :, :, ::2] = 200
    return pixels, labels


def open_stripes(request: Request) -> Source:
    return source_in_memory(("across", "down"), _stripes(40), _stripes(10), limit=request.limit)


def _counted(first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    values = np.arange(first, first + count)
    pixels = np.broadcast_to(values[:, None, None, None], (count, 3, 4, 4)).astype(np.uint8)
    return pixels, np.arange(count) % 3


def open_counted(request: Request) -> Source:
    return source_in_memory("abc", _counted(0, 30), _counted(100, 15), limit=request.limit)


STRIPES = DatasetReader(open_stripes)


def _open_with_validation(request: Request) -> Source:
    """Images of the values 0 to 2, then one test image of 3, and validation images of 4 and 5."""
    labels = np.arange(6) % 3

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.broadcast_to(rows[:, None, None, None], (len(rows), 3, 4, 4)).astype(np.uint8)

    return Source("abc", labels[:3], labels[3:4], read, validation_labels=labels[4:])


COUNTED = DatasetReader(open_counted)
WITH_VALIDATION = DatasetReader(_open_with_validation)


def _spoilt_labels(change: NDArray[np.int64], dtype: type) -> DatasetReader:
    def open(request: Request) -> Source:
        source = open_stripes(request)
        labels = (source.train_labels + change).astype(dtype)
        return replace(source, train_labels=labels)

    return DatasetReader(open)


LABELS_OF_ANOTHER_TYPE = _spoilt_labels(np.zeros(40, np.int64), np.int32)
LABELS_OUT_OF_RANGE = _spoilt_labels(np.arange(40) == 39, np.int64)


def _open_in_floats(request: Request) -> Source:
    source = open_stripes(request)
    return replace(source, read=lambda order: source.read(order).astype(np.float32))


def _open_channels_last(request: Request) -> Source:
    source = open_stripes(request)
    return replace(source, read=lambda order: source.read(order).transpose(0, 2, 3, 1))


def _open_too_few(request: Request) -> Source:
    source = open_stripes(request)
    return replace(source, read=lambda order: source.read(order)[:40])


PIXELS_IN_FLOATS = DatasetReader(_open_in_floats)
CHANNELS_LAST = DatasetReader(_open_channels_last)
TOO_FEW_PIXELS = DatasetReader(_open_too_few)

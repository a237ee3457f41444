"""The images that a cache was made from: reads them, and compares every one with the cache."""

from pathlib import Path

import numpy as np

from kdcache.cache import Cache
from kdcache.config import agreed
from kdcache.data import ImageData, load_images
from kdcache.errors import DataError


def load_images_of(
    cache: Cache, folder: Path, *, dataset: str | None = None, stream: bool | None = None
) -> ImageData:
    """Read from `folder` the images that a cache was made from, split as they were then.

    Args:
        dataset: the dataset's name; needed for one of the user's own, `package.module:name`.
        stream: as in `load_images`.

    Raises OptionError where the name is another, DataError where the images are not there, or are
    not these.
    """
    recorded = cache.manifest.dataset
    images = load_images(
        agreed(recorded.name, dataset, "--dataset", cache.path),
        folder,
        limit=recorded.limit,
        image_shape=recorded.image_shape,
        split_seed=recorded.split_seed or 0,
        stream=stream,
    )
    check_images_match(cache, images)
    return images


def check_images_match(cache: Cache, images: ImageData) -> None:
    """Raise DataError unless the cache was made from these images, labels and order."""
    expected = cache.manifest.dataset.class_names
    if images.class_names != expected:
        raise DataError(
            f"the classes {', '.join(expected[:10])}",
            ", ".join(images.class_names[:10]),
            "correct --data",
        )
    for split, part in images.splits.items():
        cached = cache.splits[split]
        if len(part) != len(cached):
            raise DataError(
                f"{len(cached)} {split} images, as {cache.path} was made from",
                f"{len(part)}",
                "correct --data",
            )
        differing = np.flatnonzero(part.row_checksums() != cached.image_crc32)
        if len(differing):
            row = differing[0]
            first = f"{split} row {row}" + (f" ({part.files[row]})" if part.files else "")
            raise DataError(
                f"the images that {cache.path} was made from",
                f"{len(differing)} other images or labels, the first in {first}",
                "correct --data, or run phase one on these images",
            )

"""What the numbers in a cache may be, for whoever writes one and whoever opens one."""

import numpy as np

from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import Layout
from kdcache.config import SPLITS, UNLABELLED


def check_layout(layout: Layout, manifest: Manifest) -> None:
    """Raise ValueError unless the logits take the place that the manifest announces."""
    if len(layout.logits) != len(SPLITS):
        raise ValueError(f"{len(SPLITS)} splits, and logits of {len(layout.logits)}")
    for name, extent in zip(SPLITS, layout.logits, strict=True):
        split = manifest.splits[name]
        expected = split.rows * split.views * manifest.row_bytes
        if extent.size != expected:
            raise ValueError(
                f"splits.{name}: {expected} bytes of logits, and there are {extent.size}"
            )
    if layout.block_bytes % manifest.row_bytes:
        raise ValueError(f"teacher.classes: no whole rows in blocks of {layout.block_bytes} bytes")


def fault_in_rows(
    manifest: Manifest, split: str, views: np.ndarray, labels: np.ndarray
) -> str | None:
    """What a split's views int16 `(N, V, 5)` or labels int64 `(N,)` have that no cache can have.

    None where all is well. A view is no larger than the image and shows some of it; it may reach
    over the border. View 0 is the whole image. A label is the number of one of the classes; the
    last rows of the training split, but not all, may have none.
    """
    classes = len(manifest.dataset.class_names)
    labelled = max(1, np.count_nonzero(labels != UNLABELLED)) if split == "train" else len(labels)
    first = labels[:labelled]
    wrong = np.flatnonzero((first < 0) | (first >= classes))
    if len(wrong):
        row = wrong[0]
        return f"{split} row {row}: label {labels[row]}, and there are {classes} classes"
    shape = np.array(manifest.dataset.image_shape)
    start, sides, flip = views[..., 0:2].astype(int), views[..., 2:4].astype(int), views[..., 4]
    sound = ((sides >= 1) & (sides <= shape) & (start > -sides) & (start < shape)).all(-1)
    sound &= (flip == 0) | (flip == 1)
    sound[:, 0] &= (views[:, 0] == (0, 0, *shape, 0)).all(-1)
    if sound.all():
        return None
    row, view = np.argwhere(~sound)[0]
    box = ", ".join(map(str, views[row, view]))
    return f"{split} row {row}: view {view} is ({box}) of an image of {shape[0]} x {shape[1]}"


def are_finite(logits: bytes) -> bool:
    """Whether float16 logits are finite: their exponents are not all ones."""
    numbers = np.frombuffer(logits, "<u2")
    return bool((numbers & 0x7FFF).max(initial=0) < 0x7C00)

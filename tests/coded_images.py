"""Folders of image files that tests write; each image says which one it is."""

from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.data import Split


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def coded(label: int, number: int, height: int = 6, width: int = 6) -> np.ndarray:
    """An image that tells its class (red) and its number in it (green); blue counts the columns."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = label, number, np.arange(width)
    return pixels


def write_folder(
    root: Path, counts: dict[str, int], splits: tuple[str, ...] = ("train", "test")
) -> Path:
    for offset, split in zip((0, 100, 200), splits, strict=False):
        for label, (name, count) in enumerate(sorted(counts.items())):
            for number in range(count):
                save_png(root / split / name / f"{number:03}.png", coded(label, number + offset))
    return root


def numbers(split: Split) -> list[tuple[int, int]]:
    """(label, number within the class) of every row, after checking that pixels and label agree."""
    assert (split.images[:, 0, 0, 0] == split.labels).all()
    return list(zip(split.labels.tolist(), split.images[:, 1, 0, 0].tolist(), strict=True))

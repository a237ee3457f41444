"""One reader for datasets, folders and predictions: 16 bits, upright, and bounded work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded_images import coded, save_png, write_folder
from PIL import Image

from kdcache.data import load_images, read_image
from kdcache.errors import DataError

ORIENTATION = 0x0112


def read(path: Path, height: int, width: int) -> np.ndarray:
    return read_image(path, (height, width)).numpy()


def turned(image: Image.Image, orientation: int, path: Path) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)
    return path


class TestSixteenBits:
    """The upper 8 bits: 0x0102 becomes 0x01, and 0xFFFF becomes 0xFF."""

    VALUES = np.array([[0x0000, 0x0102, 0x7FFF], [0x8000, 0xFE00, 0xFFFF]], np.uint16)
    UPPER = ((0x00, 0x01, 0x7F), (0x80, 0xFE, 0xFF))

    @pytest.mark.parametrize("suffix", ["png", "tiff"])
    def test_grey(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(self.VALUES).save(path)
        assert (read(path, 2, 3) == np.array(self.UPPER)).all()

    def test_a_portable_grey_map(self, tmp_path: Path) -> None:
        path = tmp_path / "image.pgm"
        path.write_bytes(b"P5 3 2 65535\n" + self.VALUES.astype(">u2").tobytes())
        assert (read(path, 2, 3) == np.array(self.UPPER)).all()

    def test_in_a_dataset(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 2, "b": 2})
        grey = np.arange(36, dtype=np.uint16).reshape(6, 6) << 10
        Image.fromarray(grey).save(tmp_path / "test" / "a" / "000.png")
        first = load_images("folder", tmp_path).splits["test"].images[0]
        assert (first.numpy() == np.arange(36).reshape(6, 6) * 4).all()

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_whose_range_nobody_knows_is_refused(self, kind: type, tmp_path: Path) -> None:
        path = tmp_path / "image.tiff"
        Image.fromarray(np.ones((2, 3), kind)).save(path)
        with pytest.raises(DataError, match="it has 32 bits a pixel, and nobody knows which"):
            read(path, 2, 3)


class TestUpright:
    """Blue counts the columns of the stored pixels; they are 4 wide and 3 high."""

    @pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
    @pytest.mark.parametrize(
        ("orientation", "blue"),
        [
            (1, [[0, 1, 2, 3]] * 3),
            (3, [[3, 2, 1, 0]] * 3),
            (6, [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]),  # turned to the right
            (8, [[3, 3, 3], [2, 2, 2], [1, 1, 1], [0, 0, 0]]),  # to the left
        ],
    )
    def test_as_exif_says(
        self, orientation: int, blue: list[list[int]], suffix: str, tmp_path: Path
    ) -> None:
        image = Image.fromarray(coded(0, 0, 3, 4))
        path = tmp_path / f"image.{suffix}"
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        assert read(path, len(blue), len(blue[0]))[2].tolist() == blue

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("suffix", ["png", "tiff", "jpg"])
    def test_a_datasets_images_have_the_size_that_they_have_upright(
        self, suffix: str, stream: bool, tmp_path: Path
    ) -> None:
        for split in ("train", "test"):
            for name in "ab":
                (tmp_path / split / name).mkdir(parents=True)
                image = Image.fromarray(coded(0, 0, 3, 4))
                turned(image, 6, tmp_path / split / name / f"0.{suffix}")
                turned(image, 6, tmp_path / split / name / f"1.{suffix}")
        assert load_images("folder", tmp_path, stream=stream).image_shape == (4, 3)


class TestLongImages:
    @pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
    def test_only_what_stays_is_resized(
        self, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of it, covering 32 x 32, would be 1,920,000 x 32 pixels."""
        asked, resize = [], Image.Image.resize

        def watched(image: Image.Image, to: tuple[int, int], *arguments: Any) -> Image.Image:
            asked.append(to)
            return resize(image, to, *arguments)

        monkeypatch.setattr(Image.Image, "resize", watched)
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "image.png")
        image = read(tmp_path / "image.png", 32, 32)
        assert (image == np.array([10, 200, 30])[:, None, None]).all()
        assert asked == [(32, 32)]

    def test_it_is_the_centre(self, tmp_path: Path) -> None:
        """400 x 4 pixels cover 8 x 8 at 800 x 8: columns 396 to 403, of the source 198 to 201."""
        pixels = np.zeros((4, 400, 3), np.uint8)
        pixels[:, 198:202] = 255
        save_png(tmp_path / "image.png", pixels)
        image = read(tmp_path / "image.png", 8, 8)
        assert (image[:, :, 1:-1] == 255).all()
        assert (image[:, :, [0, -1]] > 127).all()  # beside black, at the edge of what is seen

"""The sheets of images are there, and on them what should be; single images find a window."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pictures import LONG_NAME, NAMES, pixels

from kdcache.report import image_sheets
from kdcache.report.plot_style import DPI


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 32, 32), (10, 224, 224), (3, 20, 60), (3, 60, 20)]
)
def test_view_sheet(count: int, height: int, width: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), np.uint8)
    labels = np.arange(count) % 10
    image_sheets.view_sheet(
        images, labels, labels, 9 - labels, [LONG_NAME, *NAMES[1:]], tmp_path / "views.png"
    )
    picture = pixels(tmp_path / "views.png")
    assert abs(picture.shape[1] - 150 * (1.84 * min(count, 8) + 0.14)) < 50


def test_view_sheet_keeps_the_pixels_of_an_image(tmp_path: Path) -> None:
    image = np.zeros((1, 3, 2, 2), np.uint8)
    image[0, :, 0, 1] = (255, 0, 0)
    image[0, :, 1, 0] = (0, 0, 255)
    image_sheets.view_sheet(image, [0], None, [0], NAMES, tmp_path / "views.png")
    picture = pixels(tmp_path / "views.png")
    tile = round(1.7 * DPI)
    for colour, quarters in (((1, 0, 0), 1), ((0, 0, 1), 1), ((0, 0, 0), 2)):
        assert abs((picture == colour).all(axis=2).sum() - quarters * tile**2 / 4) < 6 * tile
    rows, columns = np.nonzero((picture == (1, 0, 0)).all(axis=2))
    assert rows.max() < np.nonzero((picture == (0, 0, 1)).all(axis=2))[0].min(), (
        "row 0 is above row 1"
    )
    assert columns.min() > tile / 2, "column 1 is to the right"


def test_view_sheet_marks_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(image_sheets, "save_png", lambda figure, path: figures.append(figure))
    images = np.zeros((2, 3, 4, 4), np.uint8)
    image_sheets.view_sheet(images, [3, 5], [3, 3], [5, 5], NAMES, tmp_path)
    image_sheets.view_sheet(
        images[:1], [3], [1], [3], NAMES, tmp_path, teacher_names=("tabby", "tiger cat")
    )
    image_sheets.view_sheet(images[:1], [None], [3], [5], NAMES, tmp_path)
    told = [
        [text.get_text() for text in figure.axes[0].texts if text.get_text()] for figure in figures
    ]
    assert told[2] == ["label", "none", "teacher", "·", "cat", "student", "·", "dog"]
    assert told[0] == [
        "label", "cat", "teacher", "✓", "cat", "student", "✗", "dog",
        "label", "dog", "teacher", "✗", "cat", "student", "✓", "dog",
    ]  # fmt: skip
    assert told[1] == ["label", "cat", "teacher", "·", "tiger cat", "student", "✓", "cat"]


def test_prediction_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(image_sheets, "save_png", lambda figure, path: figures.append(figure))
    images = np.zeros((2, 3, 4, 4), np.uint8)
    predictions = [[("cat", 0.75), ("dog", 0.25)], [("cat", 0.996), ("dog", 0.004)]]
    for native in (None, ("tabby", "collie")):
        image_sheets.prediction_sheet(
            images, ["cat", "dog"], predictions, native, tmp_path, columns=2
        )
    told = [
        [text.get_text() for text in figure.axes[0].texts if text.get_text()] for figure in figures
    ]
    assert told[0] == [
        "label", "cat", "75 %", "✓", "cat", "25 %", "dog",
        "label", "dog", "100 %", "cat", "0 %", "✓", "dog",
    ]  # fmt: skip
    assert [told[1][7:9], told[1][-2:]] == [["teacher", "tabby"], ["teacher", "collie"]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_single_image_as_a_file(dtype: type, tmp_path: Path) -> None:
    image = np.full((3, 8, 8), 255 if dtype == np.uint8 else 1, dtype)
    image[1:] = 0
    image_sheets.save_image(image, "cat", LONG_NAME, tmp_path / "one.png")
    picture = pixels(tmp_path / "one.png")
    assert (picture == (1, 0, 0)).all(axis=2).mean() > 0.5


class TestWindow:
    """A window is shown where matplotlib's backend opens one; without a display it does not."""

    IMAGE = np.zeros((3, 8, 8), np.uint8)

    @pytest.fixture(autouse=True)
    def no_figures(self) -> Iterator[None]:
        """Begins with a backend for files, as without a display, and leaves no figure behind."""
        pyplot.switch_backend("agg")
        yield
        assert pyplot.get_fignums() == []
        pyplot.close("all")

    def test_a_backend_for_files(self) -> None:
        assert image_sheets.show_image(self.IMAGE, "cat", None) is False

    def test_a_figure_of_the_users_own_stays(self) -> None:
        own = pyplot.figure("own")
        assert image_sheets.show_image(self.IMAGE, "cat", None) is False
        assert pyplot.get_figlabels() == ["own"]
        pyplot.close(own)

    @pytest.mark.parametrize(
        "backend", ["tkagg", "qtagg", "module://absent", "module://matplotlib_inline"]
    )
    def test_a_backend_that_cannot_be_loaded_here(
        self, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where no display answers, and where its package is missing."""
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.setenv("DISPLAY", ":987")
        program = (
            "import matplotlib, numpy\n"
            f"matplotlib.use({backend!r}, force=False)\n"
            "from kdcache.report import image_sheets\n"
            "shown = image_sheets.show_image(numpy.zeros((3, 8, 8), 'uint8'), 'cat', None)\n"
            "assert shown is False, shown"
        )
        command = [sys.executable, "-W", "error", "-c", program]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert finished.returncode == 0, finished.stderr

    @pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")
    def test_single_images_share_one_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "tk")
        for label in ("cat", "dog"):
            assert image_sheets.show_image(self.IMAGE, label, None) is True
        assert pyplot.get_figlabels() == ["kdcache"]
        texts = [text.get_text() for text in pyplot.figure("kdcache").axes[0].texts]
        assert texts == ["label", "", "dog"]
        pyplot.close("all")

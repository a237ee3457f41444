"""The pictures are there, whole, and on them what should be."""

import math
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image as pictures

from kdcache.errors import KdcacheError
from kdcache.report import figures as report

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LONG_NAME = "African hunting dog, hyena dog, Cape hunting dog, Lycaon pictus"


def pixels(path: Path) -> np.ndarray:
    """The picture, float `(height, width, 3)`, after a look at whether there is anything on it."""
    picture = pictures.imread(path)[:, :, :3]
    assert picture.std() > 0.02
    for border in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (border == 1).all(), "something reaches the edge"
    return picture


def history(epochs: int, **changes: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, "validation_loss": 2.5 / epoch,
            "train_accuracy": 1 - 0.9 / epoch, "validation_accuracy": 0.9 - 0.8 / epoch, "agreement": 0.5,
            "label_loss": 1 / epoch, "distillation_loss": 3 / epoch, **changes,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def test_learning_curves_of_few_and_many_epochs(tmp_path):
    for epochs in (1, 200):
        report.learning_curves(history(epochs), tmp_path / "curves.png")
        height, width, _ = pixels(tmp_path / "curves.png").shape
        assert 1500 < width < 2500 and 400 < height < 800


@pytest.mark.filterwarnings("error")
def test_learning_curves_of_a_run_that_diverged(tmp_path):
    diverged = history(3) + history(
        2, train_loss=math.nan, validation_loss=math.inf, label_loss=None
    )
    for epoch, record in enumerate(diverged, 1):
        record["epoch"] = epoch
    report.learning_curves(diverged, tmp_path / "late.png")
    report.learning_curves(
        history(2, train_loss=math.nan, validation_accuracy=math.nan), tmp_path / "at-once.png"
    )
    for name in ("late.png", "at-once.png"):
        pixels(tmp_path / name)


def test_learning_curves_without_what_is_optional(tmp_path):
    optional = ("agreement", "label_loss", "distillation_loss")
    records = [
        {key: value for key, value in record.items() if key not in optional}
        for record in history(3)
    ]
    report.learning_curves(records, tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


def test_best_epoch_passes_over_what_is_not_finite():
    records = history(3)
    records[2]["validation_accuracy"] = math.nan
    assert report._best_epoch(records) == ": best validation 50.0 % at epoch 2"
    assert report._best_epoch(history(2, validation_accuracy=math.nan)) == ""


@given(st.lists(st.floats(0, 1), max_size=6))
def test_labels_are_spread_in_their_order(positions):
    placed = report._spread(positions, 0.07)
    assert (np.diff(np.sort(placed)) > 0.0699).all()
    assert (np.diff(np.array(placed)[np.argsort(positions, kind="stable")]) > 0).all()
    assert max(placed, default=0) <= 1 + 1e-9


@pytest.mark.parametrize("classes", [1, 10, 300])
def test_confusion_matrix(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 3, (classes, classes)) + 30 * np.eye(
        classes, dtype=int
    )
    counts[0] = 0  # a class without images
    names = [
        LONG_NAME if index % 3 else f"{NAMES[index % 10]} $ {index}" for index in range(classes)
    ]
    report.confusion_matrix(counts, names, tmp_path / "confusion.png")
    height, width, _ = pixels(tmp_path / "confusion.png").shape
    assert 500 < height < 1700 and 500 < width < 1800


def test_confusion_matrix_shows_shares_of_the_row(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "_save", lambda figure, path: figures.append(figure))
    report.confusion_matrix(
        np.array([[3, 1, 0], [1, 399, 0], [0, 0, 0]]), ("cat", "dog", "owl"), tmp_path
    )
    report.confusion_matrix(np.eye(100, dtype=int), [str(index) for index in range(100)], tmp_path)
    small, large = (figure.axes[0] for figure in figures)
    assert {(text.get_position(), text.get_text()) for text in small.texts} == {
        ((0, 0), "75"), ((1, 0), "25"), ((0, 1), "<1"), ((1, 1), "100")
    }  # fmt: skip
    assert small.get_title(loc="left") == "99.5 % of 404 images right"
    assert not large.texts
    assert [label.get_text() for label in large.get_yticklabels()][:3] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 32, 32), (10, 224, 224), (3, 20, 60), (3, 60, 20)]
)
def test_view_sheet(tmp_path, count, height, width):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), np.uint8)
    labels = np.arange(count) % 10
    report.view_sheet(
        images, labels, labels, 9 - labels, [LONG_NAME, *NAMES[1:]], tmp_path / "views.png"
    )
    picture = pixels(tmp_path / "views.png")
    assert abs(picture.shape[1] - 150 * (1.84 * min(count, 8) + 0.14)) < 50


def test_view_sheet_keeps_the_pixels_of_an_image(tmp_path):
    image = np.zeros((1, 3, 2, 2), np.uint8)
    image[0, :, 0, 1] = (255, 0, 0)
    image[0, :, 1, 0] = (0, 0, 255)
    report.view_sheet(image, [0], None, [0], NAMES, tmp_path / "views.png")
    picture = pixels(tmp_path / "views.png")
    tile = round(1.7 * report.DPI)
    for colour, quarters in (((1, 0, 0), 1), ((0, 0, 1), 1), ((0, 0, 0), 2)):
        assert abs((picture == colour).all(axis=2).sum() - quarters * tile**2 / 4) < 6 * tile
    rows, columns = np.nonzero((picture == (1, 0, 0)).all(axis=2))
    assert rows.max() < np.nonzero((picture == (0, 0, 1)).all(axis=2))[0].min(), (
        "row 0 is above row 1"
    )
    assert columns.min() > tile / 2, "column 1 is to the right"


def test_view_sheet_marks_what_is_wrong(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "_save", lambda figure, path: figures.append(figure))
    images = np.zeros((2, 3, 4, 4), np.uint8)
    report.view_sheet(images, [3, 5], [3, 3], [5, 5], NAMES, tmp_path)
    report.view_sheet(
        images[:1], [3], [1], [3], NAMES, tmp_path, teacher_names=("tabby", "tiger cat")
    )
    told = [
        [text.get_text() for text in figure.axes[0].texts if text.get_text()] for figure in figures
    ]
    assert told[0] == [
        "label", "cat", "teacher", "✓", "cat", "student", "✗", "dog",
        "label", "dog", "teacher", "✗", "cat", "student", "✓", "dog",
    ]  # fmt: skip
    assert told[1] == ["label", "cat", "teacher", "·", "tiger cat", "student", "✓", "cat"]


@given(st.text(st.characters(codec="latin-1"), max_size=80), st.booleans())
def test_texts_are_cut_to_the_room_they_have(text, keep_end):
    font = report.FontProperties(family="DejaVu Sans", size=8)
    with warnings.catch_warnings(action="ignore"):  # of characters that the font does not have
        fitted = report._fit(text, 1.0, 8, keep_end=keep_end)
        assert (
            report.text_to_path.get_text_width_height_descent(fitted, font, ismath=False)[0] <= 72
        )
    kept = fitted.replace("…", "")
    assert kept in " ".join(text.split()).replace("…", "")


def test_an_ellipsis_stands_for_what_was_cut():
    assert report._fit("frog", 1.0, 8) == "frog"
    assert report._fit(LONG_NAME, 1.0, 8) == "African hunting…"
    assert (
        report._fit("runs/demo/with-a-long-name/seed-1", 1.0, 8, keep_end=True) == "…g-name/seed-1"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_single_image_as_a_file(tmp_path, dtype):
    image = np.full((3, 8, 8), 255 if dtype == np.uint8 else 1, dtype)
    image[1:] = 0
    report.single_image(image, "cat", LONG_NAME, tmp_path / "one.png")
    picture = pixels(tmp_path / "one.png")
    assert (picture == (1, 0, 0)).all(axis=2).mean() > 0.5


def test_single_image_without_a_display(monkeypatch):
    monkeypatch.setattr(report, "has_window", lambda: False)
    message = (
        "expected a display to open a window on; found none; have the pictures written to a folder"
    )
    with pytest.raises(KdcacheError, match=message):
        report.single_image(np.zeros((3, 8, 8), np.uint8), "cat", None, None)


@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")
def test_single_images_share_one_window(monkeypatch):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    monkeypatch.setattr(report, "has_window", lambda: True)
    try:
        for label in ("cat", "dog"):
            report.single_image(np.zeros((3, 8, 8), np.uint8), label, None, None)
        assert pyplot.get_figlabels() == ["kdcache"]
        assert [text.get_text() for text in pyplot.figure("kdcache").axes[0].texts] == [
            "label",
            "",
            "dog",
        ]
    finally:
        pyplot.close("all")


def test_no_window_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    before = matplotlib.get_backend(auto_select=False)
    assert report.has_window() is False
    assert matplotlib.get_backend(auto_select=False) == before


def test_no_window_where_the_display_does_not_answer(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert report.has_window() is False


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (None, True),
        ("tkagg", True),
        ("qtagg", False),
        ("agg", False),
        ("webagg", False),
        ("module://absent", False),
    ],
)
def test_a_window_needs_a_display_and_a_toolkit(monkeypatch, backend, expected):
    monkeypatch.setattr(report._c_internal_utils, "display_is_valid", lambda: True)
    monkeypatch.setattr(report, "find_spec", lambda name: object() if name == "_tkinter" else None)
    monkeypatch.setattr(matplotlib, "get_backend", lambda auto_select: backend)
    assert report.has_window() is expected


def test_a_picture_that_cannot_be_written(tmp_path):
    path = tmp_path / "missing" / "curves.png"
    message = f"expected room and the right to write {path}; found No such file or directory; give another folder"
    with pytest.raises(KdcacheError, match=message):
        report.learning_curves(history(1), path)


def test_style_of_others_is_left_alone(tmp_path):
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        report.comparison_chart([], tmp_path / "chart.png")
        assert dict(matplotlib.rcParams) == before
    assert pixels(tmp_path / "chart.png").mean() > 0.9


def test_comparison_chart(tmp_path):
    long = "runs/a-very-long/folder-name/that-goes-on/and-on/seed-1"
    scores = {"teacher": "89.00", "runs/labels": "70.00", long: "95.00", "bad": "2.00"}
    kinds = ("teacher, probe", "labels only", "distilled", "distilled")
    rows = [
        {"name": name, "model": "resnet18", "kind": kind, "test %": score}
        for (name, score), kind in zip(scores.items(), kinds, strict=True)
    ]
    report.comparison_chart(rows, tmp_path / "chart.png")
    height, width, _ = pixels(tmp_path / "chart.png").shape
    assert 1000 < width < 1400 and 300 < height < 700

"""The plots are there, whole, and on them what should be."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import LONG_NAME, NAMES, pixels

from kdcache.errors import DataError
from kdcache.report import plots
from kdcache.runs.records import EpochRecord


def history(epochs: int, **changes: Any) -> list[EpochRecord]:
    records = []
    for epoch in range(1, epochs + 1):
        record = EpochRecord(
            epoch=epoch,
            lr=0.1 / epoch,
            train_loss=2 / epoch,
            validation_loss=2.5 / epoch,
            train_accuracy=1 - 0.9 / epoch,
            validation_accuracy=0.9 - 0.8 / epoch,
            agreement=0.5,
            label_loss=1 / epoch,
            distillation_loss=3 / epoch,
        )
        records.append(dataclasses.replace(record, **changes))
    return records


def test_learning_curves_of_few_and_many_epochs(tmp_path: Path) -> None:
    for epochs in (1, 200):
        plots.learning_curves(history(epochs), tmp_path / "curves.png")
        height, width, _ = pixels(tmp_path / "curves.png").shape
        assert 1500 < width < 2500 and 400 < height < 800


@pytest.mark.filterwarnings("error")
def test_learning_curves_of_a_run_that_diverged(tmp_path: Path) -> None:
    diverged = history(3) + history(
        2, train_loss=math.nan, validation_loss=math.inf, label_loss=None
    )
    diverged = [dataclasses.replace(each, epoch=epoch) for epoch, each in enumerate(diverged, 1)]
    plots.learning_curves(diverged, tmp_path / "late.png")
    plots.learning_curves(
        history(2, train_loss=math.nan, validation_accuracy=math.nan), tmp_path / "at-once.png"
    )
    for name in ("late.png", "at-once.png"):
        pixels(tmp_path / name)


def test_learning_curves_without_what_is_optional(tmp_path: Path) -> None:
    records = history(3, agreement=None, label_loss=None, distillation_loss=None)
    plots.learning_curves(records, tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


def test_best_epoch_passes_over_what_is_not_finite() -> None:
    records = [*history(2), *history(1, epoch=3, validation_accuracy=math.nan)]
    assert plots._best_epoch(records) == ": best validation 50.0 % at epoch 2"
    assert plots._best_epoch(history(2, validation_accuracy=math.nan)) == ""


@given(st.lists(st.floats(0, 1), max_size=6))
def test_labels_are_spread_in_their_order(positions: list[float]) -> None:
    placed = plots._spread(positions, 0.07)
    assert (np.diff(np.sort(placed)) > 0.0699).all()
    assert (np.diff(np.array(placed)[np.argsort(positions, kind="stable")]) > 0).all()
    assert max(placed, default=0) <= 1 + 1e-9


@pytest.mark.parametrize(("first", "scale"), [(60.0, "log"), (8.0, "linear")])
def test_an_early_spike_does_not_flatten_the_curves(
    first: float, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(plots, "save_png", lambda figure, path: figures.append(figure))
    steady = history(9, train_loss=2.0, validation_loss=2.0, label_loss=2.0, distillation_loss=2.0)
    plots.learning_curves([dataclasses.replace(steady[0], train_loss=first), *steady[1:]], tmp_path)
    losses = figures[0].axes[0]
    assert losses.get_yscale() == scale
    assert ("log scale" in losses.get_ylabel()) == (scale == "log")
    monkeypatch.undo()
    plots.learning_curves(steady, tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


@pytest.mark.parametrize("classes", [1, 10, 300])
def test_confusion_matrix(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 3, (classes, classes)) + 30 * np.eye(
        classes, dtype=int
    )
    counts[0] = 0  # a class without images
    names = [
        LONG_NAME if index % 3 else f"{NAMES[index % 10]} $ {index}" for index in range(classes)
    ]
    plots.confusion_matrix(counts, names, tmp_path / "confusion.png")
    height, width, _ = pixels(tmp_path / "confusion.png").shape
    assert 500 < height < 1700 and 500 < width < 1800


def test_confusion_matrix_shows_percentages_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(plots, "save_png", lambda figure, path: figures.append(figure))
    plots.confusion_matrix(
        # 1 of 200 is exactly 0.5 %, which is neither 0 nor nothing
        np.array([[3, 1, 0], [1, 199, 0], [0, 0, 0]]),
        ("cat", "dog", "owl"),
        tmp_path,
    )
    plots.confusion_matrix(np.eye(100, dtype=int), [str(index) for index in range(100)], tmp_path)
    small, large = (figure.axes[0] for figure in figures)
    assert {(text.get_position(), text.get_text()) for text in small.texts} == {
        ((0, 0), "75"), ((1, 0), "25"), ((0, 1), "<1"), ((1, 1), "100")
    }  # fmt: skip
    assert small.get_title(loc="left") == "99.0 % accuracy on 204 images"
    assert not large.texts
    assert [label.get_text() for label in large.get_yticklabels()][:3] == ["0", "2", "4"]


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "curves.png"
    message = f"expected room and the right to write {path}; found No such file or directory; make"
    with pytest.raises(DataError, match=message):
        plots.learning_curves(history(1), path)


def test_style_of_others_is_left_alone(tmp_path: Path) -> None:
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        plots.comparison_chart([], tmp_path / "chart.png")
        assert dict(matplotlib.rcParams) == before
    assert pixels(tmp_path / "chart.png").mean() > 0.9


def test_comparison_chart(tmp_path: Path) -> None:
    long = "runs/a-very-long/folder-name/that-goes-on/and-on/seed-1"
    scores = {"teacher": "89.00", "runs/labels": "70.00", long: "95.00", "bad": "2.00"}
    kinds = ("teacher, probe", "labels only", "distilled", "distilled")
    rows = [
        {"name": name, "model": "resnet18", "kind": kind, "test %": score}
        for (name, score), kind in zip(scores.items(), kinds, strict=True)
    ]
    plots.comparison_chart(rows, tmp_path / "chart.png")
    height, width, _ = pixels(tmp_path / "chart.png").shape
    assert 1000 < width < 1400 and 300 < height < 700


@pytest.mark.parametrize("classes", [2, 60])
def test_soft_target_sheet(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entropies = {f"T={t}": np.linspace(0, np.log(classes), 50) ** (1 / t) for t in (1, 2, 4)}
    names = [f"{LONG_NAME} {index}" for index in range(classes)]
    by_label = np.full((classes, classes), 1 / classes)
    figures = []
    monkeypatch.setattr(plots, "save_png", lambda figure, path: figures.append(figure))
    plots.soft_target_sheet(entropies, by_label, names, tmp_path)
    spread, alike = figures[0].axes[:2]
    (legend, title), figure = (spread.get_legend(), spread._left_title), figures[0]
    assert [text.get_text() for text in legend.get_texts()] == list(entropies)
    figure.draw_without_rendering()
    place = legend.get_window_extent()
    assert place.y0 >= spread.get_window_extent().y1  # above all curves
    assert place.x0 > title.get_window_extent().x1
    assert len(alike.get_yticklabels()) == min(classes, 30)
    (colours,) = alike.images
    assert np.asarray(colours.get_array()) == pytest.approx(100 * by_label)
    monkeypatch.undo()
    plots.soft_target_sheet(entropies, by_label, names, tmp_path / "targets.png")
    pixels(tmp_path / "targets.png")

"""info, against what is known to be in a small cache."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run

from kdcache.cache import open_cache
from kdcache.cli import main as tools
from kdcache.data import ImageData
from kdcache.distill import accuracy, entropy, make_targets, soften
from kdcache.report import image_sheets
from kdcache.report.cache_summary import summarize_cache


def test_json_says_what_is_in_it(shapes_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(tools.main, "info", shapes_cache, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    opened = open_cache(shapes_cache)
    assert facts["fingerprint"] == opened.fingerprint
    assert facts["bytes"] == shapes_cache.stat().st_size
    assert facts["splits"]["train"] == {"rows": 80, "views": 3}
    predictions = make_targets(opened, "probe").predictions["validation"].argmax(1).numpy()
    labels = opened.splits["validation"].labels
    assert facts["teacher_validation_accuracy"] == pytest.approx((predictions == labels).mean())
    by_class = facts["teacher_validation_accuracy_by_class"]
    assert by_class["circle"] == pytest.approx((predictions == labels)[labels == 0].mean())
    # 2 images a class
    assert np.mean(list(by_class.values())) == pytest.approx(facts["teacher_validation_accuracy"])
    means = [facts["soft_target_entropy"][f"T={t}"]["mean"] for t in (1, 2, 4)]
    assert means[0] < means[1] < means[2] <= np.log(10)


def test_a_table_and_a_picture(
    shapes_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tools.main, "info", shapes_cache, "--soft-targets", tmp_path / "targets.png") == 0
    printed = capsys.readouterr().out
    assert "80 x 3 train, 20 x 1 validation, 100 x 1 test" in printed
    assert "every byte in" in printed and "GB/s" in printed
    assert (tmp_path / "targets.png").stat().st_size > 10_000


def test_the_picture_shows_views_and_top_predictions(
    shapes_cache: Path,
    shapes_images: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[str, object] = {}
    sheet = image_sheets.prediction_sheet

    def recorded(
        tiles: np.ndarray,
        labels: list[str],
        predictions: list,
        own: object,
        path: Path,
        *,
        columns: int,
    ) -> None:
        drawn.update(tiles=tiles, labels=labels, predictions=predictions, own=own, columns=columns)
        sheet(tiles, labels, predictions, own, path, columns=columns)

    monkeypatch.setattr(image_sheets, "prediction_sheet", recorded)
    assert run(tools.main, "info", shapes_cache, "--picture", tmp_path / "predictions.png") == 0
    assert (tmp_path / "predictions.png").stat().st_size > 10_000
    # the first tiles are image 0 in views 0, 1 and 2; view 0 is the image as it is
    train, names = shapes_images.splits["train"], shapes_images.class_names
    np.testing.assert_array_equal(drawn["tiles"][0], train.images[0].numpy())
    assert drawn["labels"][:3] == [names[train.labels[0]]] * 3 and drawn["columns"] == 6
    expected = torch.softmax(
        make_targets(open_cache(shapes_cache), "probe").train["student"][0, 1], 0
    ).topk(3)
    assert [name for name, _ in drawn["predictions"][1]] == [
        names[label] for label in expected.indices
    ]
    probabilities = [probability for _, probability in drawn["predictions"][1]]
    assert probabilities == pytest.approx(expected.values.tolist())


def test_checksums_can_be_skipped(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "block 1 of the logits" in refused(tools.main, capsys, "info", damaged)
    assert run(tools.main, "info", damaged, "--skip-checksums") == 0
    assert "all but the logits" in capsys.readouterr().out


def test_the_summary_holds_what_the_picture_shows(shapes_cache: Path) -> None:
    summary = summarize_cache(shapes_cache)
    targets = make_targets(open_cache(shapes_cache), "probe")
    assert list(summary.entropies) == ["T=1", "T=2", "T=4"]
    expected = entropy(soften(targets.train["student"], 2.0))[7, 1]  # 3 views an image
    assert summary.entropies["T=2"][7 * 3 + 1] == pytest.approx(expected.item())
    labels = torch.from_numpy(summary.cache.splits["validation"].labels)
    logits = targets.predictions["validation"]
    assert summary.facts["teacher_validation_accuracy"] == accuracy(labels, logits)
    of_class_4 = soften(logits[labels == 4], 1.0).mean(0)
    assert summary.by_label[4] == pytest.approx(of_class_4.numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.h5", "expected a finished cache; found none.h5: No such file or directory"),
        (__file__, "which is something else; give another file"),
        ("/", "expected a cache file; found /, which is not a file"),
    ],
)
def test_what_is_no_cache_is_refused(
    file: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(tools.main, capsys, "info", file)

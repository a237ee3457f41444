"""What a student must be able to do before its run begins, and how a diverged one ends."""

import json
from pathlib import Path

import pytest
import torch
from commands import refused, run
from finished_runs import write_run

import train_student
from kdcache.cli.main import main
from kdcache.config import TrainOptions
from kdcache.data import ImageData
from kdcache.engine import Trainer, build_student
from kdcache.engine.resolve import resolve_config
from kdcache.runs import read_summary

Capture = pytest.CaptureFixture[str]
SHAPES = ["--dataset", "shapes", "--limit", 100, "--alpha", 0, "--epochs", 2]
PIXEL = ["--student", "tiny_models:down_to_one_pixel", "--image-size", 8]


class TestRefused:
    """In one line, and a run that is there is not replaced."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                [*PIXEL, "--batch-size", 1],
                "expected a student that trains on batches of 1 x 3 x 8 x 8;"
                " found tiny_models:down_to_one_pixel: Expected more than 1 value per channel",
            ),
            # 11 images in batches of 2: five of two, one of one
            ([*PIXEL, "--batch-size", 2, "--train-images", 11], "batches of 1 x 3 x 8 x 8"),
            (
                ["--student", "inception_v3", "--student-weights", "none", "--image-size", "32"],
                "expected a student that trains on batches of 2 x 3 x 32 x 32; found inception_v3:",
            ),
            (
                ["--student", "tiny_models:pair", "--image-size", 8],
                "expected a model that returns logits (B, classes), or an object with them as"
                " .logits; found tuple; let the model return its logits alone",
            ),
            (
                ["--student", "tiny_models:headless", "--image-size", 8],
                "expected a student that returns logits (2, 10);"
                " found tiny_models:headless: (2, 192)",
            ),
        ],
        ids=["one", "last of one", "too large", "tuple", "outputs"],
    )
    @pytest.mark.filterwarnings("ignore:The default weight initialization")  # torchvision's
    def test_before_anything_is_written(
        self, arguments: list[object], message: str, tmp_path: Path, capsys: Capture
    ) -> None:
        out = write_run(tmp_path / "run", 0.5)
        before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
        command = [*SHAPES, *arguments, "--out", out, "--overwrite"]
        assert message in refused(train_student.main, capsys, *command)
        assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before

    def test_a_batch_of_one_is_fine_where_the_student_can(self, tmp_path: Path) -> None:
        student = ["--student", "tiny_models:tiny_cnn", "--image-size", 8, "--batch-size", 1]
        out = tmp_path / "run"
        assert run(train_student.main, *SHAPES, *student, "--train-images", 10, "--out", out) == 0


def test_the_check_leaves_buffers_and_generators(shapes_images: ImageData) -> None:
    options = TrainOptions(
        student="tiny_models:tiny_cnn", image_size=8, alpha=0.0, precision="fp32"
    )
    config = resolve_config(options, shapes_images, None, torch.device("cpu"))
    model, before = build_student(config), torch.get_rng_state()
    buffers = [buffer.clone() for buffer in model.module.buffers()]
    Trainer(config, model, shapes_images, None, None, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, model.module.buffers(), buffers))


@pytest.mark.parametrize("loss", [5e21, float("nan"), float("inf")])
def test_a_validation_loss_that_explodes_is_a_run_that_diverged(
    loss: float, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.engine.student.label_loss", lambda *_: torch.tensor(loss))
    student = ["--student", "tiny_models:tiny_cnn", "--image-size", 8]
    message = refused(train_student.main, capsys, *SHAPES, *student, "--out", tmp_path / "run")
    assert message == (
        f"error: expected a finite validation loss that does not explode; found {loss:.3g} after"
        " epoch 1; try a smaller --lr, a longer --warmup or --precision fp32"
    )
    assert not (tmp_path / "run" / "summary.json").exists()


class TestClassAccuracy:
    def test_the_summary_has_that_of_each_class(self, tmp_path: Path, capsys: Capture) -> None:
        student = ["--student", "tiny_models:tiny_cnn", "--image-size", 8]
        assert run(train_student.main, *SHAPES, *student, "--out", tmp_path / "run") == 0
        summary = read_summary(tmp_path / "run")
        assert summary is not None
        # as many images of each of the ten classes: their mean is the accuracy
        for own, whole in (
            (summary.validation_class_accuracy, summary.validation_accuracy),
            (summary.test_class_accuracy, summary.test_accuracy),
        ):
            assert own is not None and len(own) == 10
            assert sum(own) / 10 == pytest.approx(whole, abs=1e-6)
        assert run(main, "compare", tmp_path / "run", "--json", tmp_path / "c.json") == 0
        comparison = json.loads((tmp_path / "c.json").read_text())
        assert len(comparison["class_names"]) == 10
        assert comparison["rows"][0]["test_class_accuracy"] == summary.test_class_accuracy

    def test_of_several_seeds_it_is_the_mean(self, tmp_path: Path, capsys: Capture) -> None:
        for seed, first in enumerate((0.25, 0.75)):
            own = {"validation_class_accuracy": None, "test_class_accuracy": [first, None, 1, 0]}
            write_run(tmp_path / f"{seed}", 0.5, seed=seed, **own)
        files = ["--json", tmp_path / "c.json", "--csv", tmp_path / "c.csv"]
        assert run(main, "compare", tmp_path, *files) == 0
        (row,) = json.loads((tmp_path / "c.json").read_text())["rows"]
        assert row["test_class_accuracy"] == [0.5, None, 1, 0]
        assert row["validation_class_accuracy"] is None
        assert "class_accuracy" not in (tmp_path / "c.csv").read_text()


def test_a_teacher_is_not_measured_on_its_own_labels(
    shapes_cache: Path, tmp_path: Path, capsys: Capture
) -> None:
    student = ["--student", "tiny_models:tiny_cnn", "--image-size", 8, "--epochs", 2]
    arguments = ["--cache", shapes_cache, "--labels", "teacher", *student]
    assert run(train_student.main, *arguments, "--out", tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert "the labels are the teacher's own predictions" in shown and "100.0" not in shown
    summary = read_summary(tmp_path / "run")
    assert summary is not None and summary.teacher is not None
    assert (summary.teacher.validation_accuracy, summary.teacher.test_accuracy) == (None, None)

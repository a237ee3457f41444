"""Both phases from their command lines, and what they leave."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from commands import refused, run
from phases import SHAPES, TINY_STUDENT, TINY_TEACHER, VIEWS

import precompute_teacher
import train_student
from kdcache.cache.reader import open_cache
from kdcache.cli import main as tools
from kdcache.engine.teacher import Teacher


def test_both_phases_leave_what_they_promise(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train_student.main, "--cache", cache, *TINY_STUDENT, "--out", out) == 0

    assert {path.name for path in out.iterdir()} == {
        "config.json", "metrics.jsonl", "last.pt", "best.pt", "student.pt", "student.json",
        "summary.json", "predictions.pt", "curves.png", "confusion.png", "views.png",
        "lock",
    }  # fmt: skip
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(0 <= record["agreement"] <= 1 for record in records)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fingerprint"] == open_cache(cache).fingerprint
    assert summary["views"] == "matched"
    best = max(record["validation_accuracy"] for record in records)
    assert summary["validation_accuracy"] == best
    assert "distilled" in capsys.readouterr().out


@pytest.mark.parametrize("script", [precompute_teacher, train_student])
def test_the_scripts_and_the_commands_are_the_same(
    script: object, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if script is precompute_teacher:
        arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", tmp_path / "teacher.h5"]
        assert run(tools.main, "precompute", *arguments) == 0
        assert (tmp_path / "teacher.h5").read_bytes() == cache.read_bytes()
        return
    arguments = ["--cache", cache, *TINY_STUDENT, "--epochs", 1, "--out"]
    assert run(train_student.main, *arguments, tmp_path / "script") == 0
    assert run(tools.main, "train", *arguments, tmp_path / "command") == 0
    first, second = (
        torch.load(tmp_path / name / "student.pt", weights_only=True)
        for name in ("script", "command")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_row_of_the_cache_is_the_teacher_on_that_image_and_view(cache: Path) -> None:
    """Recomputed row by row through torchvision's own crop, flip and resize."""
    from torchvision.transforms.v2 import functional

    from kdcache.data.datasets import load_images
    from kdcache.models.build import build_model
    from kdcache.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

    images = load_images("shapes", Path(), limit=100)
    module = build_model("tiny_models:tiny_teacher", None, seed=0).module.eval()
    opened = open_cache(cache)
    for split, part in opened.splits.items():
        for row in range(0, len(part), 7):
            image = images.splits[split].images[row]
            padded = functional.pad(image, [4, 4, 4, 4], padding_mode="reflect")
            for view, (top, left, height, width, flip) in enumerate(part.views[row].tolist()):
                crop = padded[:, top + 4 : top + 4 + height, left + 4 : left + 4 + width]
                crop = crop.float() / 255
                crop = functional.resize(crop.flip(-1) if flip else crop, [16, 16], antialias=True)
                inputs = functional.normalize(crop, IMAGENET_MEAN, IMAGENET_STD)
                with torch.inference_mode():
                    logits = module(inputs[None])[0].numpy()
                np.testing.assert_allclose(part.logits[row, view], logits, rtol=2e-3, atol=2e-3)


def test_a_student_of_torchvision_loads_without_kdcache(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    student = ["--student", "resnet18", "--student-weights", "none", "--image-size", 32]
    arguments = ["--cache", cache, *student, "--epochs", 1, "--projection", "head", "--out", out]
    assert run(train_student.main, *arguments) == 0
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(torch.load(out / "student.pt", weights_only=True))


def test_a_student_becomes_a_teacher_of_the_same_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = ["--student", "resnet18", "--student-weights", "none", "--small-stem", "--epochs", 1]
    assert run(train_student.main, *SHAPES, *student, "--alpha", 0, "--out", tmp_path / "run") == 0
    images = ["--dataset", "shapes", "--limit", 100]
    teacher = ["--teacher", "resnet18", "--teacher-weights", tmp_path / "run" / "student.pt"]
    path = tmp_path / "c.h5"
    assert run(precompute_teacher.main, *images, *teacher, "--cache", path) == 0
    manifest = open_cache(path).manifest
    assert manifest.input.image_size == 16
    assert manifest.teacher.class_names == manifest.dataset.class_names
    capsys.readouterr()
    second = ["--cache", path, *TINY_STUDENT, "--out", tmp_path / "second"]
    assert run(train_student.main, *second) == 0
    assert "as it is" in capsys.readouterr().out  # projection none is the default


def test_a_second_phase_one_computes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cache.read_bytes()
    arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", cache]
    assert run(precompute_teacher.main, *arguments) == 0
    assert "nothing was computed" in capsys.readouterr().out
    assert cache.read_bytes() == before


def test_labels_only_needs_no_cache(tmp_path: Path) -> None:
    arguments = [*SHAPES, *TINY_STUDENT, "--alpha", 0, "--out", tmp_path / "run"]
    assert run(train_student.main, *arguments) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["teacher"] is None


def test_an_own_augmentation_is_called_unmatched(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["--cache", cache, *TINY_STUDENT, "--augment", "crop-flip", "--out", out]
    assert run(train_student.main, *arguments) == 0
    assert "unmatched views" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["views"] == "unmatched"


def test_vis_leaves_one_picture_a_batch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out = tmp_path / "run"
    assert run(train_student.main, "--cache", cache, *TINY_STUDENT, "--vis", "--out", out) == 0
    pictures = list((out / "vis").glob("*.png"))
    assert len(pictures) == 6  # 80 images in batches of 32: 3 steps, 2 epochs


def test_a_resumed_run_equals_one_that_was_never_stopped(cache: Path, tmp_path: Path) -> None:
    arguments = ["--cache", cache, *TINY_STUDENT, "--epochs", 3]
    assert run(train_student.main, *arguments, "--out", tmp_path / "whole") == 0

    def interrupt(text: str) -> None:
        if text.startswith("epoch   2"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cli.console.Progress.say", lambda self, text: interrupt(text))
        assert run(train_student.main, *arguments, "--out", tmp_path / "cut") == 130
    assert not (tmp_path / "cut" / "student.pt").exists()
    assert run(train_student.main, "--resume", tmp_path / "cut") == 0
    whole, cut = (
        torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_images_that_are_streamed_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    images = ["--dataset", "folder", "--data", folder]
    for name, more in (("whole", []), ("streamed", ["--stream"])):
        path = tmp_path / f"{name}.h5"
        teacher = [*images, *TINY_TEACHER, *VIEWS, "--cache", path, *more]
        assert run(precompute_teacher.main, *teacher) == 0
        student = [*images, "--cache", path, *TINY_STUDENT, "--out", tmp_path / name, *more]
        assert run(train_student.main, *student) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]  # no copy
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "streamed.h5").read_bytes()
    whole, streamed = (
        torch.load(tmp_path / name / "student.pt", weights_only=True)
        for name in ("whole", "streamed")
    )
    assert all(torch.equal(value, streamed[key]) for key, value in whole.items())


def test_compare_prints_a_table_and_words(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, distilled = tmp_path / "labels", tmp_path / "distilled"
    for out, alpha in ((labels, 0), (distilled, 0.9)):
        arguments = ["--cache", cache, *TINY_STUDENT, "--alpha", alpha, "--out", out]
        assert run(train_student.main, *arguments) == 0
    capsys.readouterr()
    chart = tmp_path / "chart.png"
    assert run(tools.main, "compare", labels, distilled, "--chart", chart) == 0
    printed = capsys.readouterr().out
    assert "labels only" in printed
    assert "distilled" in printed
    assert "percentage points" in printed
    assert chart.exists()


@pytest.mark.parametrize("fitting", [10, 1, 0])
def test_a_batch_that_does_not_fit_is_halved(
    fitting: int,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A device with memory for a few images."""
    sizes: list[int] = []
    logits = Teacher.logits

    def short_of_memory(self: Teacher, inputs: torch.Tensor) -> torch.Tensor:
        if self.classes and len(inputs) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        sizes.append(len(inputs))
        return logits(self, inputs)

    monkeypatch.setattr(Teacher, "logits", short_of_memory)
    arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", tmp_path / "t.h5"]
    if fitting == 0:
        message = refused(precompute_teacher.main, capsys, *arguments)
        assert "expected memory on cpu for one view; found too little (CUDA out of" in message
        return
    assert run(precompute_teacher.main, *arguments) == 0
    assert max(sizes[1:]) == {10: 8, 1: 1}[fitting]  # 64, 32, 16, 8, ...
    found, expected = open_cache(tmp_path / "t.h5"), open_cache(cache)
    for split, part in expected.splits.items():
        np.testing.assert_allclose(found.splits[split].logits, part.logits, atol=2e-3)

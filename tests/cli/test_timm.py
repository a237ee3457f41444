"""Both phases with timm's models, from their command lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import refused, run
from phases import VIEWS
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

import precompute_teacher
import train_student
from kdcache.cache import open_cache
from kdcache.cli import main as tools
from kdcache.data import load_images

SHAPES = ["--dataset", "shapes", "--limit", "60"]
SMALL = ["--image-size", "64"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=20).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(weights: Path) -> Path:
    path = weights.with_name("teacher.h5")
    teacher = ["--teacher", "timm/test_vit", "--teacher-weights", weights]
    assert run(precompute_teacher.main, *SHAPES, *teacher, *VIEWS, "--cache", path) == 0
    return path


def test_every_row_is_the_teacher_on_its_own_input(cache: Path, weights: Path) -> None:
    """At 160 pixels, bicubic, mean and std 1/2, as timm says of this model."""
    opened, images = open_cache(cache), load_images("shapes", cache.parent, limit=60)
    record = opened.manifest.document["input"]
    assert record == {
        "image_size": 160,
        "interpolation": "bicubic, antialiased",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    model = timm.create_model("test_vit", num_classes=20).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    whole = images.splits["test"].images[:4].float()
    resized = functional.resize(whole, [160, 160], InterpolationMode.BICUBIC, antialias=True)
    with torch.inference_mode():
        logits = model((resized.clamp(0, 255) / 255 - 0.5) / 0.5).numpy()
    np.testing.assert_allclose(opened.splits["test"].logits[:4, 0], logits, rtol=2e-3, atol=2e-3)


def test_the_teacher_is_found_again(
    cache: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = ["--live", 10, "--teacher-weights", weights]
    assert run(tools.main, "verify", cache, *live) == 0
    assert "the teacher still gives these logits" in capsys.readouterr().out


def test_a_student_of_timm(
    cache: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained beside the live teacher, predicted with, exported; and it resumes as any other."""
    out = tmp_path / "run"
    student = ["--student", "timm/test_efficientnet", "--student-weights", "none", *SMALL]
    student += ["--projection", "probe+head", "--precision", "fp32", "--batch-size", 20]
    live = ["--live-teacher", "--teacher-weights", weights]
    arguments = ["--cache", cache, *student, *live, "--out", out, "--epochs"]
    assert run(train_student.main, *arguments, 2) == 0
    card = json.loads((out / "student.json").read_text())
    assert card["interpolation"] == "bicubic" and card["model"] == "timm/test_efficientnet"
    plain = timm.create_model("test_efficientnet", num_classes=10)
    plain.load_state_dict(torch.load(out / "student.pt", weights_only=True))
    assert run(tools.main, "export", out, "--format", "pt2") == 0
    assert '"interpolation": "bicubic, antialiased"' in (out / "student.pt2.json").read_text()
    capsys.readouterr()
    assert run(train_student.main, *arguments, 2) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_tuned_teacher(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/teachers.md: a student of labels only becomes the teacher, in its own classes."""
    name, tuned = "timm/test_vit", tmp_path / "tuned"
    tuning = ["--student", name, "--student-weights", weights, *SMALL, "--alpha", 0]
    tuning += ["--optimizer", "adamw", "--layer-decay", 0.75, "--epochs", 1, "--batch-size", 16]
    assert run(train_student.main, *SHAPES, *tuning, "--out", tuned) == 0
    path = tmp_path / "tuned.h5"
    teacher = ["--teacher", name, "--teacher-weights", tuned / "student.pt"]
    assert run(precompute_teacher.main, *SHAPES, *teacher, *VIEWS, "--cache", path) == 0
    manifest = open_cache(path).manifest
    assert (manifest.input.image_size, manifest.input.interpolation) == (64, "bicubic")
    assert manifest.teacher.class_names == manifest.dataset.class_names
    capsys.readouterr()
    student = ["--student", "tiny_models:tiny_cnn", "--image-size", 16, "--epochs", 1]
    assert run(train_student.main, "--cache", path, *student, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["projection"] == (
        "none"
    )
    summary = json.loads((tuned / "summary.json").read_text())
    told = f"the teacher, as it is: {summary['validation_accuracy']:.1%} validation accuracy"
    assert told in capsys.readouterr().out


def test_bad_input(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["--teacher", "timm/test_resnet", "--teacher-weights", weights]
    told = refused(precompute_teacher.main, capsys, *SHAPES, *other, "--cache", tmp_path / "t.h5")
    assert "expected weights that fit timm/test_resnet" in told
    student = ["--student", "timm/no_such_net", "--alpha", 0, "--out", tmp_path / "run"]
    told = refused(train_student.main, capsys, *SHAPES, *student)
    assert "found timm/no_such_net; see timm.list_models(pretrained=True)" in told
    assert list(tmp_path.iterdir()) == []

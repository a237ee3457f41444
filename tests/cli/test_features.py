"""Caches of features: what is in them, what takes them, and what refuses them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from phases import SHAPES, TINY_STUDENT, TINY_TEACHER, VIEWS
from torch import nn

import precompute_teacher
import train_student
from kdcache.cache import open_cache
from kdcache.cli import main as tools
from kdcache.data import Renderer, load_images, whole_image_views
from kdcache.distill import CachedViews
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, build_model

TEACHER = ["--teacher", "tiny_models:tiny_teacher"]
FEATURES = [*SHAPES, *TINY_TEACHER, *VIEWS, "--output", "features"]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher's 128 features of 100 shapes, with three views."""
    path = tmp_path_factory.mktemp("features") / "features.h5"
    assert run(precompute_teacher.main, *FEATURES, "--cache", path) == 0
    return path


def test_a_row_is_what_the_classifier_takes_in(features: Path) -> None:
    """The output of all layers of the tiny teacher but its last."""
    opened = open_cache(features)
    assert opened.splits["train"].logits.shape == (80, 3, 128)
    images = load_images("shapes", features.parent, limit=100).splits["test"].images[:9]
    module = build_model("tiny_models:tiny_teacher", None, seed=0).module.eval()
    assert isinstance(module, nn.Sequential)
    render = Renderer(16, IMAGENET_MEAN, IMAGENET_STD, (32, 32))
    with torch.inference_mode():
        expected = module[:-1](render(images, whole_image_views(9, 32, 32))).numpy()
    found = opened.splits["test"].logits[:9, 0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_the_manifest_says_what_the_rows_are(features: Path, cache: Path) -> None:
    """That of logits is as it was before there were features, so its fingerprint is, too."""
    teacher = open_cache(features).manifest.teacher
    assert (teacher.output, teacher.classes, teacher.class_names) == ("features", 128, None)
    of_logits = open_cache(cache).manifest
    assert of_logits.teacher.output == "logits" and "output" not in of_logits.document["teacher"]


def test_the_probe_info_and_the_dataset_take_them(
    features: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(tools.main, "info", features, "--picture", tmp_path / "sheet.png") == 0
    shown = capsys.readouterr().out
    assert "tiny_models:tiny_teacher, weights none, 128 features" in shown
    images = load_images("shapes", features.parent, limit=100)
    item = CachedViews(open_cache(features), images)[7]["soft_targets"]
    assert isinstance(item, torch.Tensor)
    assert item.shape == (10,) and item.sum().item() == pytest.approx(1)


def test_the_teacher_is_found_again(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tools.main, "verify", features, "--live", 20, *TEACHER) == 0
    shown = capsys.readouterr().out
    assert "the teacher still gives these features" in shown and "agreement" not in shown
    other = build_model("tiny_models:tiny_teacher", None, seed=1).module.state_dict()
    torch.save(other, tmp_path / "other.pt")
    given = ["--teacher-weights", tmp_path / "other.pt"]
    told = refused(tools.main, capsys, "verify", features, "--live", 20, *TEACHER, *given)
    assert "expected the teacher's weights (state dict" in told


def test_a_live_teacher_teaches_as_the_cache_does(features: Path, tmp_path: Path) -> None:
    """On the same views, up to the float16 in which the cache has them."""
    student = ["--cache", features, *TINY_STUDENT, "--epochs", 1, "--augment", "cached"]
    assert run(train_student.main, *student, "--out", tmp_path / "cached") == 0
    live = ["--live-teacher", *TEACHER]
    assert run(train_student.main, *student, *live, "--out", tmp_path / "live") == 0
    cached, live = (
        torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("cached", "live")
    )
    for key in cached:
        torch.testing.assert_close(cached[key], live[key], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("projection", ["head", "probe+head", "none"])
def test_what_needs_classes_refuses_them(
    projection: str, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--projection", projection, "--out", tmp_path / "run"]
    told = refused(train_student.main, capsys, "--cache", features, *TINY_STUDENT, *out)
    expected = (
        f"expected a cache of logits for --projection {projection}; found {features} of features;"
        " omit --projection, which is then probe"
    )
    assert told.endswith(f"error: {expected}")
    assert not (tmp_path / "run").exists()
    if projection != "none":
        return
    given = ["--labels", "teacher", "--out", tmp_path / "run"]
    told = refused(train_student.main, capsys, "--cache", features, *TINY_STUDENT, *given)
    assert "expected a cache of logits for --labels teacher" in told


def test_a_teacher_without_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm's DINOv2, and a callable whose classifier was replaced by nothing."""
    path = tmp_path / "teacher.h5"
    dino = ["--teacher", "timm/vit_small_patch14_dinov2", "--teacher-weights", "none"]
    small = ["--dataset", "shapes", "--limit", 40, "--cache", path]
    for teacher in ([*dino, "--image-size", 14], ["--teacher", "tiny_models:without_classifier"]):
        told = refused(precompute_teacher.main, capsys, *small, *teacher)
        assert told.endswith(
            f"expected a teacher with a classifier for --output logits; found {teacher[1]} without"
            " one; give --output features"
        )
        assert not path.exists()
    arguments = [*small, *dino, "--image-size", 14, "--output", "features"]
    assert run(precompute_teacher.main, *arguments) == 0
    assert open_cache(path).manifest.teacher.classes == 384


def test_the_file_of_other_rows_is_left_alone(
    features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = features.read_bytes()
    logits = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", features]
    told = refused(precompute_teacher.main, capsys, *logits)
    assert "teacher.classes: 128 and 20" in told
    assert features.read_bytes() == before

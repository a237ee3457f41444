"""A loss, a dataset, a view policy and a projection of the user's own, named by
`package.module:name`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdcache.config as config
from kdcache.errors import OptionError

ROOT = Path(__file__).parent.parent
MINE = """
import numpy as np
from kdcache.data import DatasetReader, source_in_memory
from kdcache.data.views import whole_image
from kdcache.distill import Projection


def l1(student_logits, teacher_logits, labels, temperature):
    return (student_logits - teacher_logits).abs().mean()


def read_stripes(request):
    labels = np.arange(40) % 2
    pixels = np.zeros((40, 3, 16, 16), np.uint8)
    pixels[labels == 0, :, ::2] = 200
    pixels[labels == 1, :, :, ::2] = 200
    return source_in_memory(("across", "down"), (pixels, labels), (pixels, labels))


STRIPES = DatasetReader(read_stripes)


def upper_half(u, height, width):
    views = whole_image(u, height, width)
    views[:, 2] = height // 2
    return views


class FirstClasses(Projection):
    def project(self, teacher_logits):
        return teacher_logits[..., : len(self.class_names)].float()

    def project_training(self, teacher_logits):
        return self.project(teacher_logits)

    def project_rows(self, teacher_logits, rows):
        return self.project(teacher_logits)
"""
CACHE = (
    "--dataset mine:STRIPES --teacher tiny_models:tiny_teacher --image-size 16 --cache t.h5"
    " --augment mine:upper_half --views 2"
)
STUDENT = (
    "--dataset mine:STRIPES --cache t.h5 --student tiny_models:tiny_cnn --epochs 3 --batch-size 8"
    " --projection mine:FirstClasses --loss mine:l1 --alpha 0.1"
)


def script(folder: Path, name: str, arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    command = [sys.executable, str(ROOT / name), *arguments.split()]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the user's own images and views."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    done = script(folder, "precompute_teacher.py", CACHE)
    assert done.returncode == 0, done.stderr
    return folder


def trained(folder: Path, arguments: str, out: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    done = script(folder, "train_student.py", f"{arguments} --out {out}")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / out / "summary.json").read_text())
    lines = (folder / out / "metrics.jsonl").read_text().splitlines()
    return summary, [json.loads(line) for line in lines]


def test_a_students_own_everything(folder: Path) -> None:
    summary, _ = trained(folder, STUDENT, "run")
    found = summary["dataset"], summary["projection"], summary["loss"]
    assert found == ("mine:STRIPES", "mine:FirstClasses", "mine:l1")
    assert summary["test_accuracy"] == 1.0, "stripes are easy"


def test_a_projection_of_ones_own_teaches_from_a_teacher_in_the_loop_too(folder: Path) -> None:
    _, cached = trained(folder, STUDENT, "cached")
    live_teacher = "--live-teacher --teacher tiny_models:tiny_teacher"
    _, live = trained(folder, f"{STUDENT} {live_teacher}", "live")
    for one, other in zip(cached, live, strict=True):
        assert other["distillation_loss"] > 0.01
        assert other["distillation_loss"] == pytest.approx(one["distillation_loss"], abs=1e-3)


def test_code_that_only_a_cache_names_is_not_run(folder: Path) -> None:
    unnamed = STUDENT.replace("--dataset mine:STRIPES", "")
    done = script(folder, "train_student.py", f"{unnamed} --out unnamed")
    assert done.returncode == 2
    assert (
        "expected --dataset mine:STRIPES on the command line, before that code is run"
        in done.stderr
    )


def test_a_cache_of_ones_own_images_is_looked_at_when_they_are_named(folder: Path) -> None:
    words = ["-m", "kdcache", *["verify", "t.h5", "--live", "5", "--dataset", "mine:STRIPES"]]
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    for named, code in (([], 2), (["--teacher", "tiny_models:tiny_teacher"], 0)):
        done = subprocess.run(
            [sys.executable, *words, *named],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        if code:
            expected = "error: expected --teacher tiny_models:tiny_teacher on the command line"
            assert done.stderr.startswith(expected)


class TestRegistry:
    def test_a_name_can_be_registered_once(self) -> None:
        registry: config.Registry[Any] = config.Registry("--it", {"a": "kdcache:__version__"})
        assert registry.register("b", len) is len
        assert list(registry) == ["a", "b"] and registry.load("b") is len
        with pytest.raises(OptionError, match="expected a new name for --it; found b"):
            registry.register("b", max)

    def test_what_is_no_name_says_which_there_are(self) -> None:
        with pytest.raises(OptionError, match=r"--it to be one of a, or package\.module:name"):
            config.Registry("--it", {"a": "kdcache:__version__"}).load("c")

    @pytest.mark.parametrize("name", ["a.b:c", "a:b"])
    def test_import_paths(self, name: str) -> None:
        assert config.is_import_path(name) and not config.is_import_path(name.replace(":", "."))

    @pytest.mark.parametrize("name", ["a:", ":a", "a b:c", "a.:c", "../a:b", "a:b:c", "a"])
    def test_what_is_none(self, name: str) -> None:
        assert not config.is_import_path(name)

    @pytest.mark.parametrize(
        "registry", [config.DATASETS, config.LOSSES, config.PROJECTIONS, config.VIEW_POLICIES]
    )
    def test_all_of_ours_can_be_loaded(self, registry: config.Registry[Any]) -> None:
        assert all(registry.load(name) is not None for name in registry)

"""What the command lines say to input that cannot be used.

Each: expected, found, what to do; exit code 2; nothing half-made.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Main, refused, run
from phases import ROOT, SHAPES, TINY_STUDENT, TINY_TEACHER, VIEWS

import precompute_teacher
import train_student
from kdcache.cache.seal import read_layout
from kdcache.cli import main as tools


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset imagenet", "--dataset to be one of cifar10, cifar100, folder"),
        ("--teacher vit_b_17", "expected a torchvision classification model"),
        ("--teacher nowhere:model", "No module named 'nowhere'"),
        ("--teacher odd_teachers:absent", "has no attribute 'absent'"),
        ("--teacher odd_teachers:not_a_module", "to return an nn.Module; found int"),
        (
            "--teacher resnet18 --teacher-weights IMAGENET1K_V9",
            "IMAGENET1K_V1, DEFAULT, none or a file",
        ),
        (
            "--teacher-weights IMAGENET1K_V1",
            "expected none or a file as weights of tiny_models",
        ),
        (
            "--teacher odd_teachers:nan_teacher",
            "finite teacher logits within +-65504; found nan in class 3",
        ),
        (
            "--teacher odd_teachers:flat_teacher",
            "logits (2, classes) for two images; found (2,)",
        ),
        (
            "--teacher vit_b_16 --teacher-weights none --image-size 20",
            "an --image-size that vit_b_16 takes; found 20",
        ),
        ("--batch-size 0", "--batch-size to be at least 1; found --batch-size 0"),
        ("--image-size 0", "--image-size to be 1 to 4096"),
        ("--limit 0", "--limit to be at least 1"),
        ("--limit 10", "at least two training images of some class"),
        ("--views 0", "--views to be 1 to 1000"),
        ("--views 2", "--views above 1 and an --augment other than none together"),
        ("--augment mixup", "--augment to be one of none, flip"),
        ("--precision fp8", "--precision to be one of auto, fp32"),
        ("--device gpu7", "a device that torch can use here"),
        ("--seed x", "argument --seed: invalid int value: 'x'"),
        ("--mean 0.5", "--mean to be three numbers R,G,B; found --mean 0.5"),
        ("--std 0.5,0,0.5", "--std to be above 0"),
        ("--cache /dev/null/teacher.h5", "room and the right to write /dev/null/teacher.h5"),
        ("--unknown", "unrecognized arguments: --unknown"),
    ],
)
def test_phase_one(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "teacher.h5"
    usual = ["--dataset", "shapes", "--limit", "100", *TINY_TEACHER, "--cache", path]
    assert message in refused(precompute_teacher.main, capsys, *usual, *arguments.split())
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--student resnet51", "expected a torchvision classification model"),
        ("--student-weights missing.pt", "expected none or a file"),
        ("--projection linear", "--projection to be one of probe, head, probe+head, none"),
        (
            "--projection none",
            "as many teacher classes as student classes (10) for --projection none; found 20",
        ),
        ("--temperature 0", "--temperature to be above 0; found --temperature 0"),
        ("--temperature nan", "--temperature to be above 0; found --temperature nan"),
        ("--alpha 1.5", "--alpha to be 0 to 1; found --alpha 1.5"),
        ("--epochs 0", "--epochs to be at least 1"),
        ("--batch-size -1", "--batch-size to be at least 1"),
        ("--lr 0", "--lr to be above 0"),
        ("--lr 1e12", "expected a finite loss that does not explode; found"),
        ("--weight-decay -1", "--weight-decay to be at least 0"),
        ("--warmup 2", "--warmup to be 0 to 1"),
        ("--label-smoothing 1.1", "--label-smoothing to be 0 to 1"),
        ("--optimizer lamb", "--optimizer to be one of sgd, adamw"),
        ("--augment blur", "--augment to be one of cached"),
        ("--dataset cifar10", "expected --dataset shapes"),
        ("--small-stem", "a ResNet for --small-stem; found tiny_models:tiny_cnn"),
        ("--out /dev/null/run", "the right to write the run's folder"),
    ],
)
def test_phase_two(
    cache: Path, arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--cache", cache, *TINY_STUDENT, "--out", tmp_path / "run"]
    assert message in refused(train_student.main, capsys, *usual, *arguments.split())
    assert not (tmp_path / "run" / "student.pt").exists()


class TestCaches:
    def test_distilling_without_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(train_student.main, capsys, "--dataset", "shapes")
        assert "--cache FILE.h5, or --alpha 0" in message

    def test_cached_views_without_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*SHAPES, *TINY_STUDENT, "--alpha", 0, "--augment", "cached"]
        message = refused(train_student.main, capsys, *arguments, "--out", tmp_path / "run")
        assert "--augment cached only with --cache" in message

    def test_a_missing_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(train_student.main, capsys, "--cache", tmp_path / "none.h5")
        assert "No such file or directory; run precompute_teacher.py first" in message

    def test_a_damaged_one(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = bytearray(cache.read_bytes())
        raw[-1] ^= 1
        (tmp_path / "bad.h5").write_bytes(raw)
        message = refused(train_student.main, capsys, "--cache", tmp_path / "bad.h5")
        assert "bad.h5 damaged in" in message

    def test_a_damaged_block_unless_the_checksums_are_skipped(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = bytearray(cache.read_bytes())
        fd = os.open(cache, os.O_RDONLY)
        raw[read_layout(fd, "").logits[0].offset] ^= 1
        os.close(fd)
        (tmp_path / "bad.h5").write_bytes(raw)
        arguments = ["--cache", tmp_path / "bad.h5", *TINY_STUDENT, "--out", tmp_path / "run"]
        message = refused(train_student.main, capsys, *arguments)
        assert "bad.h5 damaged in block 0 of the logits" in message
        assert run(train_student.main, *arguments, "--skip-checksums") == 0

    def test_one_of_another_teacher(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", cache, "--seed", 1]
        message = refused(precompute_teacher.main, capsys, *arguments)
        assert "with other ones (teacher.digest:" in message
        assert "--restart" in message


class TestRuns:
    def test_an_out_that_holds_another_one(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--cache", cache, *TINY_STUDENT, "--out", tmp_path / "run"]
        assert run(train_student.main, *arguments) == 0
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        other = [*arguments, "--seed", 1, "--temperature", 3]
        assert refused(train_student.main, capsys, *other) == (
            f"error: expected the options of the run in {tmp_path / 'run'}; found --seed 1 (the run"
            " has 0), --temperature 3.0 (the run has 2.0); give another --out, or --overwrite to"
            " replace the run"
        )
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
        assert run(train_student.main, *other, "--overwrite") == 0
        assert run(train_student.main, *other) == 0  # finished

    def test_an_out_that_holds_files_of_a_run_but_no_run(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--cache", cache, *TINY_STUDENT, "--out", tmp_path / "run"]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "summary.json").write_text("{}")
        message = refused(train_student.main, capsys, *arguments)
        assert "an --out without a run in it" in message and "--overwrite" in message

    def test_resume_with_another_option(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(train_student.main, capsys, "--resume", "runs/a", "--epochs", 3, "--vis")
        assert message == (
            "error: expected --resume alone: a run has options of its own; found --epochs, --vis;"
            " omit them, or use --config runs/a/config.json in place of --resume"
        )

    def test_nothing_to_resume(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(train_student.main, capsys, "--resume", tmp_path)
        assert "expected the folder of a run" in message

    def test_compare_without_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(tools.main, capsys, "compare", tmp_path)
        assert "expected the folder of a finished run" in message

    def test_compare_of_two_datasets(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        for out, data in ((one, SHAPES), (two, ["--dataset", "folder", "--data", folder])):
            arguments = [*data, *TINY_STUDENT, "--alpha", 0, "--out", out]
            assert run(train_student.main, *arguments) == 0
        message = refused(tools.main, capsys, "compare", one, two)
        assert "(shapes); found" in message
        assert "two (folder)" in message


class TestImages:
    def test_of_another_dataset(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "c.h5"
        data = ["--dataset", "folder", "--data", folder]
        assert run(precompute_teacher.main, *data, *TINY_TEACHER, "--cache", path) == 0
        arguments = ["--cache", path, "--data", folder, *TINY_STUDENT, "--out", tmp_path / "run"]

        first, second = (folder / "test" / "dog" / name for name in ("00.png", "02.png"))
        shutil.copy(second, first)  # dog 0 of the test split: row 4
        message = refused(train_student.main, capsys, *arguments)
        assert "1 other images or labels, the first in test row 4" in message
        (folder / "train" / "cat" / "00.png").unlink()
        assert "as" in refused(train_student.main, capsys, *arguments)
        for split in ("train", "test"):
            (folder / split / "dog").rename(folder / split / "wolf")
        message = refused(train_student.main, capsys, *arguments)
        assert "expected the classes cat, dog; found cat, wolf" in message

    @pytest.mark.parametrize("main", [precompute_teacher.main, train_student.main])
    def test_in_folders(
        self, main: Main, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if main is precompute_teacher.main:
            arguments = [*TINY_TEACHER, "--cache", tmp_path / "c.h5"]
        else:
            arguments = [*TINY_STUDENT, "--alpha", 0, "--out", tmp_path / "run"]
        arguments += ["--dataset", "folder", "--data"]
        message = refused(main, capsys, *arguments, tmp_path / "none")
        assert "no such folder; correct --data" in message
        (folder / "train" / "cat" / "00.png").write_text("not an image")
        assert "00.png" in refused(main, capsys, *arguments, folder)
        for path in (folder / "test" / "cat").iterdir():
            path.unlink()
        message = refused(main, capsys, *arguments, folder)
        assert f"expected images in {folder / 'test' / 'cat'}; found none" in message
        (folder / "test" / "cat").rmdir()
        (folder / "test" / "fox").mkdir()
        shutil.copy(folder / "test" / "dog" / "00.png", folder / "test" / "fox" / "00.png")
        assert "only in one of them: cat, fox" in refused(main, capsys, *arguments, folder)
        assert not list(tmp_path.glob("c.h5*"))


@pytest.mark.parametrize("script", ["precompute_teacher.py", "train_student.py"])
def test_a_real_process_ends_with_2_and_one_line(script: str, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / script, "--dataset", "folder", "--data", tmp_path / "none"]
    command += ["--teacher-weights", "none"] if script.startswith("pre") else ["--alpha", "0"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: expected a folder")
    assert finished.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())

"""Both phases from their command lines, and what they say to input that cannot be used."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from commands import Main, refused, run
from PIL import Image

import precompute_teacher
import train_student
from kdcache.cache.reader import open_cache
from kdcache.cache.seal import read_layout
from kdcache.cli import main as tools
from kdcache.engine.teacher import Teacher

ROOT = Path(__file__).parent.parent.parent
SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
TEACHER = ["--teacher", "tiny_models:tiny_teacher", "--image-size", "16"]
FILL = [*SHAPES, "--views", "3", "--augment", "crop-flip", "--teacher"]
STUDENT = [
    "--student",
    "tiny_models:tiny_cnn",
    "--image-size",
    "16",
    "--epochs",
    "2",
    "--batch-size",
    "32",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 100 shapes with three views and a teacher of 20 classes."""
    path = tmp_path_factory.mktemp("cache") / "teacher.h5"
    assert (
        run(
            precompute_teacher.main,
            *SHAPES,
            *TEACHER,
            "--views",
            3,
            "--augment",
            "crop-flip",
            "--cache",
            path,
        )
        == 0
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes, 12 training and 4 test images of 8 x 8 pixels each."""
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), (40 + 100 * label, 10 * number, 0), np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "images" / split / name / f"{number:02}.png"
                )
    return tmp_path / "images"


def test_both_phases_leave_what_they_promise(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", out) == 0

    held = {path.name for path in out.iterdir()}
    assert held == {
        "config.json", "metrics.jsonl", "last.pt", "best.pt", "student.pt", "student.json", "summary.json", "predictions.pt",
        "curves.png", "confusion.png", "views.png",
    }  # fmt: skip
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(0 <= record["agreement"] <= 1 for record in records)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fingerprint"] == open_cache(cache).fingerprint
    assert summary["views"] == "matched"
    assert summary["validation_accuracy"] == max(
        record["validation_accuracy"] for record in records
    )
    assert "distilled" in capsys.readouterr().out


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
            for view, (top, left, height, width, flip) in enumerate(part.views[row].tolist()):
                padded = functional.pad(
                    images.splits[split].images[row], [4, 4, 4, 4], padding_mode="reflect"
                )
                crop = (
                    padded[:, top + 4 : top + 4 + height, left + 4 : left + 4 + width].float() / 255
                )
                crop = functional.resize(crop.flip(-1) if flip else crop, [16, 16], antialias=True)
                with torch.inference_mode():
                    logits = module(functional.normalize(crop, IMAGENET_MEAN, IMAGENET_STD)[None])[
                        0
                    ]
                np.testing.assert_allclose(
                    part.logits[row, view], logits.numpy(), rtol=2e-3, atol=2e-3
                )


def test_a_student_of_torchvision_loads_without_kdcache(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    student = [
        "--student",
        "resnet18",
        "--student-weights",
        "none",
        "--epochs",
        1,
        "--image-size",
        32,
    ]
    assert (
        run(train_student.main, "--cache", cache, *student, "--projection", "head", "--out", out)
        == 0
    )
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(torch.load(out / "student.pt", weights_only=True))


def test_a_student_becomes_a_teacher_of_the_same_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = ["--student", "resnet18", "--student-weights", "none", "--small-stem", "--epochs", 1]
    assert run(train_student.main, *SHAPES, *student, "--alpha", 0, "--out", tmp_path / "run") == 0
    weights = tmp_path / "run" / "student.pt"
    arguments = [
        "--dataset",
        "shapes",
        "--limit",
        100,
        "--teacher",
        "resnet18",
        "--teacher-weights",
        weights,
    ]
    assert run(precompute_teacher.main, *arguments, "--cache", tmp_path / "c.h5") == 0
    manifest = open_cache(tmp_path / "c.h5").manifest
    assert manifest["input"]["image_size"] == 16
    assert manifest["teacher"]["class_names"] == manifest["dataset"]["class_names"]
    capsys.readouterr()
    assert (
        run(
            train_student.main, "--cache", tmp_path / "c.h5", *STUDENT, "--out", tmp_path / "second"
        )
        == 0
    )
    assert "as it is" in capsys.readouterr().out  # projection none is the default


def test_a_second_phase_one_computes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cache.read_bytes()
    assert (
        run(
            precompute_teacher.main,
            *SHAPES,
            *TEACHER,
            "--views",
            3,
            "--augment",
            "crop-flip",
            "--cache",
            cache,
        )
        == 0
    )
    assert "nothing was computed" in capsys.readouterr().out
    assert cache.read_bytes() == before


def test_labels_only_needs_no_cache(tmp_path: Path) -> None:
    assert run(train_student.main, *SHAPES, *STUDENT, "--alpha", 0, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["teacher"] is None


def test_an_own_augmentation_is_called_unmatched(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert (
        run(train_student.main, "--cache", cache, *STUDENT, "--augment", "crop-flip", "--out", out)
        == 0
    )
    assert "unmatched views" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["views"] == "unmatched"


def test_vis_leaves_one_picture_a_batch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out = tmp_path / "run"
    assert run(train_student.main, "--cache", cache, *STUDENT, "--vis", "--out", out) == 0
    assert (
        len(list((out / "vis").glob("*.png"))) == 6
    )  # 80 images in batches of 32: 3 steps, 2 epochs


def test_a_resumed_run_equals_one_that_was_never_stopped(cache: Path, tmp_path: Path) -> None:
    arguments = ["--cache", cache, *STUDENT, "--epochs", 3]
    assert run(train_student.main, *arguments, "--out", tmp_path / "whole") == 0

    def interrupt(text: str) -> None:
        if text.startswith("epoch   2"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.console.Progress.say", lambda self, text: interrupt(text))
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
        cache, views = tmp_path / f"{name}.h5", ["--views", 3, "--augment", "crop-flip"]
        assert run(precompute_teacher.main, *images, *TEACHER, *views, "--cache", cache, *more) == 0
        assert (
            run(
                train_student.main,
                *images,
                "--cache",
                cache,
                *STUDENT,
                "--out",
                tmp_path / name,
                *more,
            )
            == 0
        )
    assert len(list(folder.glob("kdcache-*.npy"))) == 1
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "streamed.h5").read_bytes()
    whole, streamed = (
        torch.load(tmp_path / name / "student.pt", weights_only=True)
        for name in ("whole", "streamed")
    )
    assert all(torch.equal(value, streamed[key]) for key, value in whole.items())


def test_compare_prints_a_table_and_words(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, alpha in (("labels", 0), ("distilled", 0.9)):
        assert (
            run(
                train_student.main,
                "--cache",
                cache,
                *STUDENT,
                "--alpha",
                alpha,
                "--out",
                tmp_path / name,
            )
            == 0
        )
    capsys.readouterr()
    chart = tmp_path / "chart.png"
    assert (
        run(tools.main, "compare", tmp_path / "labels", tmp_path / "distilled", "--chart", chart)
        == 0
    )
    printed = capsys.readouterr().out
    assert "labels only" in printed and "distilled" in printed and "percentage points" in printed
    assert chart.exists()


def test_ctrl_c_ends_phase_one_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """A real process, a real signal."""
    path = tmp_path / "teacher.h5"
    command = [
        sys.executable,
        ROOT / "precompute_teacher.py",
        "--dataset",
        "shapes",
        "--image-size",
        "16",
    ]
    command += ["--teacher", "odd_teachers:slow_teacher", "--cache", path, "--batch-size", "16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background jobs ignore it
    )
    journal = Path(f"{path}.partial.journal-0")
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    assert not path.exists()
    finished = subprocess.run(
        command, capture_output=True, env=environment | {"KDCACHE_TEST_FAST": "1"}, text=True
    )
    assert finished.returncode == 0
    assert open_cache(path).manifest["teacher"]["classes"] == 20


@pytest.mark.parametrize("fitting", [10, 1, 0])
def test_a_batch_that_does_not_fit_is_halved(
    fitting: int,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A device with memory for a few images."""
    sizes, logits = [], Teacher.logits

    def short_of_memory(self: Teacher, inputs: torch.Tensor) -> torch.Tensor:
        if self.classes and len(inputs) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        sizes.append(len(inputs))
        return logits(self, inputs)

    monkeypatch.setattr(Teacher, "logits", short_of_memory)
    arguments = [*FILL, "tiny_models:tiny_teacher", "--cache", tmp_path / "t.h5"]
    if fitting == 0:
        assert "expected memory on cpu for one view; found too little (CUDA out of" in refused(
            precompute_teacher.main, capsys, *arguments
        )
        return
    assert run(precompute_teacher.main, *arguments) == 0
    assert max(sizes[1:]) == {10: 8, 1: 1}[fitting]  # 64, 32, 16, 8, ...
    found, expected = open_cache(tmp_path / "t.h5"), open_cache(cache)
    for split in expected.splits:
        np.testing.assert_allclose(
            found.splits[split].logits, expected.splits[split].logits, atol=2e-3
        )


@pytest.mark.parametrize("world", [2, 3])
def test_torchrun_fills_the_same_cache(world: int, cache: Path, tmp_path: Path) -> None:
    """Several processes, each its own blocks, write what one writes, byte for byte."""
    finished = _torchrun(
        world,
        "precompute_teacher.py",
        *FILL,
        "tiny_models:tiny_teacher",
        "--cache",
        tmp_path / "many.h5",
    )
    assert finished.returncode == 0, finished.stderr
    assert f"of {world} processes" in finished.stdout
    assert (tmp_path / "many.h5").read_bytes() == cache.read_bytes()
    assert [path.name for path in tmp_path.glob("many.h5.partial*")] == []


def test_one_process_killed_ends_the_run_and_the_next_goes_on(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    finished = _torchrun(
        2, "precompute_teacher.py", *FILL, "odd_teachers:mortal_teacher", "--cache", path
    )
    assert finished.returncode != 0
    assert "Signal 9 (SIGKILL)" in finished.stderr
    assert not path.exists() and Path(f"{path}.partial").exists()
    assert (
        run(
            precompute_teacher.main,
            *SHAPES,
            *TEACHER,
            "--views",
            3,
            "--augment",
            "crop-flip",
            "--cache",
            path,
        )
        == 2
    )
    arguments = [
        "--teacher",
        "odd_teachers:mortal_teacher",
        "--image-size",
        16,
        "--views",
        3,
        "--augment",
        "crop-flip",
    ]
    assert run(precompute_teacher.main, *SHAPES, *arguments, "--cache", path) == 0
    opened, expected = open_cache(path), open_cache(cache)
    assert np.array_equal(opened.splits["train"].logits, expected.splits["train"].logits)


def test_torchrun_trains_the_same_student(cache: Path, tmp_path: Path) -> None:
    """80 images in 3 steps of 27, 27 and 26, each divided among 2 processes: not all the same size."""
    student = [
        "--student",
        "tiny_models:without_batch_norm",
        "--epochs",
        2,
        "--batch-size",
        32,
        "--seed",
        3,
    ]
    arguments = ["--cache", cache, *student, "--projection", "probe+head", "--out"]
    assert run(train_student.main, *arguments, tmp_path / "one") == 0
    finished = _torchrun(2, "train_student.py", *arguments, tmp_path / "two")
    assert finished.returncode == 0, finished.stderr
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for expected, found in zip(one, two, strict=True):
        for key in expected.keys() - {"seconds", "images_per_second"}:
            assert found[key] == pytest.approx(expected[key], abs=1e-5), key
    weights, shared = (
        torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("one", "two")
    )
    for key, expected in weights.items():
        torch.testing.assert_close(shared[key], expected, rtol=1e-4, atol=1e-5)
    scores = [
        json.loads((tmp_path / name / "summary.json").read_text())["test_accuracy"]
        for name in ("one", "two")
    ]
    assert scores[0] == pytest.approx(scores[1])
    assert finished.stdout.count("epoch   2/2") == 1, "one process speaks"


def _torchrun(world: int, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={world}",
        "--standalone",
    ]
    command += [ROOT / script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


class TestBadInput:
    """Each: expected, found, what to do; exit code 2; nothing half-made."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dataset", "imagenet"], "--dataset to be one of cifar10, cifar100, folder"),
            (["--teacher", "vit_b_17"], "expected a torchvision classification model"),
            (["--teacher", "nowhere:model"], "No module named 'nowhere'"),
            (["--teacher", "odd_teachers:absent"], "has no attribute 'absent'"),
            (["--teacher", "odd_teachers:not_a_module"], "to return an nn.Module; found int"),
            (
                ["--teacher", "resnet18", "--teacher-weights", "IMAGENET1K_V9"],
                "IMAGENET1K_V1, DEFAULT, none or a file",
            ),
            (
                ["--teacher-weights", "IMAGENET1K_V1"],
                "expected none or a file as weights of tiny_models",
            ),
            (
                ["--teacher", "odd_teachers:nan_teacher"],
                "finite teacher logits within +-65504; found nan in class 3",
            ),
            (
                ["--teacher", "odd_teachers:flat_teacher"],
                "logits (2, classes) for two images; found (2,)",
            ),
            (
                ["--teacher", "vit_b_16", "--teacher-weights", "none", "--image-size", "20"],
                "an --image-size that vit_b_16 takes; found 20",
            ),
            (["--batch-size", "0"], "--batch-size to be at least 1; found --batch-size 0"),
            (["--image-size", "0"], "--image-size to be at least 1"),
            (["--limit", "0"], "--limit to be at least 1"),
            (["--limit", "10"], "at least two training images of some class"),
            (["--views", "0"], "--views to be 1 to 1000"),
            (["--views", "2"], "--views above 1 and an --augment other than none together"),
            (["--augment", "mixup"], "--augment to be one of none, flip"),
            (["--precision", "fp8"], "--precision to be one of auto, fp32"),
            (["--device", "gpu7"], "a device that torch can use here"),
            (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
            (["--mean", "0.5"], "--mean to be three numbers R,G,B; found --mean 0.5"),
            (["--std", "0.5,0,0.5"], "--std to be above 0"),
            (
                ["--cache", "/dev/null/teacher.h5"],
                "room and the right to write /dev/null/teacher.h5",
            ),
            (["--unknown"], "unrecognized arguments: --unknown"),
        ],
    )
    def test_phase_one(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        usual = [
            "--dataset",
            "shapes",
            "--limit",
            "100",
            *TEACHER,
            "--cache",
            tmp_path / "teacher.h5",
        ]
        assert message in refused(precompute_teacher.main, capsys, *usual, *arguments)
        assert not (tmp_path / "teacher.h5").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--student", "resnet51"], "expected a torchvision classification model"),
            (["--student-weights", "missing.pt"], "expected none or a file"),
            (["--projection", "linear"], "--projection to be one of probe, head, probe+head, none"),
            (
                ["--projection", "none"],
                "as many teacher classes as student classes (10) for --projection none; found 20",
            ),
            (["--temperature", "0"], "--temperature to be above 0; found --temperature 0"),
            (["--temperature", "nan"], "--temperature to be above 0; found --temperature nan"),
            (["--alpha", "1.5"], "--alpha to be 0 to 1; found --alpha 1.5"),
            (["--epochs", "0"], "--epochs to be at least 1"),
            (["--batch-size", "-1"], "--batch-size to be at least 1"),
            (["--lr", "0"], "--lr to be above 0"),
            (["--lr", "1e12"], "expected a finite loss that does not explode; found"),
            (["--weight-decay", "-1"], "--weight-decay to be at least 0"),
            (["--warmup", "2"], "--warmup to be 0 to 1"),
            (["--label-smoothing", "1.1"], "--label-smoothing to be 0 to 1"),
            (["--optimizer", "lamb"], "--optimizer to be one of sgd, adamw"),
            (["--augment", "blur"], "--augment to be one of cached"),
            (["--dataset", "cifar10"], "expected --dataset shapes"),
            (["--small-stem"], "a ResNet for --small-stem; found tiny_models:tiny_cnn"),
            (["--out", "/dev/null/run"], "the right to write the run's folder"),
        ],
    )
    def test_phase_two(
        self,
        cache: Path,
        arguments: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        usual = ["--cache", cache, *STUDENT, "--out", tmp_path / "run"]
        assert message in refused(train_student.main, capsys, *usual, *arguments)
        assert not (tmp_path / "run" / "student.pt").exists()

    def test_distilling_without_a_cache(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--cache FILE.h5, or --alpha 0" in refused(
            train_student.main, capsys, "--dataset", "shapes"
        )

    def test_cached_views_without_a_cache(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [
            *SHAPES,
            *STUDENT,
            "--alpha",
            0,
            "--augment",
            "cached",
            "--out",
            tmp_path / "run",
        ]
        assert "--cache for --augment cached" in refused(train_student.main, capsys, *arguments)

    def test_a_missing_cache(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(train_student.main, capsys, "--cache", tmp_path / "none.h5")
        assert "No such file or directory; run precompute_teacher.py first" in message

    def test_a_damaged_cache(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = bytearray(cache.read_bytes())
        raw[-1] ^= 1
        (tmp_path / "bad.h5").write_bytes(raw)
        assert "bad.h5 damaged in" in refused(
            train_student.main, capsys, "--cache", tmp_path / "bad.h5"
        )

    def test_a_damaged_block_unless_the_checksums_are_skipped(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = bytearray(cache.read_bytes())
        fd = os.open(cache, os.O_RDONLY)
        raw[read_layout(fd, "").logits[0].offset] ^= 1
        os.close(fd)
        (tmp_path / "bad.h5").write_bytes(raw)
        arguments = ["--cache", tmp_path / "bad.h5", *STUDENT, "--out", tmp_path / "run"]
        assert "bad.h5 damaged in block 0 of the logits" in refused(
            train_student.main, capsys, *arguments
        )
        assert run(train_student.main, *arguments, "--skip-checksums") == 0

    def test_an_out_that_holds_a_run(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--cache", cache, *STUDENT, "--out", tmp_path / "run"]
        assert run(train_student.main, *arguments) == 0
        before = (tmp_path / "run" / "summary.json").read_bytes()
        message = refused(train_student.main, capsys, *arguments)
        assert "an --out without a run in it" in message and "--overwrite" in message
        assert (tmp_path / "run" / "summary.json").read_bytes() == before
        assert run(train_student.main, *arguments, "--overwrite") == 0

    def test_nothing_to_resume(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected the folder of a run" in refused(
            train_student.main, capsys, "--resume", tmp_path
        )

    def test_a_cache_of_another_teacher(
        self, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [
            *SHAPES,
            *TEACHER,
            "--views",
            3,
            "--augment",
            "crop-flip",
            "--cache",
            cache,
            "--seed",
            1,
        ]
        message = refused(precompute_teacher.main, capsys, *arguments)
        assert "with other ones (teacher.digest:" in message and "--restart" in message

    def test_images_of_another_dataset(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = ["--dataset", "folder", "--data", folder]
        assert run(precompute_teacher.main, *data, *TEACHER, "--cache", tmp_path / "c.h5") == 0
        arguments = [
            "--cache",
            tmp_path / "c.h5",
            "--data",
            folder,
            *STUDENT,
            "--out",
            tmp_path / "run",
        ]

        first, second = (folder / "test" / "dog" / name for name in ("00.png", "02.png"))
        shutil.copy(second, first)  # dog 0 of the test split: row 4
        assert "1 other images or labels, the first in test row 4" in refused(
            train_student.main, capsys, *arguments
        )
        (folder / "train" / "cat" / "00.png").unlink()
        assert "as" in refused(train_student.main, capsys, *arguments)
        for split in ("train", "test"):
            (folder / split / "dog").rename(folder / split / "wolf")
        assert "expected the classes cat, dog; found cat, wolf" in refused(
            train_student.main, capsys, *arguments
        )

    @pytest.mark.parametrize("main", [precompute_teacher.main, train_student.main])
    def test_folders(
        self, main: Main, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if main is precompute_teacher.main:
            arguments = [*TEACHER, "--cache", tmp_path / "c.h5"]
        else:
            arguments = [*STUDENT, "--alpha", 0, "--out", tmp_path / "run"]
        arguments += ["--dataset", "folder", "--data"]
        assert "no such folder; correct --data" in refused(
            main, capsys, *arguments, tmp_path / "none"
        )
        (folder / "train" / "cat" / "00.png").write_text("not an image")
        assert "00.png" in refused(main, capsys, *arguments, folder)
        for path in (folder / "test" / "cat").iterdir():
            path.unlink()
        assert f"expected images in {folder / 'test' / 'cat'}; found none" in refused(
            main, capsys, *arguments, folder
        )
        (folder / "test" / "cat").rmdir()
        (folder / "test" / "fox").mkdir()
        shutil.copy(folder / "test" / "dog" / "00.png", folder / "test" / "fox" / "00.png")
        assert "only in one of them: cat, fox" in refused(main, capsys, *arguments, folder)
        assert not list(tmp_path.glob("c.h5*"))

    def test_compare_without_a_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "expected the folder of a finished run" in refused(
            tools.main, capsys, "compare", tmp_path
        )

    def test_compare_of_two_datasets(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for out, data in (("one", SHAPES), ("two", ["--dataset", "folder", "--data", folder])):
            assert (
                run(train_student.main, *data, *STUDENT, "--alpha", 0, "--out", tmp_path / out) == 0
            )
        message = refused(tools.main, capsys, "compare", tmp_path / "one", tmp_path / "two")
        assert "(shapes); found" in message and "two (folder)" in message

    @pytest.mark.parametrize("script", ["precompute_teacher.py", "train_student.py"])
    def test_a_real_process_ends_with_2_and_one_line(self, script: str, tmp_path: Path) -> None:
        command = [
            sys.executable,
            ROOT / script,
            "--dataset",
            "folder",
            "--data",
            tmp_path / "none",
        ]
        command += ["--teacher-weights", "none"] if script.startswith("pre") else ["--alpha", "0"]
        finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert finished.returncode == 2
        assert (
            finished.stderr.startswith("error: expected a folder")
            and finished.stderr.count("\n") == 1
        )
        assert not list(tmp_path.iterdir())

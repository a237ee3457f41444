"""Both phases in real processes: Ctrl-C, several processes of torchrun, and one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from phases import ROOT, SHAPES, TINY_TEACHER, VIEWS

import precompute_teacher
import train_student
from kdcache.cache.reader import open_cache


def test_ctrl_c_ends_phase_one_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """A real process, a real signal."""
    path = tmp_path / "teacher.h5"
    command = [sys.executable, ROOT / "precompute_teacher.py"]
    command += ["--dataset", "shapes", "--image-size", "16", "--batch-size", "16"]
    command += ["--teacher", "odd_teachers:slow_teacher", "--cache", path]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        text=True,
        # a shell's background jobs ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    fast = environment | {"KDCACHE_TEST_FAST": "1"}
    finished = subprocess.run(command, capture_output=True, env=fast, text=True)
    assert finished.returncode == 0
    assert open_cache(path).manifest.teacher.classes == 20


@pytest.mark.parametrize("world_size", [2, 3])
def test_torchrun_fills_the_same_cache(world_size: int, cache: Path, tmp_path: Path) -> None:
    """Several processes, each its own blocks, write what one writes, byte for byte."""
    path = tmp_path / "many.h5"
    arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", path]
    finished = _torchrun(world_size, "precompute_teacher.py", *arguments)
    assert finished.returncode == 0, finished.stderr
    assert f"of {world_size} processes" in finished.stdout
    assert path.read_bytes() == cache.read_bytes()
    assert [left.name for left in tmp_path.glob("many.h5.partial*")] == []


def test_one_process_killed_ends_the_run_and_the_next_goes_on(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    mortal = [*SHAPES, *VIEWS, "--teacher", "odd_teachers:mortal_teacher", "--cache", path]
    finished = _torchrun(2, "precompute_teacher.py", *mortal)
    assert finished.returncode != 0
    assert "Signal 9 (SIGKILL)" in finished.stderr
    assert not path.exists()
    assert Path(f"{path}.partial").exists()
    other = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", path]
    assert run(precompute_teacher.main, *other) == 2
    assert run(precompute_teacher.main, *mortal) == 0
    opened, expected = open_cache(path), open_cache(cache)
    assert np.array_equal(opened.splits["train"].logits, expected.splits["train"].logits)


def test_torchrun_trains_the_same_student(cache: Path, tmp_path: Path) -> None:
    """80 images in 3 steps of 27, 27 and 26, each shared by 2 processes: not all the same size."""
    student = ["--student", "tiny_models:without_batch_norm", "--epochs", 2, "--batch-size", 32]
    arguments = ["--cache", cache, *student, "--seed", 3, "--projection", "probe+head", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(train_student.main, *arguments, one) == 0
    finished = _torchrun(2, "train_student.py", *arguments, two)
    assert finished.returncode == 0, finished.stderr

    for expected, found in zip(_history(one), _history(two), strict=True):
        for key in expected.keys() - {"seconds", "images_per_second"}:
            assert found[key] == pytest.approx(expected[key], abs=1e-5), key
    weights, shared = (torch.load(out / "student.pt", weights_only=True) for out in (one, two))
    for key, expected in weights.items():
        torch.testing.assert_close(shared[key], expected, rtol=1e-4, atol=1e-5)
    scores = [json.loads((out / "summary.json").read_text())["test_accuracy"] for out in (one, two)]
    assert scores[0] == pytest.approx(scores[1])
    assert finished.stdout.count("epoch   2/2") == 1, "one process speaks"


def test_an_error_of_all_processes_is_said_once_and_again_at_the_end(tmp_path: Path) -> None:
    """The end is torchrun's summary; its own traceback stands between."""
    finished = _torchrun(2, "train_student.py", "--cache", tmp_path / "none.h5")
    assert finished.returncode != 0
    lines = [line for line in finished.stderr.splitlines() if "expected a finished cache" in line]
    assert [line.split(": ")[0] for line in lines if line.startswith("error")] == ["error"]
    assert finished.stderr.rindex("error: expected a finished cache; found ") > (
        finished.stderr.index("Traceback")
    )


def _history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _torchrun(world_size: int, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={world_size}", str(ROOT / script), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)

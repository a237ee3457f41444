"""Only one process at a time writes a run's folder."""

import errno
import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused, run

import train_student
from kdcache.config import TrainOptions
from kdcache.engine import StudentRun, TrainingCallbacks
from kdcache.engine import train_student as train
from kdcache.errors import DataError, OptionError
from kdcache.runs import EpochRecord, claim, only_writer

STUDENT = ["--dataset", "shapes", "--limit", 100, "--image-size", 16, "--alpha", 0]
STUDENT += ["--student", "tiny_models:tiny_cnn", "--epochs", 2, "--batch-size", 32]


def test_who_comes_second_waits_for_the_first(tmp_path: Path) -> None:
    had = list[bool]()

    def second() -> None:
        with claim(tmp_path, wait=True) as mine:
            had.append(mine)

    with claim(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and not had
    waiting.join(10)
    assert had == [True]


def test_or_is_told_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with claim(folder) as mine:
        assert mine
        with claim(folder) as ours:
            assert not ours
        with pytest.raises(OptionError) as error, only_writer(folder):
            pass
    assert str(error.value) == (
        f"expected no other run writing {folder}; found one that is still going on;"
        " wait for it or give another --out"
    )
    with only_writer(folder):
        pass


def test_an_error_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), only_writer(tmp_path):
        raise KeyboardInterrupt
    with claim(tmp_path) as mine:
        assert mine


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error, claim(tmp_path / "file" / "run"):
        pass
    assert str(error.value) == (
        f"expected the right to write the run's folder; found {tmp_path}/file/run: Not a directory;"
        " give another --out"
    )


def test_a_file_system_without_locks_keeps_nobody_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with claim(tmp_path) as mine:
        assert mine


@pytest.mark.parametrize("how", ["--overwrite", "--resume"])
def test_a_second_training_during_the_first(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, seen = tmp_path / "run", []
    second = ["--resume", out] if how == "--resume" else [*STUDENT, "--out", out, how, "--seed", 1]

    class Second(TrainingCallbacks):
        def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
            before = {path.name: path.read_bytes() for path in out.iterdir()}
            seen.append(refused(train_student.main, capsys, *second))
            assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    options = TrainOptions(
        dataset="shapes",
        limit=100,
        image_size=16,
        alpha=0.0,
        student="tiny_models:tiny_cnn",
        epochs=2,
        batch_size=32,
        out=out,
    )
    summary = train(options, callbacks=Second())
    assert len(seen) == 2 and f"expected no other run writing {out}; found one" in seen[0]
    assert json.loads((out / "summary.json").read_text())["seed"] == summary.seed == 0
    assert run(train_student.main, *STUDENT, "--out", out, "--overwrite", "--seed", 1) == 0
    assert torch.load(out / "best.pt", weights_only=True)["epoch"] in (1, 2)

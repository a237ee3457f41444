"""The same command again: it resumes, says that the run is finished, extends it, or refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import as_older, refused, run
from test_resume import SHAPES, STUDENT, left_by

import precompute_teacher
import train_student
from kdcache.config import TrainOptions
from kdcache.engine import TrainingCallbacks
from kdcache.engine import train_student as train
from kdcache.errors import OptionError
from kdcache.runs import RunRecorder, read_config, read_summary
from kdcache.runs.folder import config_digest

ROOT = Path(__file__).parent.parent.parent
LABELS = [*SHAPES, *STUDENT, "--alpha", 0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs. No test changes it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(train_student.main, *LABELS, "--out", out) == 0
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def interrupt_after(epochs: int, *arguments: object) -> None:
    """Run phase two and press Ctrl-C once this many more epochs are on the disk."""
    real, done = RunRecorder.keep_last, 0

    def counting(*some: Any) -> None:
        nonlocal done
        real(*some)
        done += 1
        if done == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecorder, "keep_last", counting)
        assert run(train_student.main, *arguments) == 130


def begun_otherwise(out: Path, config: dict[str, Any]) -> None:
    """Make a run's folder one of a run that was begun so: its summary records the digest, too."""
    (out / "config.json").write_text(json.dumps(config))
    summary = as_older(out / "summary.json")
    summary["config_digest"] = config_digest(out)
    (out / "summary.json").write_text(json.dumps(summary))


class TestFinished:
    def test_it_says_so_in_a_line_with_the_result(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before, summary = content(out), read_summary(out)
        assert summary is not None and summary.test_accuracy is not None
        capsys.readouterr()
        assert run(train_student.main, *LABELS, "--out", out) == 0
        assert content(out) == before
        assert capsys.readouterr().out == (
            f"{out} is finished: {summary.test_accuracy:.2%} test accuracy with the weights of"
            f" epoch {summary.best_epoch} of 2; nothing was trained\n"
        )

    def test_where_files_lie_and_how_it_runs_makes_no_other_run(
        self, out: Path, tmp_path: Path
    ) -> None:
        before = content(out)
        runtime = ["--data", tmp_path, "--stream", "--device", "cpu"]
        assert run(train_student.main, *LABELS, *runtime, "--out", out) == 0
        assert content(out) == before

    def test_other_software_matters_to_an_unfinished_run_only(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = as_older(out / "config.json")
        config |= {"software": "torch 1.0", "device_type": "cuda"}
        config["options"]["precision"] = "bf16"  # the default on a GPU
        begun_otherwise(out, config)
        assert run(train_student.main, *LABELS, "--out", out) == 0
        (out / "summary.json").unlink()
        message = refused(train_student.main, capsys, *LABELS, "--out", out)
        assert "software: torch 1.0 and torch " in message and "device_type: cuda and" in message

    def test_other_images_are_noticed(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = as_older(out / "config.json") | {"images": "0" * 64}
        begun_otherwise(out, config)
        message = refused(train_student.main, capsys, *LABELS, "--out", out)
        assert f"the cache and images with which {out} was begun; found images: 000" in message

    def test_a_value_that_was_given_and_is_left_to_its_default_now(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        assert run(train_student.main, *LABELS, "--lr", 0.3, "--out", out) == 0
        message = refused(train_student.main, capsys, *LABELS, "--out", out)
        # 0.1 for 128 images a batch, and 32 here
        assert "found --lr 0.025 (the run has 0.3); give another --out" in message
        given = [*LABELS, "--lr", 0.3, "--student-weights", "none", "--out", out]
        message = refused(train_student.main, capsys, *given)
        assert "found --student-weights none (the run has its default)" in message

    def test_from_python(self, out: Path) -> None:
        config = read_config(out)
        assert config is not None
        said: list[str] = []
        callbacks = TrainingCallbacks()
        callbacks.on_message = said.append  # type: ignore[method-assign]
        options = config.options.replace(out=out)
        assert train(options, callbacks=callbacks) == read_summary(out)
        assert len(said) == 1 and said[0].endswith("nothing was trained")
        with pytest.raises(OptionError, match="found --seed 1"):
            train(options.replace(seed=1))


class TestInterrupted:
    def test_ctrl_c_says_that_the_same_command_goes_on(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*LABELS, "--out", tmp_path / "run"]
        interrupt_after(1, *arguments)
        assert "1 of 2 epochs are saved; the same command goes on" in capsys.readouterr().err
        assert run(train_student.main, *arguments) == 0
        assert "resumed after epoch 1 of 2" in capsys.readouterr().out
        assert left_by(tmp_path / "run") == left_by(finished)
        interrupt_after(1, *arguments, "--overwrite")
        message = "1 of 2 epochs are saved; the same command without --overwrite goes on"
        assert message in capsys.readouterr().err

    def test_the_options_of_an_unfinished_run_count_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*LABELS, "--out", tmp_path / "run"]
        interrupt_after(1, *arguments)
        before = content(tmp_path / "run")
        message = refused(train_student.main, capsys, *arguments, "--batch-size", 16)
        assert "found --batch-size 16 (the run has 32), --lr 0.0125 (the run has 0.025)" in message
        assert content(tmp_path / "run") == before

    def test_killed_at_any_moment_it_ends_the_same(self, tmp_path: Path) -> None:
        """Real processes and SIGKILL, at two moments; then the same command."""
        command = [sys.executable, ROOT / "train_student.py", *LABELS, "--epochs", "40"]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}

        def start(out: Path) -> "subprocess.Popen[bytes]":
            words = [str(word) for word in (*command, "--out", out)]
            quiet = subprocess.DEVNULL
            return subprocess.Popen(words, env=environment, stdout=quiet, stderr=quiet)

        assert start(tmp_path / "whole").wait() == 0
        killed = 0
        for epochs in (2, 25):
            child = start(tmp_path / "cut")
            metrics = tmp_path / "cut" / "metrics.jsonl"
            while child.poll() is None:
                if metrics.exists() and len(metrics.read_text().splitlines()) >= epochs:
                    child.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            killed += child.wait() == -signal.SIGKILL
        assert killed == 2
        assert start(tmp_path / "cut").wait() == 0
        assert left_by(tmp_path / "cut") == left_by(tmp_path / "whole")


class TestExtended:
    ASKED = (*LABELS, "--epochs", 5)

    def test_without_the_flag_it_is_named(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = content(out)
        message = refused(train_student.main, capsys, *self.ASKED, "--out", out)
        assert "found --epochs 5 (the run has 2)" in message
        assert message.endswith("or --extend to train it further")
        assert content(out) == before

    def test_epochs_best_and_last_stay_consistent(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = left_by(out)["history"]
        capsys.readouterr()
        assert run(train_student.main, *self.ASKED, "--extend", "--out", out) == 0
        # the cosine of 5 epochs of 3 steps, after 6 of 15 steps, the first of which warms up
        # (0.75 of a step): 0.025 * (1 + cos(pi * (6 - 0.75) / (15 - 0.75))) / 2 = 0.0175
        assert "goes on at 0.018, as in a run of 5 epochs" in capsys.readouterr().out
        history, summary = left_by(out)["history"], left_by(out)["summary"]
        assert history[:2] == first and [record["epoch"] for record in history] == [1, 2, 3, 4, 5]
        assert history[4]["lr"] < 0.001 < history[2]["lr"]
        best = max(history, key=lambda record: record["validation_accuracy"])
        assert (summary["epochs"], summary["best_epoch"]) == (5, best["epoch"])
        assert torch.load(out / "best.pt", weights_only=True)["epoch"] == best["epoch"]
        assert len(torch.load(out / "last.pt", weights_only=True)["history"]) == 5
        config = read_config(out)
        assert config is not None and config.options.epochs == 5 and not config.options.extend
        # now it is a run of 5 epochs
        before = content(out)
        assert run(train_student.main, *self.ASKED, "--out", out) == 0
        assert run(train_student.main, *self.ASKED, "--extend", "--out", out) == 0
        assert content(out) == before

    def test_interrupted_at_any_write_it_ends_the_same(
        self, finished: Path, tmp_path: Path
    ) -> None:
        whole = shutil.copytree(finished, tmp_path / "whole")
        assert run(train_student.main, *self.ASKED, "--extend", "--out", whole) == 0
        for epochs in (1, 2, 3):
            cut = shutil.copytree(finished, tmp_path / f"cut-{epochs}")
            interrupt_after(epochs, *self.ASKED, "--extend", "--out", cut)
            assert not (cut / "summary.json").exists()
            again = ["--resume", cut] if epochs == 2 else [*self.ASKED, "--extend", "--out", cut]
            assert run(train_student.main, *again) == 0
            assert left_by(cut) == left_by(whole)

    @pytest.mark.parametrize("at", ["the summary is removed", "the configuration is written"])
    def test_interrupted_at_its_beginning(
        self, at: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, cut = (shutil.copytree(finished, tmp_path / name) for name in ("whole", "cut"))
        assert run(train_student.main, *self.ASKED, "--extend", "--out", whole) == 0

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        place = "write_json" if "summary" in at else "RunRecorder.resume"
        with monkeypatch.context() as patch:
            patch.setattr(f"kdcache.runs.recorder.{place}", interrupted)
            assert run(train_student.main, *self.ASKED, "--extend", "--out", cut) == 130
        assert not (cut / "summary.json").exists()
        assert run(train_student.main, *self.ASKED, "--extend", "--out", cut) == 0
        assert left_by(cut) == left_by(whole)

    def test_what_makes_no_sense_is_refused(
        self, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = content(out)
        for arguments, message in (
            (["--epochs", 1], "found --epochs 1 (the run has 2); give another --out, or"),
            (["--epochs", 4, "--seed", 1], "found --seed 1 (the run has 0)"),
            (["--epochs", 4, "--student-weights", "none"], "found --student-weights none"),
            (["--epochs", 4, "--overwrite"], "--extend only without --overwrite"),
        ):
            words = [*LABELS, *arguments, "--extend", "--out", out]
            assert message in refused(train_student.main, capsys, *words)
        assert content(out) == before
        nowhere = [*LABELS, "--extend", "--out", tmp_path / "none"]
        message = refused(train_student.main, capsys, *nowhere)
        assert "expected a finished run in --out for --extend; found none in" in message

    def test_an_unfinished_run_is_finished_first(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        interrupt_after(1, *LABELS, "--out", out)
        before = content(out)
        message = refused(train_student.main, capsys, *self.ASKED, "--extend", "--out", out)
        assert f"all its epochs for --extend; found {out} with 1 of 2; finish it first" in message
        assert content(out) == before

    def test_defaults_that_depend_on_the_epochs_stay(self, tmp_path: Path) -> None:
        """Four epochs of two views are matched; seventeen would be unmatched by default."""
        cache = tmp_path / "t.h5"
        teacher = ["--teacher", "tiny_models:tiny_teacher", "--views", 2, "--augment", "flip"]
        assert run(precompute_teacher.main, *SHAPES, *teacher, "--cache", cache) == 0
        arguments = ["--cache", cache, *STUDENT, "--out", tmp_path / "run"]
        assert run(train_student.main, *arguments) == 0
        assert run(train_student.main, *arguments, "--epochs", 17, "--extend") == 0
        config = read_config(tmp_path / "run")
        assert config is not None
        assert (config.options.augment, config.options.epochs) == ("cached", 17)


def test_a_run_of_an_older_version_has_options_that_did_nothing(tmp_path: Path) -> None:
    """0.1.0 recorded --temperature for labels only, too, and --overwrite."""
    out = tmp_path / "run"
    interrupt_after(1, *LABELS, "--out", out)
    document = as_older(out / "config.json")
    document["options"] |= {"temperature": 4.0, "overwrite": True, "resume": None}
    (out / "config.json").write_text(json.dumps(document))
    assert run(train_student.main, "--resume", out) == 0
    config = read_config(out)
    assert config is not None and config.options.temperature == 4.0  # its own record stays
    assert run(train_student.main, *LABELS, "--out", out) == 0


def test_what_is_recorded_was_used(tmp_path: Path) -> None:
    options = TrainOptions(
        dataset="shapes", limit=100, image_size=16, alpha=0.0, temperature=7.0, epochs=1,
        student="tiny_models:tiny_cnn", out=tmp_path / "run",
    )  # fmt: skip
    train(options)
    config = read_config(tmp_path / "run")
    assert config is not None and config.options.temperature == TrainOptions.temperature

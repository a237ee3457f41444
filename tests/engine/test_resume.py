"""A run that was interrupted goes on as if it had not been, or says what is not as it was."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from cache_makers import flip, reverse_logits
from commands import as_older, refused, run

import precompute_teacher
import train_student
from kdcache.cache import open_cache
from kdcache.cli import main as tools
from kdcache.report import plot_style
from kdcache.runs import RunRecorder, only_writer
from kdcache.runtime import files, save_tensors, tensor_files

SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", "2", "--batch-size", "32"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "teacher.h5"
    assert (
        run(
            precompute_teacher.main,
            *SHAPES,
            "--teacher",
            "tiny_models:tiny_teacher",
            "--cache",
            path,
        )
        == 0
    )
    return path


OF_ITS_PLACE = {"name", "seconds", "config_digest", "history_digest", "sha256"}


def left_by(folder: Path) -> dict[str, Any]:
    """What does not depend on the clock or the folder."""
    summary = json.loads((folder / "summary.json").read_text())
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "summary": {key: summary[key] for key in summary.keys() - OF_ITS_PLACE},
        "history": [
            {key: entry[key] for key in entry.keys() - {"seconds", "images_per_second"}}
            for entry in history
        ],
        "weights": {
            key: value.tolist()
            for key, value in torch.load(folder / "student.pt", weights_only=True).items()
        },
        "pictures": {path.name: path.read_bytes() for path in folder.glob("*.png")},
    }


def test_interrupted_after_any_write_it_ends_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirteen files are written in a run of two epochs.

    The run is interrupted after each of them in turn, and resumed by the same command, or by
    --resume.
    """
    arguments = ["--cache", cache, *STUDENT]
    assert run(train_student.main, *arguments, "--out", tmp_path / "whole") == 0
    expected, writes, real = left_by(tmp_path / "whole"), 0, files.write_atomically
    while True:
        writes, out, done = writes + 1, tmp_path / f"after-{writes + 1}", 0

        def counting(path: Path, write: Callable[[BinaryIO], Any], last: int = writes) -> None:
            nonlocal done
            real(path, write)
            done += 1
            if done == last:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            for module in (files, tensor_files, plot_style):
                patch.setattr(module, "write_atomically", counting)
            code = run(train_student.main, *arguments, "--out", out)
        if done < writes:
            break
        assert code == 130
        again = [*arguments, "--out", out] if writes % 2 else ["--resume", out]
        assert run(train_student.main, *again) == 0
        assert left_by(out) == expected, f"interrupted after write {writes}"
    assert writes >= 12 and len(expected["pictures"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint: " + "0" * 64),
        ({"software": "torch 1.0"}, "software: torch 1.0 and torch "),
        ({"device_type": "cuda"}, "device_type: cuda and cpu"),
    ],
)
def test_what_differs_is_named(
    change: dict[str, str],
    message: str,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", tmp_path / "run") == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    state["config"] |= change
    torch.save(state, tmp_path / "run" / "last.pt")
    (tmp_path / "run" / "summary.json").unlink()
    assert message in refused(train_student.main, capsys, "--resume", tmp_path / "run")


def test_other_images_are_noticed_without_a_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train_student.main, *SHAPES, *STUDENT, "--alpha", 0, "--out", tmp_path / "run") == 0
    config = as_older(tmp_path / "run" / "config.json")
    config["options"]["limit"] = 90
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    summary = as_older(tmp_path / "run" / "summary.json")
    del summary["config_digest"]  # as in an older run, where the edit itself is not noticed
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    message = refused(train_student.main, capsys, "--resume", tmp_path / "run")
    assert "expected the cache and images with which" in message and "images: " in message


def test_another_cache_is_noticed(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(cache, tmp_path / "t.h5")
    assert (
        run(train_student.main, "--cache", tmp_path / "t.h5", *STUDENT, "--out", tmp_path / "run")
        == 0
    )
    (tmp_path / "t.h5").unlink()
    teacher = ["--teacher", "tiny_models:tiny_cnn", "--seed", 1]
    assert run(precompute_teacher.main, *SHAPES, *teacher, "--cache", tmp_path / "t.h5") == 0
    assert "fingerprint: " in refused(train_student.main, capsys, "--resume", tmp_path / "run")


def test_a_cache_of_the_same_manifest_with_other_logits_is_noticed(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "t.h5", tmp_path / "run"
    shutil.copy(cache, copy)
    assert run(train_student.main, "--cache", copy, *STUDENT, "--out", out) == 0
    digest = open_cache(copy).content_digest
    for name in ("config.json", "student.json"):
        assert json.loads((out / name).read_text())["content_digest"] == digest
    reverse_logits(copy)
    message = refused(train_student.main, capsys, "--resume", out)
    assert f"the cache's content: {digest} and {open_cache(copy).content_digest}" in message
    # before its first epoch is over, a run has only config.json
    (out / "last.pt").unlink()
    (out / "summary.json").unlink()
    assert "the cache's content: " in refused(train_student.main, capsys, "--resume", out)


def test_an_older_run_knows_no_content(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", out) == 0
    state = torch.load(out / "last.pt", weights_only=True)
    del state["config"]["content_digest"]
    torch.save(state, out / "last.pt")
    document = as_older(out / "config.json")
    del document["content_digest"]
    (out / "config.json").write_text(json.dumps(document))
    (out / "summary.json").unlink()
    assert run(train_student.main, "--resume", out) == 0


def test_a_torn_checkpoint_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", tmp_path / "run") == 0
    whole = (tmp_path / "run" / "last.pt").read_bytes()
    (tmp_path / "run" / "last.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "run" / "summary.json").unlink()
    assert "expected a checkpoint" in refused(
        train_student.main, capsys, "--resume", tmp_path / "run"
    )


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", folder) == 0
    return left_by(folder)


@pytest.fixture(scope="module")
def interrupted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, real = tmp_path_factory.mktemp("interrupted") / "run", RunRecorder.keep_last

    def stop(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecorder, "keep_last", stop)
        assert run(train_student.main, "--cache", cache, *STUDENT, "--out", folder) == 130
    return folder


class TestCheckpointsThatAreNotSound:
    """Of a run that was interrupted after its first epoch of two, its best so far."""

    @pytest.fixture
    def out(self, interrupted: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(interrupted, tmp_path / "run"))

    def damage_best(self, out: Path, how: str) -> None:
        path = out / "best.pt"
        state = torch.load(path, weights_only=True)
        if how == "missing":
            path.unlink()
        elif how == "torn":
            path.write_bytes(path.read_bytes()[:1000])
        elif how == "one bit":
            flip(path, path.stat().st_size // 2, 1)
        elif how == "a tensor":
            save_tensors(path, torch.zeros(3))
        elif how == "another model":
            save_tensors(path, state | {"model": {"weight": torch.zeros(3)}})
        elif how == "no model":
            save_tensors(path, state | {"model": 3})
        else:
            save_tensors(path, state | {"epoch": 7})

    WAYS = ("missing", "torn", "one bit", "a tensor", "another model", "no model", "another epoch")

    @pytest.mark.parametrize("how", WAYS)
    def test_the_last_epoch_speaks_for_the_best(
        self, how: str, out: Path, whole: dict[str, Any]
    ) -> None:
        self.damage_best(out, how)
        assert run(train_student.main, "--resume", out) == 0
        assert left_by(out) == whole

    @pytest.mark.parametrize("how", WAYS)
    def test_or_it_says_that_it_cannot(
        self, how: str, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The best epoch, whose model only best.pt had, is not the last one."""
        state = torch.load(out / "last.pt", weights_only=True)
        state["history"] = [
            state["history"][0] | {"epoch": epoch, "validation_accuracy": accuracy}
            for epoch, accuracy in ((1, 0.9), (2, 0.1))
        ]
        save_tensors(out / "last.pt", state)
        self.damage_best(out, how)
        message = refused(train_student.main, capsys, "--resume", out)
        assert f"{out / 'best.pt'}" in message and message.endswith("train anew")

    def test_a_best_epoch_that_the_last_one_does_not_know_yet(
        self, out: Path, whole: dict[str, Any]
    ) -> None:
        """The run was killed between the two files: the epoch is done again."""
        state = torch.load(out / "best.pt", weights_only=True)
        save_tensors(out / "best.pt", state | {"epoch": 2})
        before = (out / "best.pt").read_bytes()
        recorder = RunRecorder(out)
        last = recorder.read_last(torch.device("cpu"))
        assert last is not None
        recorder.secure_best(last, torch.device("cpu"))
        assert (out / "best.pt").read_bytes() == before

    @pytest.mark.parametrize(
        "change",
        [
            {"model": None},
            {"model": {}},
            {"model": {"0.weight": torch.zeros(2)}},
            {"optimizer": None},
            {"optimizer": {}},
            {"optimizer": {"state": {}, "param_groups": []}},
            {"scaler": 3},
            {"generators": None},
            {"generators": []},
            {"generators": [torch.zeros(3)]},
            {"generators": [3]},
            {"history": None},
            {"history": []},
            {"history": [{"epoch": 2, "validation_accuracy": 0.5}]},
            {"history": [3]},
            {"seconds": None},
            {"seconds": 10**400},
            {"config": None},
            {"config": {}},
        ],
        ids=lambda change: str(change)[:60],
    )
    def test_a_last_one_of_another_structure_is_refused(
        self, change: dict[str, Any], out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        state = torch.load(out / "last.pt", weights_only=True)
        for instead in (state | change, {key: state[key] for key in state.keys() - change.keys()}):
            save_tensors(out / "last.pt", instead)
            message = refused(train_student.main, capsys, "--resume", out)
            assert f"{out / 'last.pt'}" in message and message.endswith("train anew")

    @pytest.mark.parametrize("what", ["momentum", "setting", "type"])
    def test_nor_one_of_another_optimizer(
        self, what: str, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        state = torch.load(out / "last.pt", weights_only=True)
        if what == "momentum":
            state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(7)
        elif what == "setting":
            del state["optimizer"]["param_groups"][0]["weight_decay"]
        else:
            state["optimizer"]["state"][0] = 3
        save_tensors(out / "last.pt", state)
        assert f"{out / 'last.pt'}" in refused(train_student.main, capsys, "--resume", out)

    @pytest.mark.parametrize("content", [[1], torch.zeros(3), 5, {}], ids=str)
    def test_nor_something_else(
        self, content: Any, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_tensors(out / "last.pt", content)
        assert f"{out / 'last.pt'}" in refused(train_student.main, capsys, "--resume", out)


def test_tensorboard_has_every_epoch(cache: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here"
    )
    assert (
        run(
            train_student.main,
            "--cache",
            cache,
            *STUDENT,
            "--tensorboard",
            "--out",
            tmp_path / "run",
        )
        == 0
    )
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "events")).Reload()
    history = left_by(tmp_path / "run")["history"]
    found = [(event.step, event.value) for event in events.Scalars("validation_accuracy")]
    assert found == [
        (entry["epoch"], pytest.approx(entry["validation_accuracy"])) for entry in history
    ]


def test_without_tensorboard_one_line_says_so(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    arguments = ["--cache", cache, *STUDENT, "--tensorboard", "--out", tmp_path / "run"]
    assert (
        "expected the package tensorboard for --tensorboard; found none;"
        " pip install kdcache[tensorboard], or omit it"
    ) in refused(train_student.main, capsys, *arguments)


EDITS = {
    "options.lr": 0.5, "options.temperature": 9.0, "options.alpha": 0.1, "options.epochs": 1,
    "options.seed": 5, "options.batch_size": 16, "options.student": "tiny_models:other",
    "options.train_images": 9, "software": "torch 1", "fingerprint": "0" * 64, "command": "rm",
    "options.data": "elsewhere",
}  # fmt: skip


def edit(folder: Path, key: str) -> None:
    document = as_older(folder / "config.json")
    *outer, name = key.split(".")
    (document[outer[0]] if outer else document)[name] = EDITS[key]
    (folder / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize("key", EDITS)
def test_the_config_of_a_finished_run_is_what_it_was(
    key: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(cache), out)
    assert run(train_student.main, "--resume", out) == 0, "unedited"
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(json.dumps(json.loads(text), indent=4))
    assert run(train_student.main, "--resume", out) == 0, "laid out in another way"
    edit(out, key)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = refused(train_student.main, capsys, "--resume", out)
    assert f"expected {out}/config.json as it was when the run ended" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "config.json").write_text(text)
    summary = as_older(out / "summary.json")
    del summary["config_digest"]
    (out / "summary.json").write_text(json.dumps(summary))
    assert run(train_student.main, "--resume", out) == 0, "an older run has no digest"


@pytest.mark.parametrize(("old", "new"), [('"epochs": 2', '"epochs": 3'), ("--epochs 2", "")])
def test_nor_is_that_of_an_unfinished_one_edited(
    old: str, new: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More epochs by hand, or another command: neither is what the run was begun with."""
    out = tmp_path / "run"
    shutil.copytree(finished(cache), out)
    (out / "summary.json").unlink()
    text = (out / "config.json").read_text()
    assert old in text
    (out / "config.json").write_text(text.replace(old, new))
    message = refused(train_student.main, capsys, "--resume", out)
    assert f"expected {out}/config.json as train_student.py writes it; found sha256:" in message
    (out / "config.json").write_text(text)
    assert run(train_student.main, "--resume", out) == 0


@functools.cache
def finished(cache: Path) -> Path:
    """A finished run beside the cache; no test changes it."""
    out = cache.parent / "finished"
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", out) == 0
    return out


@pytest.mark.parametrize("key", ["options.lr", "options.temperature", "options.seed"])
def test_an_interrupted_one_goes_on_with_what_it_was_begun_with(
    key: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(cache), out)
    (out / "summary.json").unlink()
    edit(out, key)
    message = refused(train_student.main, capsys, "--resume", out)
    assert f"expected {out}/config.json as it was when last.pt was written" in message
    assert f"{key.removeprefix('options.')}: " in message and f"and {EDITS[key]}" in message


def test_tensorboard_writes_nothing_into_somebody_elses_run(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(cache), out)
    (out / "summary.json").unlink()
    arguments = ["--cache", cache, *STUDENT, "--out", out, "--tensorboard"]
    with only_writer(out):
        assert "found one that is still going on" in refused(train_student.main, capsys, *arguments)
    assert not (out / "events").exists()


def test_records_that_do_not_fit_into_memory_are_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sparse file of a petabyte takes no room on the disk."""
    out = tmp_path / "run"
    shutil.copytree(finished(cache), out)
    for name in ("student.json", "config.json"):
        try:
            os.truncate(out / name, 1 << 43)
        except OSError:
            pytest.skip("no such file fits here")
        message = refused(tools.main, capsys, "predict", out, tmp_path)
        assert f"expected {out}/{name} as train_student.py writes it" in message

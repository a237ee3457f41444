"""What the recorder writes of a run, and what it makes of a folder that it finds; no training."""

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from finished_runs import summary_of

import kdcache
from kdcache.config import TrainOptions
from kdcache.data.splits import ImageData, Split
from kdcache.errors import DataError, OptionError
from kdcache.models import Preprocessing, StudentCard, read_student_card
from kdcache.runs import (
    EpochRecord,
    RunConfig,
    RunRecorder,
    make_run_config,
    read_config,
    read_history,
    read_summary,
)
from kdcache.runs import recorder as recorder_module
from kdcache.runs.folder import config_digest, history_digest
from kdcache.runs.predictions import read_predictions
from kdcache.runs.recorder import Checkpoint
from kdcache.runtime import save_tensors

CPU, META = torch.device("cpu"), torch.device("meta")
HISTORY = [EpochRecord(1, 0.5), EpochRecord(2, 0.75), EpochRecord(3, 0.625)]
MODEL = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    options = TrainOptions(alpha=0.0, epochs=3, out=tmp_path)
    return RunConfig(options, None, "i" * 64, "torch 9", "cpu", "the command")


@pytest.fixture
def recorder(tmp_path: Path) -> RunRecorder:
    return RunRecorder(tmp_path)


@pytest.fixture
def last(recorder: RunRecorder, config: RunConfig) -> Checkpoint:
    """After three epochs, of which the second was the best; best.pt is there."""
    recorder.begin(config, False, CPU)
    recorder.keep_best(MODEL, HISTORY[1])
    recorder.keep_last({"model": MODEL}, HISTORY, 12.5, config)
    found = recorder.read_last(CPU)
    assert found is not None
    return found


def test_what_a_run_is_begun_with() -> None:
    pixels = torch.arange(4 * 3 * 8 * 8, dtype=torch.uint8).reshape(4, 3, 8, 8)
    split = Split(pixels, torch.tensor([0, 1, 0, 1]))
    images = ImageData("indexed", ("a", "b"), {"train": split})
    options, resolved = TrainOptions(alpha=0.0, seed=3), TrainOptions(alpha=0.0, lr=0.25)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    software = f"kdcache {kdcache.__version__}, {versions}"
    command = "python train_student.py --seed 3 --alpha 0.0"
    digest = images.splits["train"].digest()
    expected = RunConfig(resolved, None, digest, software, "cpu", command, None)
    assert make_run_config(options, resolved, images, None, CPU) == expected
    cache: Any = SimpleNamespace(fingerprint="f" * 64, content_digest="c" * 64)
    found = make_run_config(options, resolved, images, cache, CPU)
    assert (found.fingerprint, found.content_digest, found.images) == ("f" * 64, "c" * 64, None)


class TestBegin:
    def test_a_new_run(self, recorder: RunRecorder, config: RunConfig) -> None:
        assert recorder.begin(config, False, CPU) is None
        assert read_config(recorder.folder) == config
        assert [path.name for path in recorder.folder.iterdir()] == ["config.json"]

    def test_one_that_was_begun_goes_on(self, recorder: RunRecorder, config: RunConfig) -> None:
        recorder.begin(config, False, CPU)
        before = (recorder.folder / "config.json").stat()
        other = dataclasses.replace(config, command="another")
        assert recorder.begin(other, False, CPU) is None
        assert (recorder.folder / "config.json").stat() == before

    def test_or_is_replaced(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        other = dataclasses.replace(config, command="another")
        assert recorder.begin(other, True, CPU) is None
        assert read_config(recorder.folder) == other
        assert [path.name for path in recorder.folder.iterdir()] == ["config.json"]

    def more(self, config: RunConfig, **changes: Any) -> RunConfig:
        return dataclasses.replace(config, options=config.options.replace(epochs=5), **changes)

    def test_a_finished_one_is_extended(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        # of those that are removed one, which an interruption took, is not there
        for name in ("summary.json", "predictions.pt", "student.json", "notes.txt"):
            (recorder.folder / name).touch()
        assert recorder.begin(self.more(config), False, CPU) == 3
        assert read_config(recorder.folder) == self.more(config)
        left = {path.name for path in recorder.folder.iterdir()}
        assert left == {"config.json", "metrics.jsonl", "best.pt", "last.pt", "notes.txt"}

    @pytest.mark.parametrize("done", [0, 2])
    def test_an_unfinished_one_is_not(
        self, done: int, recorder: RunRecorder, config: RunConfig
    ) -> None:
        recorder.begin(config, False, CPU)
        if done:
            recorder.keep_last({"model": MODEL}, HISTORY[:done], 12.5, config)
        with pytest.raises(OptionError) as error:
            recorder.begin(self.more(config), False, CPU)
        assert str(error.value) == (
            f"expected a run with all its epochs for --extend; found {recorder.folder} with {done}"
            " of 3; finish it first, with --epochs 3 and without --extend"
        )
        assert read_config(recorder.folder) == config

    def test_nor_with_other_images(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        (recorder.folder / "summary.json").touch()
        for field, value in (("images", "j" * 64), ("software", "torch 10")):
            with pytest.raises(DataError, match=f"{field}: ") as error:
                recorder.begin(self.more(config, **{field: value}), False, CPU)
            assert str(recorder.folder) in str(error.value)
        assert (recorder.folder / "summary.json").exists()

    def test_nor_where_nothing_can_be_removed(
        self,
        last: Checkpoint,
        recorder: RunRecorder,
        config: RunConfig,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(folder: Path, names: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        (recorder.folder / "summary.json").touch()
        monkeypatch.setattr(recorder_module, "remove", refuse)
        with pytest.raises(DataError, match=f"{recorder.folder}"):
            recorder.begin(self.more(config), False, CPU)


class TestLast:
    def test_it_comes_back(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        assert (last.history, last.seconds, last.config) == (tuple(HISTORY), 12.5, config)
        assert last.trainer.keys() == {"model"}
        assert all(torch.equal(last.trainer["model"][key], MODEL[key]) for key in MODEL)
        assert read_history(recorder.folder) == HISTORY
        lines = (recorder.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [record.to_json() for record in HISTORY]

    def test_there_is_none(self, recorder: RunRecorder) -> None:
        assert recorder.read_last(CPU) is None

    def test_it_comes_back_on_the_device(self, last: Checkpoint, recorder: RunRecorder) -> None:
        found, (best, _, _) = recorder.read_last(META), recorder.read_best(META)
        assert found is not None and found.trainer["model"]["weight"].device == META
        assert best["weight"].device == META
        resumed = list[dict[str, Any]]()
        recorder.resume(last.config, META, resumed.append)
        assert resumed[0]["model"]["weight"].device == META

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"history": []}, "every epoch from the first one on"),
            ({"history": [record.to_json() for record in HISTORY[1:]]}, "every epoch from the"),
            ({"history": [{"epoch": 1}]}, "validation_accuracy: missing"),
            ({"history": 3}, "TypeError"),
            ({"seconds": "many"}, "ValueError"),
            ({"seconds": [1]}, "TypeError"),
            ({"config": {}}, "options: missing"),
        ],
        ids=str,
    )
    def test_one_of_another_structure_is_refused(
        self, change: dict[str, Any], fault: str, last: Checkpoint, recorder: RunRecorder
    ) -> None:
        path = recorder.folder / "last.pt"
        save_tensors(path, torch.load(path, weights_only=True) | change)
        with pytest.raises(DataError) as error:
            recorder.read_last(CPU)
        assert error.value.expected == f"{path} as train_student.py writes it"
        assert error.value.remedy == "train anew" and fault in error.value.found
        assert len(error.value.found) <= 200

    @pytest.mark.parametrize("content", [[1], torch.zeros(3), {"history": []}], ids=str)
    def test_so_is_something_else(self, content: Any, recorder: RunRecorder) -> None:
        save_tensors(recorder.folder / "last.pt", content)
        with pytest.raises(DataError, match=r"last\.pt as train_student"):
            recorder.read_last(CPU)


class TestResume:
    def test_a_trainer_is_given_its_state(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        taken: list[dict[str, Any]] = []
        found = recorder.resume(config, CPU, taken.append)
        assert found is not None and found.history == last.history
        assert torch.equal(taken[0]["model"]["weight"], MODEL["weight"])

    def test_a_run_without_epochs_has_none(self, recorder: RunRecorder, config: RunConfig) -> None:
        for _ in range(2):  # without a config.json, and with one
            assert recorder.resume(config, CPU, pytest.fail) is None
            recorder.begin(config, False, CPU)
        with pytest.raises(DataError, match="images: "):
            recorder.resume(dataclasses.replace(config, images="j" * 64), CPU, pytest.fail)
        with pytest.raises(DataError, match=f"{recorder.folder}"):
            recorder.resume(dataclasses.replace(config, images="j" * 64), CPU, pytest.fail)

    def test_what_does_not_fit_is_told(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        def refuse(state: dict[str, Any]) -> None:
            raise ValueError("no such layer")

        with pytest.raises(DataError, match="no such layer"):
            recorder.resume(config, CPU, refuse)
        with pytest.raises(DataError, match="device_type: cpu and cuda"):
            recorder.resume(dataclasses.replace(config, device_type="cuda"), CPU, pytest.fail)

    def test_other_images_are_noticed_without_a_config(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        (recorder.folder / "config.json").unlink()
        with pytest.raises(DataError, match="images: "):
            recorder.resume(dataclasses.replace(config, images="j" * 64), CPU, pytest.fail)

    def test_so_is_an_edit(
        self, last: Checkpoint, recorder: RunRecorder, config: RunConfig
    ) -> None:
        now = dataclasses.replace(config, options=config.options.replace(lr=0.5, seed=7))
        with pytest.raises(DataError) as error:
            recorder.resume(now, CPU, pytest.fail)
        assert str(error.value) == (
            f"expected {recorder.folder}/config.json as it was when last.pt was written;"
            " found seed: 0 and 7; undo the edit or train anew"
        )  # the learning rate was left to its default
        more = dataclasses.replace(config, options=config.options.replace(epochs=9))
        assert recorder.resume(more, CPU, lambda state: None) is not None
        fewer = dataclasses.replace(config, options=config.options.replace(epochs=2))
        with pytest.raises(DataError, match="epochs: 3 and 2"):
            recorder.resume(fewer, CPU, pytest.fail)


class TestOrder:
    """What is there promises what was written before it."""

    @pytest.fixture
    def named(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The files, in the order in which they get their names."""
        names, replace = [], os.replace

        def noted(source: Path, target: Path) -> None:
            names.append(target.name)
            replace(source, target)

        monkeypatch.setattr(os, "replace", noted)
        return names

    def test_the_metrics_before_the_checkpoint(
        self, recorder: RunRecorder, config: RunConfig, named: list[str]
    ) -> None:
        recorder.keep_last({"model": MODEL}, HISTORY, 12.5, config)
        assert named == ["metrics.jsonl", "last.pt"]

    def test_the_summary_last(
        self, recorder: RunRecorder, config: RunConfig, named: list[str]
    ) -> None:
        recorder.begin(config, False, CPU)
        card = StudentCard(Preprocessing(32, (0.5,) * 3, (0.25,) * 3, ("a", "b")), "resnet18")
        summary = summary_of("run", 0.5, alpha=0.0)
        labels, student, teacher = torch.tensor([1, 0]), torch.eye(2), 2 * torch.eye(2)
        recorder.finish(summary, card, MODEL, labels, student, teacher)
        files = ["config.json", "predictions.pt", "student.pt", "student.json", "summary.json"]
        assert named == files
        folder = recorder.folder
        digests = {
            "config_digest": config_digest(folder),
            "history_digest": history_digest(folder),
        }
        assert read_summary(folder) == dataclasses.replace(summary, **digests)
        assert read_student_card(folder / "student.json") == card
        weights = torch.load(folder / "student.pt", weights_only=True)
        assert weights.keys() == MODEL.keys()
        assert all(torch.equal(weights[key], MODEL[key]) for key in MODEL)
        read = read_predictions(folder / "predictions.pt")
        assert read is not None and read.teacher is not None
        assert read.labels.tolist() == [1, 0]
        assert read.student.tolist() == [[0, -1], [-1, 0]]
        assert read.teacher.tolist() == [[0, -2], [-2, 0]]
        recorder.finish(summary, card, MODEL, labels, student, None)
        read = read_predictions(folder / "predictions.pt")
        assert read is not None and read.teacher is None

    def test_the_digest_is_of_what_the_file_says(
        self, recorder: RunRecorder, config: RunConfig
    ) -> None:
        recorder.begin(config, False, CPU)
        path = recorder.folder / "config.json"
        document = json.loads(path.read_text())
        text = json.dumps(document, sort_keys=True)
        assert config_digest(recorder.folder) == hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(dict(reversed(document.items())), indent=3))
        assert config_digest(recorder.folder) == hashlib.sha256(text.encode()).hexdigest()


class TestBest:
    def test_it_comes_back(self, last: Checkpoint, recorder: RunRecorder) -> None:
        model, epoch, accuracy = recorder.read_best(CPU)
        assert (epoch, accuracy) == (2, 0.75) and model.keys() == MODEL.keys()
        assert torch.equal(model["weight"], MODEL["weight"])

    @pytest.mark.parametrize(
        "change",
        [{"model": 3}, {"epoch": "two"}, {"epoch": float("inf")}, {"validation_accuracy": None}],
        ids=str,
    )
    def test_one_of_another_structure_is_refused(
        self, change: dict[str, Any], last: Checkpoint, recorder: RunRecorder
    ) -> None:
        path = recorder.folder / "best.pt"
        save_tensors(path, torch.load(path, weights_only=True) | change)
        with pytest.raises(DataError, match=r"best\.pt as train_student\.py writes it") as error:
            recorder.read_best(CPU)
        assert "Error(" in error.value.found  # what Python said
        save_tensors(path, {name: 1 for name in change})
        with pytest.raises(DataError, match=r"best\.pt as train_student\.py writes it"):
            recorder.read_best(CPU)

    def test_a_sound_one_stays(self, last: Checkpoint, recorder: RunRecorder) -> None:
        before = (recorder.folder / "best.pt").stat()
        recorder.secure_best(last, CPU)
        assert (recorder.folder / "best.pt").stat() == before

    def test_so_does_that_of_the_epoch_that_is_done_again(
        self, last: Checkpoint, recorder: RunRecorder
    ) -> None:
        recorder.keep_best(MODEL, EpochRecord(4, 0.875))
        recorder.secure_best(last, CPU)
        assert recorder.read_best(CPU)[1] == 4

    @pytest.mark.parametrize(
        "model",
        [
            {"weight": MODEL["weight"]},
            MODEL | {"more": torch.ones(2)},
            MODEL | {"bias": torch.ones(3)},
            MODEL | {"bias": 3},
        ],
        ids=["less", "more", "another shape", "no tensor"],
    )
    @pytest.mark.parametrize("epoch", [2, 4])
    def test_another_model_is_refused(
        self, epoch: int, model: dict[str, Any], last: Checkpoint, recorder: RunRecorder
    ) -> None:
        recorder.keep_best(model, EpochRecord(epoch, 0.75))
        with pytest.raises(DataError, match="a model that is not the one of epoch 2"):
            recorder.secure_best(last, CPU)

    @pytest.mark.parametrize("epoch", [1, 3, 5])
    def test_so_is_that_of_another_epoch(
        self, epoch: int, last: Checkpoint, recorder: RunRecorder
    ) -> None:
        recorder.keep_best(MODEL, EpochRecord(epoch, 0.75))
        with pytest.raises(DataError, match="a model that is not the one of epoch 2"):
            recorder.secure_best(last, CPU)

    @pytest.mark.parametrize("damage", ["missing", "another epoch", "another model"])
    def test_the_last_epochs_model_is_in_last_pt_too(
        self, damage: str, recorder: RunRecorder, config: RunConfig
    ) -> None:
        history = [*HISTORY[:2], EpochRecord(3, 0.875)]
        if damage != "missing":
            model = {} if damage == "another model" else MODEL
            recorder.keep_best(model, HISTORY[0] if damage == "another epoch" else history[2])
        recorder.keep_last({"model": MODEL}, history, 12.5, config)
        last = recorder.read_last(CPU)
        assert last is not None
        recorder.secure_best(last, CPU)
        model, epoch, accuracy = recorder.read_best(CPU)
        assert (epoch, accuracy) == (3, 0.875)
        assert torch.equal(model["weight"], MODEL["weight"])

    def test_the_first_of_equals_is_the_best(
        self, recorder: RunRecorder, config: RunConfig
    ) -> None:
        history = [EpochRecord(1, 0.75), EpochRecord(2, 0.75)]
        recorder.keep_last({"model": MODEL}, history, 12.5, config)
        last = recorder.read_last(CPU)
        assert last is not None
        with pytest.raises(DataError, match=r"best\.pt, which is not one"):
            recorder.secure_best(last, CPU)

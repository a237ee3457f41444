"""The epoch with the best validation is kept, and it alone is tested, once, at the end."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.config import TrainOptions
from kdcache.data import ImageData
from kdcache.engine import StudentRun, TrainingCallbacks, TrainingData, train_student
from kdcache.engine.student import Evaluation, Student
from kdcache.runs import EpochRecord, read_run

# Validation accuracies of five epochs: the third ties with the second, which came first.
VALIDATION = (0.2, 0.6, 0.6, 0.4, 0.5)


class Weights(TrainingCallbacks):
    """Keeps the student's weights of every epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
        state = run.trainer.student.module.state_dict()
        self.seen.append({key: value.clone() for key, value in state.items()})


def test_it_is_chosen_by_validation_and_the_test_images_are_seen_once(
    indexed_images: Callable[..., ImageData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, asked, real = indexed_images(), [], Student.evaluate
    epochs = iter(VALIDATION)

    def evaluate(self: Student, split: Any) -> Evaluation:
        (name,) = (name for name, part in images.splits.items() if part is split)
        asked.append(name)
        found = real(self, split)
        return dataclasses.replace(
            found, accuracy=next(epochs, 0.6) if name == "validation" else 0.123
        )

    monkeypatch.setattr(Student, "evaluate", evaluate)
    options = TrainOptions(
        student="tiny_models:tiny_cnn",
        student_weights="none",
        image_size=16,
        dataset="indexed:READER",
        alpha=0,
        epochs=5,
        batch_size=8,
        device="cpu",
        out=tmp_path / "run",
    )
    weights = Weights()
    summary = train_student(options, TrainingData(images, None), weights)
    assert asked[:5] == ["validation"] * 5 and asked.count("test") == 1
    assert (summary.best_epoch, summary.validation_accuracy, summary.epochs) == (2, 0.6, 5)
    assert summary.test_accuracy == 0.123
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    student = torch.load(tmp_path / "run" / "student.pt", weights_only=True)
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    for key, value in weights.seen[1].items():
        assert torch.equal(student[key], value) and torch.equal(best["model"][key], value)
        assert torch.equal(last["model"][key], weights.seen[4][key])
    assert not torch.equal(weights.seen[1]["0.weight"], weights.seen[2]["0.weight"])
    predictions = read_run(tmp_path / "run").predictions
    assert predictions is not None
    assert torch.equal(predictions.labels, images.splits["test"].labels)

"""Run folders as train_student.py leaves them, small, with numbers computed from indices."""

import json
from pathlib import Path
from typing import Any

import torch

from kdcache.config import TrainOptions
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, StudentCard
from kdcache.runs import EpochRecord, RunConfig, RunSummary, TeacherScores
from kdcache.runs.predictions import save_predictions

NAMES = ("cat", "<script>alert('dog')</script>", "owl & rat", "ant")
IMAGES = 40


def logits(shift: int) -> torch.Tensor:
    """float `(40, 4)` for labels `row % 4`.

    They are right but for every `shift + 2`-th row, which is taken for the next class.
    """
    rows = torch.arange(IMAGES)
    predictions = (rows + (rows % (shift + 2) == 0)) % len(NAMES)
    return torch.nn.functional.one_hot(predictions, len(NAMES)) * (
        1.0 + rows[:, None] % 5
    ) - 0.01 * torch.arange(4)


def write_run(
    folder: Path,
    test: float | None,
    *,
    alpha: float = 0.0,
    temperature: float = 4.0,
    seed: int = 0,
    predictions: bool = True,
    finished: bool = True,
    **changes: Any,
) -> Path:
    """A run with the test accuracy `test`; `changes` are of its summary.

    Without `predictions`, one of an older version.
    """
    folder.mkdir(parents=True)
    options = TrainOptions(
        alpha=alpha, temperature=temperature, seed=seed, out=folder, student="resnet18", epochs=3
    )
    _write(folder / "config.json", RunConfig(options, software="torch 9").to_json())
    history = [EpochRecord(n, 0.2 * n + 0.01 * seed, agreement=0.1 * n) for n in (1, 2, 3)]
    lines = [json.dumps(record.to_json()) for record in history]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    preprocessing = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, NAMES)
    _write(folder / "student.json", StudentCard(preprocessing, "resnet18").to_json())
    if finished:
        summary = summary_of(str(folder), test, alpha=alpha, temperature=temperature, seed=seed)
        _write(folder / "summary.json", summary.to_json() | changes)
    if predictions:
        save_predictions(
            folder / "predictions.pt",
            torch.arange(IMAGES) % 4,
            student=logits(seed + 2 * (alpha > 0)),
            teacher=logits(5) if alpha else None,
        )
    return folder


def summary_of(
    name: str, test: float | None, *, alpha: float, temperature: float = 4.0, seed: int = 0
) -> RunSummary:
    """A summary whose numbers follow from alpha and the seed."""
    distilled = alpha > 0
    return RunSummary(
        name,
        "resnet18",
        alpha,
        validation_accuracy=0.6 + 0.1 * alpha + 0.01 * seed,
        test_accuracy=test,
        test_images=IMAGES,
        parameters=11_000_000,
        dataset="folder",
        temperature=temperature,
        projection="probe" if distilled else None,
        views="matched" if distilled else None,
        seed=seed,
        epochs=3,
        seconds=30.0 + seed + 10 * alpha,
        test_digest="d" * 64,
        fingerprint="f" * 64 if distilled else None,
        teacher=TeacherScores("vit_b_16", 0.9, 0.89) if distilled else None,
    )


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Labels only and four distilled groups (T 2 and 4, alpha 0.5 and 0.9), and an unfinished run.

    Three seeds of each.
    """
    for seed in range(3):
        write_run(folder / f"labels-{seed}", 0.5 + 0.01 * seed, seed=seed, **changes)
        for alpha in (0.5, 0.9):
            for temperature in (2.0, 4.0):
                test = 0.6 + 0.02 * seed + 0.01 * temperature * alpha
                recipe = {"alpha": alpha, "temperature": temperature, "seed": seed}
                write_run(folder / f"T{temperature:g}-a{alpha}-{seed}", test, **recipe, **changes)
    write_run(folder / "late", None, finished=False)
    return folder

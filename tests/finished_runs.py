"""Run folders as train_student.py leaves them, small, with numbers computed from indices."""

import json
from pathlib import Path
from typing import Any

import torch

from kdcache.config import TrainOptions
from kdcache.runs.predictions import save_predictions

NAMES = ("cat", "<script>alert('dog')</script>", "owl & rat", "ant")
IMAGES = 40


def logits(shift: int) -> torch.Tensor:
    """float `(40, 4)` for labels `row % 4`: right but for every `shift + 2`-th row, which is taken for the next class."""
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
    """A run with the test accuracy `test`; `changes` are of its summary. Without `predictions`, one of an older version."""
    folder.mkdir(parents=True)
    options = TrainOptions(
        alpha=alpha, temperature=temperature, seed=seed, out=folder, student="resnet18", epochs=3
    )
    (folder / "config.json").write_text(
        json.dumps({"options": options.as_dict(), "software": "torch 9"})
    )
    history = [
        {"epoch": epoch, "validation_accuracy": 0.2 * epoch + 0.01 * seed, "agreement": 0.1 * epoch}
        for epoch in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps(record) for record in history) + "\n"
    )
    (folder / "student.json").write_text(json.dumps({"class_names": NAMES}))
    teacher = {"name": "vit_b_16", "validation_accuracy": 0.9, "test_accuracy": 0.89}
    summary = {
        "name": str(folder), "student": "resnet18", "parameters": 11_000_000, "dataset": "folder", "alpha": alpha,
        "temperature": temperature, "projection": "probe" if alpha else None, "views": "matched" if alpha else None,
        "seed": seed, "epochs": 3, "validation_accuracy": 0.6 + 0.1 * alpha + 0.01 * seed, "test_accuracy": test,
        "test_images": IMAGES, "test_digest": "d" * 64, "seconds": 30.0 + seed + 10 * alpha,
        "teacher": teacher if alpha else None, "fingerprint": "f" * 64 if alpha else None, **changes,
    }  # fmt: skip
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary))
    if predictions:
        taught = logits(5) if alpha else None
        save_predictions(
            folder / "predictions.pt",
            torch.arange(IMAGES) % 4,
            student=logits(seed + 2 * (alpha > 0)),
            teacher=taught,
        )
    return folder


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Labels only and four distilled groups (T 2 and 4, alpha 0.5 and 0.9), three seeds each, and an unfinished run."""
    for seed in range(3):
        write_run(folder / f"labels-{seed}", 0.5 + 0.01 * seed, seed=seed, **changes)
        for alpha in (0.5, 0.9):
            for temperature in (2.0, 4.0):
                test = 0.6 + 0.02 * seed + 0.01 * temperature * alpha
                recipe = {"alpha": alpha, "temperature": temperature, "seed": seed}
                write_run(folder / f"T{temperature:g}-a{alpha}-{seed}", test, **recipe, **changes)
    write_run(folder / "late", None, finished=False)
    return folder

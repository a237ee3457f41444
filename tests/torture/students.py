"""Students killed by SIGKILL at random moments and resumed: each equals the undisturbed one.

Simulated: the death of the process at any moment of a run of phase two, between reading the cache
and writing the summary, on a CPU with one thread. Weights, best epoch, history (but for its times)
and test accuracy are compared, bit for bit.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcache.config import PrecomputeOptions, TrainOptions
from kdcache.data.datasets import load_images
from kdcache.engine.precomputation import precompute
from kdcache.engine.student_run import train_student
from kdcache.engine.teacher import prepare_teacher
from kdcache.engine.training_data import TrainingData, load_training_data
from kdcache.models.build import build_model
from kdcache.runs import resumed_options
from torture.common import Child, Row, fork, main

CPU = torch.device("cpu")


def with_dropout() -> nn.Module:
    """A student whose generator has to be resumed too."""
    features = (
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Dropout(0.3), nn.Linear(128, 10))


def prepare(folder: Path) -> tuple[TrainOptions, TrainingData]:
    """A small cache, and the options of its students."""
    name = f"{__name__}:with_dropout"
    options = PrecomputeOptions(
        dataset="shapes",
        limit=100,
        cache=folder / "t.h5",
        teacher=name,
        views=3,
        augment="crop-flip",
    )
    teacher = prepare_teacher(build_model(name, None, seed=0, image_size=16), CPU, "fp32")
    precompute(teacher, load_images("shapes", Path(), limit=100), options, lambda *_: None)
    student = TrainOptions(
        cache=options.cache, student=name, epochs=4, batch_size=16, projection="probe", device="cpu"
    )
    training_data = load_training_data(student)
    training_data.targets("probe")  # fitted before the clock runs
    return student, training_data


def train(options: TrainOptions, training_data: TrainingData) -> Child:
    """Begin a run, or go on with what its folder holds, in a child."""

    def work(report: Any) -> None:
        torch.set_num_threads(1)
        begun = (options.out / "config.json").exists()
        resumed = resumed_options(options.out, student=options.student) if begun else options
        train_student(resumed, training_data)

    return fork(work)


OF_ITS_PLACE = {"seconds", "name", "config_digest", "history_digest", "sha256"}
"""What a summary says of its run's duration and folder, and the digests of files that name them."""


def result(folder: Path) -> dict[str, Any]:
    """Everything that a finished run left, but for times and its own name."""
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {key: entry[key] for key in entry.keys() - {"seconds", "images_per_second"}}
        for entry in history
    ]
    summary = json.loads((folder / "summary.json").read_text())
    weights = torch.load(folder / "student.pt", weights_only=True)
    best = torch.load(folder / "best.pt", weights_only=True)
    return {
        "history": timeless,
        "summary": {key: summary[key] for key in summary.keys() - OF_ITS_PLACE},
        "weights": {key: value.numpy().tobytes() for key, value in weights.items()},
        "best": {key: value.numpy().tobytes() for key, value in best["model"].items()},
    }


def run(count: int, seed: int) -> Row:
    """Kill `count` times, over as many students as that takes."""
    generator = random.Random(seed)
    row = Row("students killed by SIGKILL at random moments and resumed", count)
    kills = students = 0
    with tempfile.TemporaryDirectory() as folder:
        options, training_data = prepare(Path(folder))
        undisturbed = options.replace(out=Path(folder) / "undisturbed")
        started = time.monotonic()
        code, _ = train(undisturbed, training_data).finish()
        duration = time.monotonic() - started
        if code != 0:
            row.violations.append(f"the undisturbed run ended with {code}")
            return row
        expected = result(undisturbed.out)
        while kills < count:
            one, finished = options.replace(out=Path(folder) / f"{students}"), False
            while not finished:
                child = train(one, training_data)
                if kills < count:
                    time.sleep(generator.random() * 0.9 * duration)
                    child.kill()
                code, _ = child.finish()
                finished, kills = code == 0, kills + (code == -9)
                if code not in (0, -9):
                    row.violations.append(f"student {students} ended with {code}")
                    return row
            found = result(one.out)
            row.violations += [
                f"student {students}: another {key}"
                for key in expected
                if found[key] != expected[key]
            ]
            students += 1
    row.count = kills
    row.outcome = (
        f"{students} students, each with the undisturbed one's weights, history and test accuracy,"
        " bit for bit"
    )
    return row


if __name__ == "__main__":
    main(run, 10)

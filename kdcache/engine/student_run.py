"""One run of phase two, from options to the folder that it leaves."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

import kdcache
from kdcache.config import TrainOptions
from kdcache.data import Split
from kdcache.distill import TeacherTargets
from kdcache.engine.resolve import check_combination, check_processes, choose_projection, resolve
from kdcache.engine.trainer import Evaluation, Trainer, build_student
from kdcache.engine.training_data import TrainingData
from kdcache.errors import KdcacheError
from kdcache.models import CARD_FILE, StudentCard, student_state_dict
from kdcache.runs import read_summary, save_predictions, start_run
from kdcache.runtime import (
    SINGLE_PROCESS,
    Processes,
    load_tensors,
    pick_device,
    save_tensors,
    write_json,
    write_text,
)


class StudentRun:
    """Trains one student and leaves config, metrics, checkpoints, student, predictions and summary in `options.out`.

    Args:
        say: prints a line.
        progress: called with (steps done, steps in all).
        show: called with (this run, step, image_index, view_index, inputs) of each batch.
        processes: train this student together; the first one writes.
        show_epoch: called with a short line about each epoch, for a progress bar.
    """

    def __init__(
        self,
        options: TrainOptions,
        training_data: TrainingData,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
        show: Callable[..., None] | None = None,
        processes: Processes = SINGLE_PROCESS,
        show_epoch: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._processes, self._show_epoch = processes, show_epoch
        self._say, self._progress, self._show = say, progress, show
        command = (
            options.command_line()
        )  # before the defaults that depend on cache and device are filled in
        self.cache = training_data.cache
        rows = training_data.images.splits["train"].spread(options.train_images)
        self.images = training_data.images.with_train(rows)
        self.targets: TeacherTargets | None = None
        self.view_table: np.ndarray | None = (
            None  # int16 (N, V, 5), the views that this student has
        )
        teacher_classes = 0
        if self.cache is not None:
            options = choose_projection(options, self.cache)
            self.view_table = self.cache.splits["train"].views[rows, : options.views]
            teacher_classes = self.cache.manifest.teacher.classes
            self.targets = training_data.targets(options.projection).of(
                rows, self.view_table.shape[1]
            )
        check_combination(options)
        check_processes(options, len(self.images.splits["train"]), processes)
        self.device = pick_device(options.device, processes.local_rank)
        self.student = build_student(options, len(self.images.class_names), teacher_classes)
        views = 1 if self.view_table is None else self.view_table.shape[1]
        self.options = resolve(options, views, self.student, self.device)
        live = None
        if options.live_teacher and options.alpha > 0:
            live = training_data.online_teacher(
                options.projection, options.teacher_weights, rows, self.device
            )
        self.trainer = Trainer(
            self.options,
            self.student,
            self.images,
            self.targets,
            self.view_table,
            self.device,
            live,
            processes,
        )
        # a cache's fingerprint speaks for its images
        self._images_digest = None if self.cache else self.images.splits["train"].digest()
        self._events = (
            _event_writer(options.out) if options.tensorboard and processes.is_main else None
        )
        self.history: list[dict[str, float]] = []
        self.test: Evaluation | None = None
        self._seconds = 0.0
        if options.resume is not None:
            self._restore(options.resume)
        else:
            processes.broadcast_object(lambda: self._begin(command))

    def _begin(self, command: str) -> None:
        start_run(self.options.out, self.options.overwrite)
        write_json(self.options.out / "config.json", self._config() | {"command": command})

    def train(self, stop: Callable[[list[dict[str, float]]], bool] | None = None) -> None:
        """All epochs, each followed by validation and a checkpoint.

        Args:
            stop: called with the history after each epoch but the last; where it says True the run ends there.
        """
        self._say(self._plan())
        try:
            for epoch in range(len(self.history), self.options.epochs):
                if epoch > 0 and stop is not None and stop(self.history):
                    break
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
        record |= self._validate() | {
            "seconds": seconds,
            "images_per_second": len(self.images.splits["train"]) / seconds,
        }
        self._seconds += time.perf_counter() - started
        self._keep(record)
        self._say(_epoch_line(record, self.options.epochs))
        self._show_epoch(
            f"loss {record['train_loss']:.3f}, validation {record['validation_accuracy']:.1%},"
            f" {record['images_per_second']:,.0f} images/s"
        )

    def finish(self) -> dict[str, Any]:
        """Test the best epoch's student, once, and write its predictions, the student and the summary. Returns the summary."""
        out = self.options.out
        self._processes.barrier()  # until the first has written the best epoch
        best = torch.load(out / "best.pt", map_location=self.device, weights_only=True)
        self.trainer.module.load_state_dict(best["model"])
        self.test = test = self.trainer.evaluate(self.images.splits["test"])
        summary = self._summary(best, test.accuracy)
        if not self._processes.is_main:
            return summary
        teacher = self.targets.predictions["test"] if self.targets else None
        save_predictions(
            out / "predictions.pt",
            self.images.splits["test"].labels,
            student=test.logits,
            teacher=teacher,
        )
        save_tensors(
            out / "student.pt", student_state_dict(self.trainer.module, self.trainer.classes)
        )
        preprocessing = dataclasses.replace(
            self.student.preprocessing, class_names=self.images.class_names
        )
        card = StudentCard(
            preprocessing,
            self.options.student,
            self.options.small_stem,
            self.images.image_shape,
            self._fingerprint(),
        )
        write_json(out / CARD_FILE, card.to_json())
        write_json(out / "summary.json", summary)
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
            best = _best_labels_only(options.out, self.images.splits["validation"])
            if options.alpha > 0 and best is not None and best[1] > accuracy:
                lines.append(
                    f"warning: {best[0]}, trained on labels only, names {best[1]:.1%} right, more than this teacher:"
                    " distilling can hardly help"
                )
        if self.targets is not None and options.alpha > 0:
            views = self.view_table.shape[1]
            if options.live_teacher:
                lines.append(
                    "the teacher runs in every step, on what the student sees; its cached logits are not read"
                )
            elif options.augment not in ("cached", "none"):
                lines.append(
                    f"augmentation {options.augment} is the student's own: the soft targets are those of the whole image"
                    " (unmatched views)"
                )
            elif options.epochs > views:
                times = options.epochs / views
                lines.append(
                    f"{options.epochs} epochs share {views} cached views: each is shown about {times:.1f} times"
                )
        return "\n".join(lines)

    def _validate(self) -> dict[str, float]:
        result = self.trainer.evaluate(self.images.splits["validation"])
        record = {"validation_loss": result.loss, "validation_accuracy": result.accuracy}
        if self.targets is not None:
            teacher = self.targets.predictions["validation"].argmax(1).numpy()
            record["agreement"] = float((teacher == result.predictions).mean())
        return record

    def _keep(self, record: dict[str, float]) -> None:
        """Add an epoch to the history and save the checkpoints."""
        out = self.options.out
        best_before = max((entry["validation_accuracy"] for entry in self.history), default=-1.0)
        self.history.append(record)
        if not self._processes.is_main:
            return
        if record["validation_accuracy"] > best_before:
            best = {"model": self.trainer.module.state_dict(), "epoch": record["epoch"]}
            save_tensors(
                out / "best.pt", best | {"validation_accuracy": record["validation_accuracy"]}
            )
        state = self.trainer.state_dict() | {
            "history": self.history,
            "seconds": self._seconds,
            "config": self._config(),
        }
        # last.pt last: what it does not hold is done again
        write_text(out / "metrics.jsonl", "\n".join(json.dumps(entry) for entry in self.history))
        save_tensors(out / "last.pt", state)
        if self._events is not None:
            for key, value in record.items():
                self._events.add_scalar(key, value, record["epoch"])
            self._events.flush()

    def _restore(self, folder: Path) -> None:
        """Go on after the last finished epoch of an interrupted run; from the start where there is none."""
        path = folder / "last.pt"
        if not path.exists():
            return
        state = load_tensors(path, self.device)
        faults = [
            f"{key}: {value} and {self._config()[key]}"
            for key, value in state["config"].items()
            if key in ("fingerprint", "images", "software", "device_type")
            and value != self._config()[key]
        ]
        if faults:
            raise KdcacheError(
                f"the cache, images, software and kind of device with which {folder} was begun",
                "; ".join(faults),
                "train anew",
            )
        self.trainer.load_state_dict(state)
        self.history, self._seconds = state["history"], state["seconds"]

    def _config(self) -> dict[str, Any]:
        return {
            "options": self.options.replace(resume=None).as_dict(),
            "fingerprint": self._fingerprint(),
            "images": self._images_digest,
            "software": f"kdcache {kdcache.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}",
            "device_type": self.device.type,
        }

    def _fingerprint(self) -> str | None:
        return self.cache.fingerprint if self.cache else None

    def _views_in_words(self) -> str:
        if self.options.live_teacher:
            return "live"
        return "matched" if self.options.augment in ("cached", "none") else "unmatched"

    def _teacher_accuracy(self, split: str) -> float:
        predictions = self.targets.predictions[split].argmax(1)
        return (predictions == self.images.splits[split].labels).float().mean().item()

    def _summary(self, best: dict[str, Any], test_accuracy: float) -> dict[str, Any]:
        options = self.options
        teacher = None
        if self.targets is not None:
            name = self.cache.manifest.teacher.name
            teacher = {"name": name} | {
                f"{split}_accuracy": self._teacher_accuracy(split)
                for split in ("validation", "test")
            }
        distils = self.targets is not None and options.alpha > 0
        return {
            "name": str(options.out),
            "student": options.student,
            "parameters": sum(value.numel() for value in self.trainer.module.parameters()),
            "dataset": self.images.name,
            "labels": options.labels,
            "alpha": options.alpha,
            "loss": options.loss if distils else None,
            "temperature": options.temperature,
            "projection": options.projection if distils else None,
            "views": self._views_in_words() if distils else None,
            "seed": options.seed,
            "epochs": options.epochs,
            "best_epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "test_accuracy": test_accuracy,
            "test_images": len(self.images.splits["test"]),
            "validation_digest": self.images.splits["validation"].digest(),
            "test_digest": self.images.splits["test"].digest(),
            "seconds": self._seconds,
            "teacher": teacher,
            "fingerprint": self._fingerprint(),
        }


def _event_writer(folder: Path) -> Any:
    """TensorBoard's writer, of the optional extra `tensorboard`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise KdcacheError(
            "the package tensorboard for --tensorboard",
            "none",
            "pip install kdcache[tensorboard], or leave it away",
        ) from error
    return SummaryWriter(folder / "events")


def _best_labels_only(out: Path, validation: Split) -> tuple[str, float] | None:
    """Name and validation accuracy of the best run beside `out` that was trained on labels only, on the same images."""
    found = []
    for path in out.absolute().parent.glob("*/summary.json"):
        with contextlib.suppress(KdcacheError):
            entry = read_summary(path.parent)
            if entry["alpha"] == 0:
                found.append(entry)
    digest = validation.digest() if found else ""
    same = [entry for entry in found if entry.get("validation_digest") == digest]
    best = max(same, key=lambda entry: entry["validation_accuracy"], default=None)
    return best and (best["name"], best["validation_accuracy"])


def resumed_options(folder: Path) -> TrainOptions:
    """The options of an interrupted run, which go on with it."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())["options"]
        return TrainOptions.from_dict(values | {"resume": str(folder), "out": str(folder)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdcacheError(
            "the folder of a run", f"{path}: {error}", "give the --out of an interrupted run"
        ) from error


def _epoch_line(record: dict[str, float], epochs: int) -> str:
    agreement = f", agreement {record['agreement']:.1%}" if "agreement" in record else ""
    return (
        f"epoch {record['epoch']:>3}/{epochs}  train loss {record['train_loss']:.3f}"
        f"  validation loss {record['validation_loss']:.3f}, accuracy {record['validation_accuracy']:.1%}{agreement}"
        f"  {record['images_per_second']:,.0f} images/s"
    )

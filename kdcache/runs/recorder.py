"""Writes a run's folder while the run goes on, so that a killed run loses nothing but the epoch in
flight.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from kdcache import __version__
from kdcache.cache import Cache
from kdcache.config import TrainOptions
from kdcache.data import ImageData
from kdcache.errors import DataError, OptionError
from kdcache.models import CARD_FILE, StudentCard
from kdcache.runs.continuing import check_same_inputs
from kdcache.runs.folder import (
    BEST_CHECKPOINT,
    CONFIG_FILE,
    HISTORY_FILE,
    LAST_CHECKPOINT,
    PREDICTIONS_FILE,
    STUDENT_FILE,
    SUMMARY_FILE,
    config_digest,
    history_digest,
    read_config,
    remove,
    start_run,
    writing,
)
from kdcache.runs.predictions import save_predictions
from kdcache.runs.records import EpochRecord, RunConfig, RunSummary
from kdcache.runtime import load_tensors, save_tensors, with_digest, write_json, write_text

# what a file of another structure may raise where its fields are read
_FAULTS = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Checkpoint:
    """last.pt: where a run stands after an epoch.

    `trainer` is what `Trainer.state_dict` returned.
    """

    trainer: dict[str, Any]
    history: tuple[EpochRecord, ...]
    seconds: float
    config: RunConfig


def make_run_config(
    options: TrainOptions,
    resolved: TrainOptions,
    images: ImageData,
    cache: Cache | None,
    device: torch.device,
) -> RunConfig:
    """What is recorded of a run at its beginning.

    Args:
        options: as given.
        resolved: with all defaults filled in.
        images: with the part of the training split that is learned from.
    """
    software = f"kdcache {__version__}, torch {torch.__version__}"
    return RunConfig(
        options=resolved,
        fingerprint=cache.fingerprint if cache else None,
        content_digest=cache.content_digest if cache else None,
        # a cache's fingerprint speaks for its images
        images=None if cache else images.splits["train"].digest(),
        software=f"{software}, torchvision {torchvision.__version__}",
        device_type=device.type,
        command=options.command_line(),
    )


class RunRecorder:
    """One run's folder, as the run itself sees it.

    Every file is written under another name and renamed, so that it is whole or not there. Methods
    raise DataError where the folder cannot be written, or a file is not what it should be.

    Args:
        tensorboard: also write every epoch as events for TensorBoard, in `events`.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder = folder
        self._make_events = _summary_writer() if tensorboard else None
        self._events: Any = None

    def begin(self, config: RunConfig, overwrite: bool, device: torch.device) -> int | None:
        """Make the folder and record the configuration, unless it holds this run already.

        Returns how many epochs the run had, where it is extended to more; None where it is not.

        Args:
            config: with the options of a run that the folder holds, but perhaps for more epochs.
            overwrite: replace what the folder holds.

        Raises OptionError where a run that is to be extended has not all its epochs.
        """
        held = None if overwrite else read_config(self.folder)
        if held is None:
            start_run(self.folder, overwrite)
        elif held.options.epochs < config.options.epochs:
            self._reopen(held, config, device)
        else:
            return None
        write_json(self.folder / CONFIG_FILE, with_digest(config.to_json()))
        return held.options.epochs if held is not None else None

    def _reopen(self, held: RunConfig, config: RunConfig, device: torch.device) -> None:
        """Make an unfinished run of a finished one.

        What came out is removed, the summary first: the run could be extended again if this were
        interrupted.
        """
        last = self.read_last(device)
        done, epochs = len(last.history) if last else 0, held.options.epochs
        if last is None or done < epochs:
            remedy = f"finish it first, with --epochs {epochs} and without --extend"
            found = f"{self.folder} with {done} of {epochs}"
            raise OptionError("a run with all its epochs for --extend", found, remedy)
        check_same_inputs(self.folder, last.config, config, to_train=True)
        with writing(self.folder):
            remove(self.folder, (SUMMARY_FILE, PREDICTIONS_FILE, STUDENT_FILE, CARD_FILE))

    def keep_best(self, model: dict[str, Tensor], record: EpochRecord) -> None:
        """Keep the model of the best epoch so far."""
        best = {"epoch": record.epoch, "validation_accuracy": record.validation_accuracy}
        save_tensors(self.folder / BEST_CHECKPOINT, {"model": model} | best)

    def keep_last(
        self,
        trainer: dict[str, Any],
        history: Sequence[EpochRecord],
        seconds: float,
        config: RunConfig,
    ) -> None:
        """Keep the metrics, and then where the run stands.

        What last.pt does not hold is done again.
        """
        records = [record.to_json() for record in history]
        lines = "\n".join(json.dumps(record) for record in records)
        write_text(self.folder / HISTORY_FILE, lines)
        run = {"history": records, "seconds": seconds, "config": config.to_json()}
        save_tensors(self.folder / LAST_CHECKPOINT, trainer | run)
        if self._make_events is not None:
            # not before there is something to write: somebody else's run may be in the folder
            self._events = self._events or self._make_events(self.folder / "events")
            for key, value in records[-1].items():
                self._events.add_scalar(key, value, records[-1]["epoch"])
            self._events.flush()

    def finish(
        self,
        summary: RunSummary,
        card: StudentCard,
        student: dict[str, Tensor],
        labels: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
    ) -> None:
        """Record what came out; the summary last, for where it is, all is.

        Args:
            student: the student's plain state dict.
            labels: of the test split, int64 `(M,)`.
            student_logits, teacher_logits: of its images, float `(M, K)`.
        """
        predictions = self.folder / PREDICTIONS_FILE
        save_predictions(predictions, labels, student=student_logits, teacher=teacher_logits)
        save_tensors(self.folder / STUDENT_FILE, student)
        write_json(self.folder / CARD_FILE, with_digest(card.to_json()))
        summary = dataclasses.replace(
            summary,
            config_digest=config_digest(self.folder),
            history_digest=history_digest(self.folder),
        )
        write_json(self.folder / SUMMARY_FILE, with_digest(summary.to_json()))

    def resume(
        self, now: RunConfig, device: torch.device, load: Callable[[dict[str, Any]], None]
    ) -> Checkpoint | None:
        """Have a trainer go on after the run's last finished epoch; None where it finished none.

        Args:
            now: what it would go on with.
            load: takes what `Trainer.state_dict` returned, or raises ValueError.

        Raises DataError where the run was begun with other things, or last.pt cannot be used.
        """
        last = self.read_last(device)
        begun = last.config if last else read_config(self.folder)
        if begun is not None:
            check_same_inputs(self.folder, begun, now, to_train=True)
        if edits := last.config.edits(now) if last else []:
            expected = f"{self.folder / CONFIG_FILE} as it was when {LAST_CHECKPOINT} was written"
            raise DataError(expected, "; ".join(edits), "undo the edit or train anew")
        if last is not None:
            try:
                load(last.trainer)
            except ValueError as error:
                raise _unusable(self.folder / LAST_CHECKPOINT, error) from error
        return last

    def read_best(self, device: torch.device) -> tuple[dict[str, Tensor], int, float]:
        """The best epoch's model, its number and its validation accuracy."""
        path = self.folder / BEST_CHECKPOINT
        best = load_tensors(path, device)
        try:
            model, epoch = dict(best["model"]), int(best["epoch"])
            return model, epoch, float(best["validation_accuracy"])
        except _FAULTS as error:
            raise _unusable(path, error) from error

    def secure_best(self, last: Checkpoint, device: torch.device) -> None:
        """See to it that best.pt has the best epoch's model, before a run goes on.

        Where it has not, and that epoch is the last one, last.pt has the same model.

        Raises DataError where no file has it.
        """
        epochs = len(last.history)
        best = max(last.history, key=lambda record: record.validation_accuracy)
        path = self.folder / BEST_CHECKPOINT
        try:
            model, epoch, _ = self.read_best(device)
            # a run that was killed between best.pt and last.pt does its last epoch again
            if epoch in (best.epoch, epochs + 1) and _alike(model, last.trainer["model"]):
                return
            fault = _unusable(
                path, ValueError(f"a model that is not the one of epoch {best.epoch}")
            )
        except DataError as error:
            fault = error
        if best.epoch != epochs:
            raise fault
        self.keep_best(last.trainer["model"], best)

    def read_last(self, device: torch.device) -> Checkpoint | None:
        """Where the run stood after its last finished epoch; None where it finished none."""
        path = self.folder / LAST_CHECKPOINT
        if not path.exists():
            return None
        state = load_tensors(path, device)
        try:
            history = tuple(EpochRecord.from_json(record) for record in state.pop("history"))
            seconds, config = float(state.pop("seconds")), RunConfig.from_json(state.pop("config"))
            if not history or [one.epoch for one in history] != list(range(1, len(history) + 1)):
                raise ValueError("history: expected every epoch from the first one on")
        except _FAULTS as error:
            raise _unusable(path, error) from error
        return Checkpoint(state, history, seconds, config)


def _alike(one: dict[str, Any], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same names and shapes."""
    if one.keys() != other.keys():
        return False
    return all(
        isinstance(value, Tensor) and value.shape == other[key].shape for key, value in one.items()
    )


def _unusable(path: Path, error: Exception) -> DataError:
    """The error for a run's file of another structure."""
    return DataError(f"{path} as train_student.py writes it", f"{error!r:.200}", "train anew")


def _summary_writer() -> Callable[[Path], Any]:
    """TensorBoard's writer of a folder, of the optional extra `tensorboard`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        remedy = "pip install kdcache[tensorboard], or omit it"
        raise OptionError("the package tensorboard for --tensorboard", "none", remedy) from error
    return SummaryWriter

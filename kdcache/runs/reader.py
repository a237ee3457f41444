"""Finds the folders that runs of phase two left, and reads all that is in them.

Runs of older versions left less; what is missing is None or empty, and whoever shows it says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.config import TrainOptions
from kdcache.errors import DataError
from kdcache.models import CARD_FILE, StudentCard, read_student_card
from kdcache.runs.folder import (
    CONFIG_FILE,
    HISTORY_FILE,
    OLD_PREDICTIONS_FILE,
    PREDICTIONS_FILE,
    SUMMARY_FILE,
    read_config,
    read_history,
    read_summary,
    refuse_edited_config,
    refuse_edited_history,
)
from kdcache.runs.records import EpochRecord, RunConfig, RunSummary

if TYPE_CHECKING:  # only who asks for predictions needs torch
    from kdcache.runs.predictions import Predictions

_DEPTH = 2  # a folder of runs, or a folder of such folders
_BEGUN = (SUMMARY_FILE, CONFIG_FILE, HISTORY_FILE)


@dataclass(frozen=True)
class Run:
    """A finished run.

    `name` is the part of the folder's path in which the runs that were read together differ.
    `config` is None and `history` empty where the run left none.
    """

    folder: Path
    name: str
    summary: RunSummary
    config: RunConfig | None
    history: tuple[EpochRecord, ...]

    @cached_property
    def predictions(self) -> Predictions | None:
        """Labels and logits of the test images; None where the run left none.

        Raises DataError where the file holds something else. Imports torch.
        """
        from kdcache.runs.predictions import read_predictions

        new = self.folder / PREDICTIONS_FILE
        return read_predictions(new if new.exists() else self.folder / OLD_PREDICTIONS_FILE)

    @property
    def class_names(self) -> tuple[str, ...]:
        """From student.json; empty where there is none. Raises DataError where it is damaged."""
        return self._card.preprocessing.class_names if self._card else ()

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Height and width in pixels of the dataset's images, from student.json; None likewise."""
        return self._card.image_shape if self._card else None

    @cached_property
    def _card(self) -> StudentCard | None:
        path = self.folder / CARD_FILE
        return read_student_card(path) if path.exists() else None

    @property
    def command(self) -> tuple[str, bool]:
        """The command line, and whether it was recorded or is put together from the options."""
        if self.config is None:
            return TrainOptions().command_line(), False
        if self.config.command is not None:
            return self.config.command, True
        return self.config.options.command_line(), False


def read_run(folder: Path, name: str | None = None) -> Run:
    """The finished run in a folder, called `name` or as its folder is.

    Raises DataError where it is not finished, or a file, which is named, is not what
    train_student.py writes.
    """
    summary = read_summary(folder)
    if summary is None:
        raise DataError(
            "the folder of a finished run",
            f"{folder} without {SUMMARY_FILE}",
            "train a student there first, or finish one: the same command resumes it",
        )
    config, history = read_config(folder), tuple(read_history(folder))
    if config is not None:
        refuse_edited_config(folder, summary)
    refuse_edited_history(folder, summary)
    return Run(folder, name or str(folder), summary, config, history)


def best_labels_only(beside: Path, validation_digest: str) -> RunSummary | None:
    """The best labels-only run, by validation accuracy, of those in folders beside this one.

    Counted are those that were validated on the same images. What cannot be read, or is no run's,
    is passed over: the folder may hold anything.
    """
    found: list[RunSummary] = []
    for path in sorted(beside.absolute().parent.glob(f"*/{SUMMARY_FILE}")):
        with contextlib.suppress(DataError):
            summary = read_summary(path.parent)
            if summary is None or summary.distilled:
                continue
            if summary.validation_digest == validation_digest:
                found.append(summary)
    return max(found, key=lambda summary: summary.validation_accuracy, default=None)


def find_runs(
    folders: Sequence[Path], on_fault: Callable[[DataError], None] | None = None
) -> tuple[list[Run], list[Path]]:
    """The finished runs in these folders, each once, and the folders of unfinished ones.

    Args:
        folders: of runs, or of folders of runs, or of folders of such.
        on_fault: called for each run that cannot be read, which is then left out, unless it is the
            last one; None raises its error.

    Raises DataError where a folder holds no run at all, where no run is finished, or where none can
    be read.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        inside = list(_run_folders(folder, _DEPTH))
        if not inside:
            read_run(folder)  # says what is missing
        for path in inside:
            found.setdefault(path.resolve(), path)
    finished = [path for path in found.values() if (path / SUMMARY_FILE).exists()]
    if not finished:
        raise DataError(
            "the folder of a finished run",
            f"only unfinished ones: {', '.join(map(str, found.values()))}",
            "finish one: the same command resumes it",
        )
    names = _short_names(finished)
    unfinished = [path for path in found.values() if path not in finished]
    runs: list[Run] = []
    for number, (path, name) in enumerate(zip(finished, names, strict=True), 1):
        try:
            runs.append(read_run(path, name))
        except DataError as error:
            if on_fault is None or (number == len(finished) and not runs):
                raise
            on_fault(error)
    return runs, unfinished


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in _BEGUN):
        yield folder
    elif depth and folder.is_dir():
        try:
            inside = sorted(
                path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            )
        except OSError as error:
            raise DataError(
                "the right to read a folder of runs", f"{folder}: {error.strerror}", "give another"
            ) from error
        for path in inside:
            yield from _run_folders(path, depth - 1)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The paths, without the folders that all of them lie in."""
    whole = [os.path.abspath(folder) for folder in folders]
    if len(whole) < 2:
        return [str(folder) for folder in folders]
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [os.path.relpath(path, common) for path in whole]

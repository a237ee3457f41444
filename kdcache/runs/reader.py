"""The folders that runs of phase two left: finds them, and reads what of them is there.

Runs of older versions left less; what is missing is None or empty, and whoever shows it says so.
"""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcache.config import DATASETS, TrainOptions
from kdcache.data import load_images
from kdcache.errors import KdcacheError
from kdcache.runs.folder import read_summary
from kdcache.runs.predictions import read_predictions

_DEPTH = 2  # a folder of runs, or a folder of such folders
_NEEDED = {"name": str, "student": str, "alpha": (int, float), "validation_accuracy": (int, float)}
_BEGUN = ("summary.json", "config.json", "metrics.jsonl")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: as it was given or found.
        name: the part of the folder's path in which the compared runs differ.
        summary: its summary.json.
        config: its config.json; empty where there is none.
        history: one dict an epoch, from its metrics.jsonl; empty where there is none.
    """

    folder: Path
    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        return self.config.get("options") or {}

    @property
    def seed(self) -> int:
        return int(self.summary.get("seed", 0))

    @property
    def distilled(self) -> bool:
        return self.summary["alpha"] > 0

    @cached_property
    def predictions(self) -> dict[str, Tensor] | None:
        """What `checkpoint.read_predictions` finds: labels, and logits of student and teacher, of the test images."""
        return read_predictions(self.folder / "predictions.pt")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """From student.json; empty where it does not say."""
        names = _read_json(self.folder / "student.json").get("class_names")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def command(self) -> tuple[str, bool]:
        """The command line, and whether it is the recorded one or put together from the options."""
        recorded = self.summary.get("command") or self.config.get("command")
        if recorded:
            return (recorded if isinstance(recorded, str) else shlex.join(map(str, recorded))), True
        names = {item.name for item in fields(TrainOptions)}
        known = TrainOptions.from_dict(
            {name: value for name, value in self.options.items() if name in names}
        )
        return known.command_line(), False


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """The finished runs in these folders, each once, and the folders of unfinished ones.

    Args:
        folders: of runs, or of folders of runs, or of folders of such.

    Raises KdcacheError where a folder holds no run at all, where no run is finished, or where one cannot be read.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        inside = list(_run_folders(folder, _DEPTH))
        if not inside:
            read_summary(folder)  # says what is missing
        found |= {path.resolve(): path for path in inside if path.resolve() not in found}
    finished = [path for path in found.values() if (path / "summary.json").exists()]
    if not finished:
        raise KdcacheError(
            "the folder of a finished run",
            f"only unfinished ones: {', '.join(map(str, found.values()))}",
            "finish one with train_student.py --resume",
        )
    names = _short_names(finished)
    unfinished = [path for path in found.values() if path not in finished]
    return [_read(path, name) for path, name in zip(finished, names, strict=True)], unfinished


def load_test_images(runs: Sequence[Run], folder: Path | None) -> Tensor | str:
    """The images that the runs were tested on, uint8 `(M, 3, H, W)`, or in words why they cannot be shown.

    Args:
        runs: tested on the same images.
        folder: where the dataset is; None where that is not known, which is no matter for an embedded dataset.

    Raises KdcacheError where `folder` is given and does not hold them.
    """
    run = next((run for run in runs if run.summary.get("test_digest")), runs[0])
    name, count, digest = (
        run.summary.get(key) for key in ("dataset", "test_images", "test_digest")
    )
    if not (name and count and digest):
        return (
            "The summaries do not say which images these were, because an older version wrote them."
        )
    if folder is None and not DATASETS.load(name).embedded:
        return f"Give --data DIR with the images of {name} to see them here."
    # as many test images as there were are the same ones, whatever the run's own --limit was
    size = run.options.get("store_size") or TrainOptions.store_size
    try:
        test = load_images(name, folder or Path(), limit=count, store_size=size).splits["test"]
        if test.digest() != digest:
            where = f"in {folder}" if folder else f"in this version's {name}"
            raise KdcacheError(
                f"the images on which {run.name} was tested", f"others {where}", "correct --data"
            )
    except KdcacheError as error:
        if folder is not None:
            raise
        return f"They cannot be shown: {error}."
    return test.images


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in _BEGUN):
        yield folder
    elif depth and folder.is_dir():
        try:
            inside = sorted(
                path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            )
        except OSError as error:
            raise KdcacheError(
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


def _read(folder: Path, name: str) -> Run:
    summary = read_summary(folder)
    faults = (
        [key for key, kind in _NEEDED.items() if not isinstance(summary.get(key), kind)]
        if summary
        else list(_NEEDED)
    )
    if faults:
        raise KdcacheError(
            f"{folder / 'summary.json'} as train_student.py writes it",
            f"no usable {', '.join(faults)}",
            "train anew",
        )
    return Run(
        folder,
        name,
        summary,
        _read_json(folder / "config.json"),
        tuple(_read_history(folder / "metrics.jsonl")),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file. Raises KdcacheError where it cannot be read."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except (OSError, ValueError) as error:
        raise KdcacheError(
            f"a JSON object in {path}", f"{error}", "remove the file or train anew"
        ) from error
    return value


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line without an object")
    except (OSError, ValueError) as error:
        raise KdcacheError(
            f"one JSON object a line in {path}", f"{error}", "remove the file or train anew"
        ) from error
    return records

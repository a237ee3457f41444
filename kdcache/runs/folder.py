"""TODO runs.folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError

RUN_FILES = (
    "config.json",
    "summary.json",
    "metrics.jsonl",
    "last.pt",
    "best.pt",
    "student.pt",
    "student.json",
    "predictions.pt",
)


def start_run(folder: Path, overwrite: bool) -> None:
    """Make the folder of a new run.

    Raises KdcacheError where it already holds a run and `overwrite` is not given, or cannot be written.
    """
    held = [name for name in RUN_FILES if (folder / name).exists()]
    if held and not overwrite:
        raise KdcacheError(
            "an --out without a run in it",
            f"{folder} with {held[0]}",
            "give another --out, or --overwrite to replace it",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in held:
            (folder / name).unlink()
        shutil.rmtree(folder / "vis", ignore_errors=True)
    except OSError as error:
        raise KdcacheError(
            "the right to write the run's folder",
            f"{folder}: {error.strerror}",
            "give another --out",
        ) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """A finished run's summary.json."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KdcacheError(
            "the folder of a finished run", f"{path}: {error}", "train a student there first"
        ) from error

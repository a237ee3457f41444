"""A run's folder: the names of its files, making a new one, and reading each file as its record.

Nothing here imports torch.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kdcache.errors import DataError, OptionError
from kdcache.runs.records import EpochRecord, RunConfig, RunSummary
from kdcache.runtime import check_digest, json_digest, make_folder, sync_folder

CONFIG_FILE = "config.json"
HISTORY_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
LAST_CHECKPOINT = "last.pt"
BEST_CHECKPOINT = "best.pt"
STUDENT_FILE = "student.pt"
PREDICTIONS_FILE = "predictions.pt"
OLD_PREDICTIONS_FILE = "answers.pt"
"""What 0.1.0 called it."""
PICTURES_FOLDER = "vis"
"""Where --vis leaves its pictures."""

RUN_FILES = (
    CONFIG_FILE,
    SUMMARY_FILE,
    HISTORY_FILE,
    LAST_CHECKPOINT,
    BEST_CHECKPOINT,
    STUDENT_FILE,
    "student.json",
    PREDICTIONS_FILE,
    OLD_PREDICTIONS_FILE,
)
"""What a new run in the same folder replaces."""

Record = TypeVar("Record")
Whole = TypeVar("Whole", RunConfig, RunSummary)


def start_run(folder: Path, overwrite: bool) -> None:
    """Make the folder of a new run.

    Raises OptionError where it holds a run already and `overwrite` is not given, DataError where it
    cannot be written.
    """
    held = [name for name in RUN_FILES if (folder / name).exists()]
    if held and not overwrite:
        raise OptionError(
            "an --out without a run in it",
            f"{folder} with {held[0]}",
            "give another --out, or --overwrite to replace it",
        )
    with writing(folder):
        make_folder(folder)
        remove(folder, held)
        shutil.rmtree(folder / PICTURES_FOLDER, ignore_errors=True)


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove files of a run, those that are there, for good: no loss of power brings them back.

    Raises OSError.
    """
    for name in names:
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise DataError in place of the OSError of a run's folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            "the right to write the run's folder",
            f"{folder}: {error.strerror}",
            "give another --out",
        ) from error


def read_config(folder: Path) -> RunConfig | None:
    """What a run was begun with; None where nothing was.

    Raises DataError, naming the file and the field, where it is not what train_student.py writes.
    """
    return _read(folder / CONFIG_FILE, lambda text: _record(RunConfig, text))


def config_digest(folder: Path) -> str:
    """SHA-256 of what config.json says, however it is laid out. Raises as `read_config` does."""
    return json_digest(_read(folder / CONFIG_FILE, json.loads))


def history_digest(folder: Path) -> str:
    """SHA-256 of what metrics.jsonl says, likewise."""
    return json_digest(_read(folder / HISTORY_FILE, _documents))


def refuse_edited_config(folder: Path, summary: RunSummary | None) -> None:
    """Raise DataError where a finished run's config.json no longer says what it said at its end."""
    if summary is not None and summary.config_digest not in (None, config_digest(folder)):
        raise _changed(folder / CONFIG_FILE)


def refuse_edited_history(folder: Path, summary: RunSummary) -> None:
    """Raise DataError where a finished run's metrics.jsonl no longer says what it said."""
    if summary.history_digest not in (None, history_digest(folder)):
        raise _changed(folder / HISTORY_FILE)


def _changed(path: Path) -> DataError:
    return DataError(
        f"{path} as it was when the run ended",
        "one that was edited since",
        "undo the edit, or train anew in another --out",
    )


def read_history(folder: Path) -> list[EpochRecord]:
    """A record for each epoch that a run has finished. Raises DataError as `read_config` does."""
    return _read(folder / HISTORY_FILE, _history_from) or []


def read_summary(folder: Path) -> RunSummary | None:
    """What a run reached; None where it is not finished. Raises DataError as `read_config` does."""
    return _read(folder / SUMMARY_FILE, lambda text: _record(RunSummary, text))


def _record(kind: type[Whole], text: str) -> Whole:
    """A record that was written with its digest. Raises ValueError."""
    document = json.loads(text)
    record = kind.from_json(document)
    check_digest(document, {item.name for item in dataclasses.fields(kind)})
    return record


def _documents(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _history_from(text: str) -> list[EpochRecord]:
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(EpochRecord.from_json(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return records


def _read(path: Path, parse: Callable[[str], Record]) -> Record | None:
    """What a file says; None where there is none.

    `parse` raises ValueError, naming the field that is wrong.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path} as train_student.py writes it",
            f"{error!s:.200}" or "a file too large to read",
            "repair it or train anew",
        ) from error

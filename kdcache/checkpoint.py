"""A run's folder: every file in it is written under another name and renamed, so that it is whole or not there."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kdcache.errors import InputError

RUN_FILES = ("config.json", "summary.json", "metrics.jsonl", "last.pt", "best.pt", "student.pt", "student.json", "answers.pt")
_LARGEST = torch.finfo(torch.float16).max


def start_run(folder: Path, overwrite: bool) -> None:
    """Make the folder of a new run.

    Raises InputError where it already holds a run and `overwrite` is not given, or cannot be written.
    """
    held = [name for name in RUN_FILES if (folder / name).exists()]
    if held and not overwrite:
        raise InputError(
            "an --out without a run in it", f"{folder} with {held[0]}", "give another --out, or --overwrite to replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in held:
            (folder / name).unlink()
        shutil.rmtree(folder / "vis", ignore_errors=True)
    except OSError as error:
        raise InputError("the right to write the run's folder", f"{folder}: {error.strerror}", "give another --out") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have `write` fill a temporary file, force it to the disk, and give it its name."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"room and the right to write {path}", f"{error.strerror}", "free some space") from error
        raise


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1))


def save_tensors(path: Path, state: Any) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load_tensors(path: Path, device: torch.device) -> Any:
    """What `save_tensors` wrote, without executing anything that a pickle could hold."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise InputError("a checkpoint as train_student.py writes it", f"{path}, which is not one", "train anew") from error


def save_answers(path: Path, labels: Tensor, **logits: Tensor | None) -> None:
    """Keep what was answered to the test images, small: float16, each row less its largest logit.

    That subtraction changes no probability, and it makes the largest logit an exact 0 with float16's finest steps
    around it, so that rounding moves no answer. Logits that are not finite become the least float16.

    Args:
        labels: int64 `(M,)`.
        logits: float `(M, K)` by who answered, `student` or `teacher`; None is left out.
    """
    state = {"labels": labels}
    for who, rows in logits.items():
        if rows is not None:
            rows = rows.float().nan_to_num(-torch.inf)
            below = (rows - rows.amax(1, keepdim=True)).nan_to_num(0.0)  # a row of nothing but infinities says nothing
            state[who] = below.clamp(min=-_LARGEST).half()
    save_tensors(path, state)


def read_answers(path: Path) -> dict[str, Tensor] | None:
    """What `save_answers` kept: labels int64 `(M,)`, and logits float32 `(M, K)` as `student` and, perhaps, `teacher`.

    None where a run of an older version left no such file. Raises InputError where the file holds something else.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        answers = {"labels": state["labels"].long()} | {who: state[who].float() for who in state.keys() - {"labels"}}
        shape = answers["student"].shape
        whole = len(shape) == 2 and all(rows.shape == shape for who, rows in answers.items() if who != "labels")
        low, high = answers["labels"].aminmax()
        if not whole or answers["labels"].shape != shape[:1] or not 0 <= low <= high < shape[1]:
            raise ValueError("its labels and logits do not fit each other")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} as train_student.py writes it", f"{error!r:.200}", "remove it or train anew") from error
    return answers


def read_summary(folder: Path) -> dict[str, Any]:
    """A finished run's summary.json."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError("the folder of a finished run", f"{path}: {error}", "train a student there first") from error

"""The file of a run's predictions for the test images: labels, student and teacher logits."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcache.errors import DataError
from kdcache.runtime import load_tensors, save_tensors

_LARGEST = torch.finfo(torch.float16).max
# what the fields of a file that somebody else wrote may raise
_FAULTS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class Predictions:
    """Labels int64 `(M,)`, and logits float32 `(M, K)` of the student and, if any, the teacher."""

    labels: Tensor
    student: Tensor
    teacher: Tensor | None = None


def save_predictions(
    path: Path, labels: Tensor, *, student: Tensor, teacher: Tensor | None = None
) -> None:
    """Keep what was predicted for the test images, small: float16, each row less its largest logit.

    That subtraction changes no probability, and it makes the largest logit an exact 0 with
    float16's finest steps around it, so that rounding changes no prediction. Logits that are not
    finite become the least float16.

    Args:
        labels: int64 `(M,)`.
        student, teacher: logits, float `(M, K)`.
    """
    state = {"labels": labels, "student": _small(student)}
    if teacher is not None:
        state["teacher"] = _small(teacher)
    save_tensors(path, state)


def _small(logits: Tensor) -> Tensor:
    rows = logits.float().nan_to_num(-torch.inf)
    # a row of nothing but infinities says nothing: inf - inf becomes 0, for all classes alike
    below = (rows - rows.amax(1, keepdim=True)).nan_to_num(0.0)
    return below.clamp(min=-_LARGEST).half()


def read_predictions(path: Path) -> Predictions | None:
    """What `save_predictions` kept; None where there is no such file, as in very old runs.

    Raises DataError where the file holds something else.
    """
    if not path.exists():
        return None
    expected, remedy = f"{path} as train_student.py writes it", "remove it or train anew"
    state = load_tensors(path, torch.device("cpu"), expected=expected, remedy=remedy)
    try:
        labels, student = state["labels"].long(), state["student"].float()
        teacher = state["teacher"].float() if "teacher" in state else None
        _check_shapes(labels, student, teacher)
    except _FAULTS as error:
        raise DataError(expected, f"{error!r:.200}", remedy) from error
    return Predictions(labels, student, teacher)


def _check_shapes(labels: Tensor, student: Tensor, teacher: Tensor | None) -> None:
    """Raise ValueError or RuntimeError unless all are of the same images and classes."""
    count, classes = student.shape
    low, high = labels.aminmax()
    alike = labels.shape == (count,) and (teacher is None or teacher.shape == student.shape)
    if not alike or not 0 <= low <= high < classes:
        raise ValueError("its labels and logits do not fit each other")

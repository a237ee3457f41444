"""What logits on the test images amount to: predictions, confusions, calibration, agreement, notable images."""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # as Guo et al. 2017 have it


def confusion(labels: Tensor, logits: Tensor) -> Tensor:
    """int64 `(K, K)`: images by label (rows) and answer (columns). labels int64 `(M,)`, logits `(M, K)`."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(
        classes, classes
    )


@dataclass(frozen=True)
class Reliability:
    """Images sorted by the student's confidence into bins of equal width over 0..1.

    Attributes:
        counts: int64 `(BINS,)`, images in each bin.
        confidence, accuracy: float64 `(BINS,)`, the means in each bin; NaN in an empty one.
        error: the expected calibration error, the mean of |confidence - accuracy| over the images (Naeini et al. 2015).
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    error: float


def reliability(labels: Tensor, logits: Tensor) -> Reliability:
    """labels int64 `(M,)`, logits float `(M, K)`. A bin holds confidences above its lower and up to its upper edge."""
    confidence, predictions = logits.double().softmax(1).max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(bins, minlength=BINS)
    confidences = torch.bincount(bins, confidence, minlength=BINS) / counts
    accuracies = torch.bincount(bins, (predictions == labels).double(), minlength=BINS) / counts
    gaps = (confidences - accuracies).abs().nan_to_num(0.0)
    return Reliability(counts, confidences, accuracies, float((gaps * counts).sum() / len(labels)))


def together(labels: Tensor, student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How the predictions of student and teacher lie to each other: shares of the images that sum to 1.

    labels int64 `(M,)`, logits of both `(M, K)`.
    """
    ours, theirs = student.argmax(1), teacher.argmax(1)
    right, taught_right, same = ours == labels, theirs == labels, ours == theirs
    cases = {
        "both right": right & taught_right,
        "only the student right": right & ~taught_right,
        "only the teacher right": ~right & taught_right,
        "the same mistake": ~right & same,
        "different mistakes": ~right & ~taught_right & ~same,
    }
    return {name: case.double().mean().item() for name, case in cases.items()}


def notable(
    labels: Tensor, student: Tensor, zero: Tensor | None, teacher: Tensor | None, most: int
) -> list[tuple[str, Tensor, int]]:
    """Images on which students disagree with each other, with the teacher or with the label.

    Args:
        labels: int64 `(M,)`.
        student: logits `(M, K)` of the distilled student, or of the only one.
        zero, teacher: logits `(M, K)` of the labels-only student and of the teacher; None where there is none.
        most: the most rows in all.

    Returns:
        name of the kind, rows int64, spread evenly over all of that kind, and how many there are;
        kinds without images are left out.
    """
    ours = student.argmax(1)
    right = ours == labels
    kinds: dict[str, Tensor] = {}
    if zero is not None:
        baseline_right = zero.argmax(1) == labels
        kinds["Right only when distilled"] = right & ~baseline_right
        kinds["Right only from labels"] = baseline_right & ~right
    if teacher is not None:
        theirs = teacher.argmax(1)
        kinds["The teacher's mistake, repeated"] = ~right & (ours == theirs)
        kinds["Against a teacher who was right"] = ~right & (theirs == labels)
        kinds["Right against the teacher"] = right & (theirs != labels)
    if not kinds:
        kinds["Wrong"] = ~right
    found = [(name, kind.nonzero()[:, 0]) for name, kind in kinds.items() if kind.any()]
    each = most // max(1, len(found))
    places = [
        torch.linspace(0, len(rows) - 1, min(each, len(rows))).round().long() for _, rows in found
    ]
    return [
        (name, rows[chosen], len(rows)) for (name, rows), chosen in zip(found, places, strict=True)
    ]

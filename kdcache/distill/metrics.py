"""What logits amount to: accuracy, agreement, confusions, divergence, entropy, calibration.

Every quantity that is reported anywhere is computed here. Labels are int64 `(M,)`, logits float
`(M, K)`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # of confidence, as in Guo et al., "On Calibration of Modern Neural Networks", 2017


def accuracy(labels: Tensor, logits: Tensor) -> float:
    """The fraction of the rows whose largest logit is the label's; NaN where there are no rows."""
    # a float32 mean, as in every record so far: numbers that are compared must be rounded alike
    return (logits.argmax(1) == labels).float().mean().item()


def class_accuracies(labels: Tensor, logits: Tensor) -> list[float | None]:
    """The accuracy on the images of each class, to four decimals; None where it has no image."""
    classes = logits.shape[1]
    counts = torch.bincount(labels, minlength=classes).tolist()
    right = torch.bincount(labels[logits.argmax(1) == labels], minlength=classes).tolist()
    pairs = zip(right, counts, strict=True)
    return [round(some / count, 4) if count else None for some, count in pairs]


def agreement(logits: Tensor, other_logits: Tensor) -> float:
    """The fraction of the rows for which two models predict the same class."""
    return (logits.argmax(1) == other_logits.argmax(1)).double().mean().item()


def confusion(labels: Tensor, logits: Tensor) -> Tensor:
    """int64 `(K, K)`: how many images of each label (row) were predicted as each class (column)."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats of each row, from log-probabilities `(M, K)`, not logits -> `(M,)`."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def entropy(probabilities: Tensor) -> Tensor:
    """The entropy in nats over the last axis: `(..., K)` -> `(...)`."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


@dataclass(frozen=True)
class Reliability:
    """Images sorted by the model's confidence into bins of equal width over 0..1.

    Attributes:
        counts: int64 `(bins,)`, images in each bin.
        confidence, accuracy: float64 `(bins,)`, the means in each bin; NaN in an empty one.
        calibration_error: the expected calibration error (ECE): the mean of |confidence - accuracy|
            of an image's bin over all images (Naeini et al. 2015).
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    calibration_error: float


def reliability(labels: Tensor, logits: Tensor, bins: int = BINS) -> Reliability:
    """How far confidence and accuracy lie apart.

    A bin holds the confidences from its lower edge up to, but without, its upper edge; the last
    one also holds 1.
    """
    confidence, predictions = torch.softmax(logits, 1).max(1)
    right = (predictions == labels).to(confidence.dtype)
    bin_of = (confidence * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(bin_of, minlength=bins)
    # |sum of confidences - sum of right ones| of a bin is its gap times its images
    gaps = confidence.new_zeros(bins).index_add_(0, bin_of, confidence - right)
    return Reliability(
        counts,
        torch.bincount(bin_of, confidence.double(), minlength=bins) / counts,
        torch.bincount(bin_of, right.double(), minlength=bins) / counts,
        (gaps.abs().sum() / len(labels)).item(),
    )


def joint_outcomes(labels: Tensor, student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How often student and teacher are right and wrong together: fractions that sum to 1.

    Args:
        student, teacher: the logits of both.
    """
    student_classes, teacher_classes = student.argmax(1), teacher.argmax(1)
    student_right = student_classes == labels
    teacher_right = teacher_classes == labels
    same = student_classes == teacher_classes
    cases = {
        "both right": student_right & teacher_right,
        "only the student right": student_right & ~teacher_right,
        "only the teacher right": ~student_right & teacher_right,
        "the same mistake": ~student_right & same,
        "different mistakes": ~student_right & ~teacher_right & ~same,
    }
    return {name: case.double().mean().item() for name, case in cases.items()}


def notable_images(
    labels: Tensor, student: Tensor, baseline: Tensor | None, teacher: Tensor | None, most: int
) -> list[tuple[str, Tensor, int]]:
    """Images on which students disagree with each other, with the teacher or with the label.

    Args:
        student: logits of the distilled student, or of the only one.
        baseline, teacher: logits of the labels-only student and of the teacher, if there is one.
        most: the most rows in all.

    Returns the name of each kind, its rows int64, spread evenly over all of that kind, and how many
    there are; kinds without images are left out.
    """
    predictions = student.argmax(1)
    right = predictions == labels
    kinds: dict[str, Tensor] = {}
    if baseline is not None:
        baseline_right = baseline.argmax(1) == labels
        kinds["Right only when distilled"] = right & ~baseline_right
        kinds["Right only from labels"] = baseline_right & ~right
    if teacher is not None:
        teacher_predictions = teacher.argmax(1)
        kinds["The teacher's mistake, repeated"] = ~right & (predictions == teacher_predictions)
        kinds["Against a teacher who was right"] = ~right & (teacher_predictions == labels)
        kinds["Right against the teacher"] = right & (teacher_predictions != labels)
    if not kinds:
        kinds["Wrong"] = ~right
    found = [(name, kind.nonzero()[:, 0]) for name, kind in kinds.items() if kind.any()]
    each = most // max(1, len(found))
    shown = []
    for name, rows in found:
        places = torch.linspace(0, len(rows) - 1, min(each, len(rows))).round().long()
        shown.append((name, rows[places], len(rows)))
    return shown

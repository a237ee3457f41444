"""Every reported quantity against numbers worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from kdcache.distill.metrics import (
    accuracy,
    agreement,
    class_accuracies,
    confusion,
    entropy,
    joint_outcomes,
    kl_divergence,
    notable_images,
    reliability,
)

LOGITS = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_accuracy_by_hand() -> None:
    assert accuracy(torch.tensor([0, 0, 1, 2]), LOGITS) == 0.75
    assert math.isnan(accuracy(torch.tensor([]), LOGITS[:0]))


def test_agreement_by_hand() -> None:
    assert agreement(LOGITS, LOGITS.flip(0)) == 0.5  # classes 0 1 1 2 and 2 1 1 0


def test_confusion_by_hand() -> None:
    assert confusion(torch.tensor([0, 0, 1, 2]), LOGITS).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_kl_divergence_by_hand() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2)
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) - 0.25 * math.log(2)
    assert kl_divergence(p.log(), q.log()).tolist() == pytest.approx([expected])
    assert kl_divergence(p.log(), p.log()).tolist() == [0]


@given(st.integers(0, 1000))
def test_kl_divergence_is_torchs(seed: int) -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed))
    log_p, log_q = F.log_softmax(logits, -1)
    expected = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(kl_divergence(log_p, log_q), expected)


def test_entropy_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.75, 0.25], [0.0, 1.0]]])
    three_quarters = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    expected = torch.tensor([[math.log(2), 0.0], [three_quarters, 0.0]])
    torch.testing.assert_close(entropy(probabilities), expected)


def test_reliability_by_hand() -> None:
    # confidences 0.9 (right), 0.9 (wrong), 0.65 (right):
    # |0.9 - 0.5| * 2/3 + |0.65 - 1| * 1/3 = 0.38333
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.35, 0.65]], dtype=torch.float64).log()
    found = reliability(torch.tensor([0, 1, 1]), logits)
    assert found.calibration_error == pytest.approx(1.15 / 3)
    assert found.counts.tolist() == [0] * 9 + [1] + [0] * 3 + [2, 0]
    assert found.accuracy[13] == 0.5 and found.confidence[13].item() == pytest.approx(0.9)
    assert found.accuracy[0].isnan() and found.confidence[0].isnan()


def test_a_bin_begins_with_its_lower_edge() -> None:
    # exact in floating point: confidences 1/2 and 1 in two bins of width 1/2
    found = reliability(torch.tensor([0, 0]), torch.tensor([[0.0, 0.0], [1e4, 0.0]]), bins=2)
    assert found.counts.tolist() == [0, 2]
    found = reliability(torch.tensor([0, 0]), torch.tensor([[0.0, 0.0], [1e4, 0.0]]), bins=4)
    assert found.counts.tolist() == [0, 0, 1, 1]


def test_calibration_error_by_hand() -> None:
    # Bins of width 1/2: all four confidences, 3/4, 3/4, 9/10 and 9/10, lie in the upper one, their
    # mean is 0.825, and 2 of 4 are right: |0.825 - 0.5| = 0.325.
    # Bins of width 1/5 (3/4 in the fourth, 9/10 in the fifth):
    # half the rows at |0.75 - 1| and half at |0.9 - 0| give 0.125 + 0.45 = 0.575
    logits = torch.tensor(
        [[math.log(3), 0.0], [0.0, math.log(3)], [math.log(9), 0.0], [0.0, math.log(9)]]
    )
    labels = torch.tensor([0, 1, 1, 0])
    for bins, expected in ((2, 0.325), (5, 0.575)):
        found = reliability(labels, logits, bins).calibration_error
        assert found == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_calibration_error_is_a_fraction_and_0_for_the_certain_and_right(
    seed: int, rows: int
) -> None:
    classes = 4
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    found = reliability(labels, logits)
    assert 0 <= found.calibration_error <= 1
    # the error is also the mean of the bins' gaps, weighted by their images
    gaps = (found.confidence - found.accuracy).abs().nan_to_num(0.0)
    weighted = (gaps * found.counts).sum().item() / rows
    assert found.calibration_error == pytest.approx(weighted, abs=1e-6)
    certain = reliability(labels, 1e4 * torch.eye(classes)[labels])
    assert certain.calibration_error == pytest.approx(0, abs=1e-6)


def test_student_and_teacher_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0])
    student, teacher = (
        torch.eye(3)[predictions] for predictions in ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
    )
    assert list(joint_outcomes(labels, student, teacher).values()) == pytest.approx([0.2] * 5)
    kinds = {
        name: rows.tolist() for name, rows, _ in notable_images(labels, student, None, teacher, 24)
    }
    assert kinds == {
        "The teacher's mistake, repeated": [3],
        "Against a teacher who was right": [2],
        "Right against the teacher": [1],
    }
    kinds = {
        name: (rows.tolist(), count)
        for name, rows, count in notable_images(labels, student, teacher, None, 2)
    }
    assert kinds == {"Right only when distilled": ([1], 1), "Right only from labels": ([2], 1)}
    ((name, rows, count),) = notable_images(labels, student, None, None, 2)
    assert (name, rows.tolist(), count) == ("Wrong", [2, 4], 3)


def test_class_accuracies_by_hand() -> None:
    """Of class 0 one of three, of class 1 none of one; class 2 has no image, class 3 all of two."""
    labels = torch.tensor([0, 0, 0, 1, 3, 3])
    predictions = torch.tensor([0, 1, 2, 0, 3, 3])
    logits = torch.nn.functional.one_hot(predictions, 4).float()
    assert class_accuracies(labels, logits) == [0.3333, 0.0, None, 1.0]

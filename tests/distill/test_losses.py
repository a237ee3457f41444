"""The losses against hand-worked constants, a float64 reference and their own algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.config import LOSSES
from kdcache.distill.losses import (
    dist,
    distillation_loss,
    dkd,
    kl,
    label_loss,
    mse,
    soften,
    standardized_kl,
)

LOG_ODDS = 2 * math.log(3)  # at T = 2 these logits (2 ln 3, 0) soften to odds of 3 to 1


def batch(seed: int, rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )


BATCH = st.builds(batch, st.integers(0, 2**32), st.integers(1, 6), st.integers(2, 12))
TEMPERATURE = st.floats(0.5, 20)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_soften_by_hand() -> None:
    assert soften(torch.tensor([[LOG_ODDS, 0.0]]), 2.0).tolist() == [pytest.approx([0.75, 0.25])]
    assert soften(torch.tensor([[LOG_ODDS, 0.0]]), 1.0).tolist() == [pytest.approx([0.9, 0.1])]


def test_soften_takes_float16_and_any_leading_axes() -> None:
    soft = soften(torch.tensor([[[60000.0, -60000.0]]], dtype=torch.float16), 4.0)
    assert soft.dtype == torch.float32 and soft.tolist() == [[[1.0, 0.0]]]


def test_the_label_loss_is_the_mean_over_the_rows_that_have_a_label() -> None:
    # -ln(3/4) and -ln(1/4), whose mean is 0.836988; the row in between has no label
    logits = torch.tensor([[math.log(3), 0.0], [9.0, 0.0], [math.log(3), 0.0]])
    labels = torch.tensor([0, -1, 1])
    assert label_loss(logits, labels).item() == pytest.approx(0.836988, abs=1e-6)
    assert label_loss(logits[1:2], labels[1:2]).isnan()


def test_distillation_loss_by_hand() -> None:
    # teacher (3/4, 1/4), student (1/2, 1/2), T = 2: KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812
    # nats; times T² = 0.523248
    teacher, student = torch.tensor([[LOG_ODDS, 0.0]]), torch.tensor([[5.0, 5.0]])
    assert distillation_loss(student, soften(teacher, 2.0), 2.0).item() == pytest.approx(
        0.523248, abs=1e-6
    )


def test_distillation_loss_is_the_mean_over_the_batch() -> None:
    # a second row that has nothing to learn halves the constant above
    teacher, student = (
        torch.tensor([[LOG_ODDS, 0.0], [1.0, 4.0]]),
        torch.tensor([[5.0, 5.0], [1.0, 4.0]]),
    )
    assert distillation_loss(student, soften(teacher, 2.0), 2.0).item() == pytest.approx(
        0.523248 / 2, abs=1e-6
    )


def test_label_loss_by_hand() -> None:
    # odds 3 to 1: -ln 3/4 = 0.287682 for class 0 and -ln 1/4 = 1.386294 for class 1; their mean is
    # 0.836988
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    assert label_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(0.836988, abs=1e-6)
    # smoothing 0.2 mixes in a fifth of the mean over both classes: 0.8 * 0.287682 + 0.2 * 0.836988
    # = 0.397543
    assert label_loss(logits[:1], torch.tensor([0]), 0.2).item() == pytest.approx(
        0.397543, abs=1e-6
    )


@given(BATCH, TEMPERATURE)
def test_distillation_loss_equals_a_float64_reference(
    logits: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    student, teacher = logits
    log_p, log_q = (
        log_softmax(teacher.numpy() / temperature),
        log_softmax(student.numpy() / temperature),
    )
    expected = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    found = distillation_loss(student.float(), soften(teacher, temperature), temperature).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5 * temperature**2)


@given(BATCH, TEMPERATURE)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(
    logits: tuple[torch.Tensor, ...], temperature: float
) -> None:
    student = logits[0].float().requires_grad_()
    loss = distillation_loss(student, soften(student.detach(), temperature), temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6 * temperature**2)
    assert student.grad.abs().max() < 1e-5 * temperature


@given(BATCH, TEMPERATURE)
def test_the_gradient_is_t_times_the_difference_of_probabilities(
    logits: tuple[torch.Tensor, ...], temperature: float
) -> None:
    # d/dz T² KL(p, softmax(z / T)) = T (q - p), and / B for the batch mean (Hinton et al. 2015,
    # equation 2 times T²)
    student, teacher = logits[0].requires_grad_(), logits[1]
    soft_targets = torch.softmax(teacher / temperature, 1)
    distillation_loss(student, soft_targets, temperature).backward()
    expected = (
        temperature
        * (torch.softmax(student.detach() / temperature, 1) - soft_targets)
        / len(student)
    )
    torch.testing.assert_close(student.grad, expected, atol=1e-9, rtol=1e-6)


def test_the_gradient_does_not_shrink_with_the_temperature() -> None:
    # for T far above the logits, T (q - p) tends to (z - v) / C for centred logits: equation 4 of
    # Hinton et al. 2015
    student = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-2.0, 2.0]], dtype=torch.float64)
    distillation_loss(student, torch.softmax(teacher / 1000, 1), 1000.0).backward()
    assert student.grad.tolist() == [pytest.approx([1.5, -1.5], abs=1e-4)]


NO_LABELS = torch.tensor([0])


def test_every_loss_is_an_option() -> None:
    functions = [kl, standardized_kl, dkd, dist, mse]
    assert [LOSSES.load(name) for name in LOSSES] == functions


def test_only_dkd_needs_the_labels_own_classes() -> None:
    needing = [name for name in LOSSES if getattr(LOSSES.load(name), "needs_label_classes", False)]
    assert needing == ["dkd"]


def test_standardized_kl_by_hand() -> None:
    # (3, 1) and (0, 10) standardise to (1, -1) and (-1, 1); at T = 2 their odds are e and 1/e:
    # KL = (0.731059 - 0.268941) * ln e = 0.462117 nats; times T² = 1.848469
    teacher, student = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 10.0]])
    assert standardized_kl(student, teacher, NO_LABELS, 2.0).item() == pytest.approx(
        1.848469, abs=1e-5
    )


@given(BATCH, TEMPERATURE, st.floats(0.1, 10), st.floats(-5, 5))
def test_standardized_kl_does_not_know_range_and_offset(
    logits: tuple[torch.Tensor, torch.Tensor], temperature: float, factor: float, offset: float
) -> None:
    student, teacher = logits
    changed = standardized_kl(factor * student + offset, teacher, NO_LABELS, temperature)
    assert changed.item() == pytest.approx(
        standardized_kl(student, teacher, NO_LABELS, temperature).item(), rel=1e-3, abs=1e-4
    )


def test_standardized_kl_of_a_constant_row_is_finite() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    standardized_kl(student, torch.tensor([[1.0, 2.0, 4.0]]), NO_LABELS, 2.0).backward()
    assert student.grad.isfinite().all()


def test_dkd_by_hand() -> None:
    # label 0; teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), T = 1
    # label or not: (1/2, 1/2) and (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3 = 0.143841
    # others: (1/2, 1/2) and (2/3, 1/3): 1/2 ln 3/4 + 1/2 ln 3/2 = 0.058892;  0.143841 + 8 *
    # 0.058892 = 0.614973
    teacher, student = (
        torch.tensor([[0.5, 0.25, 0.25]]).log(),
        torch.tensor([[0.25, 0.5, 0.25]]).log(),
    )
    assert dkd(student, teacher, torch.tensor([0]), 1.0).item() == pytest.approx(0.614973, abs=1e-5)
    # the same at T = 2 with logits twice as large, times T²
    assert dkd(2 * student, 2 * teacher, torch.tensor([0]), 2.0).item() == pytest.approx(
        4 * 0.614973, abs=1e-4
    )


@given(BATCH, TEMPERATURE, st.integers(0, 1))
def test_dkd_equals_a_float64_reference(
    logits: tuple[torch.Tensor, torch.Tensor], temperature: float, label: int
) -> None:
    student, teacher = (log_softmax(z.numpy() / temperature) for z in logits)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        p, q = np.exp(t), np.exp(s)
        rest_p, rest_q = np.delete(p, label), np.delete(q, label)
        target = p[label] * np.log(p[label] / q[label]) + rest_p.sum() * np.log(
            rest_p.sum() / rest_q.sum()
        )
        others = np.sum(
            rest_p / rest_p.sum() * np.log((rest_p / rest_p.sum()) / (rest_q / rest_q.sum()))
        )
        expected.append(temperature**2 * (target + 8 * others))
    labels = torch.full((len(expected),), label)
    assert dkd(*logits, labels, temperature).item() == pytest.approx(
        np.mean(expected), rel=1e-3, abs=1e-3
    )


def test_dist_by_hand() -> None:
    # between classes: the first row goes the teacher's way (correlation 1), the second the other
    # way (-1): 1 - 0 = 1 between rows: both classes go the teacher's way: 1 - 1 = 0
    teacher = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    student = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
    assert dist(student, teacher, NO_LABELS, 1.0).item() == pytest.approx(1.0, abs=1e-5)
    assert dist(2 * student, 2 * teacher, NO_LABELS, 2.0).item() == pytest.approx(4.0, abs=1e-4)


def test_dist_equals_numpys_correlations() -> None:
    student, teacher = batch(3, 6, 5)
    p, q = (np.exp(log_softmax(z.numpy() / 3)) for z in (teacher, student))
    rows = [np.corrcoef(p[i], q[i])[0, 1] for i in range(6)]
    classes = [np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(5)]
    expected = 9 * (2 - np.mean(rows) - np.mean(classes))
    assert dist(student, teacher, NO_LABELS, 3.0).item() == pytest.approx(expected, rel=1e-4)


def test_dist_of_one_row_is_finite() -> None:
    student = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    dist(student, torch.tensor([[3.0, 1.0, 2.0]]), NO_LABELS, 4.0).backward()
    assert student.grad.isfinite().all()


def test_mse_by_hand() -> None:
    # (1 - 3)² = 4 and (2 - 5)² = 9, their mean 6.5; the temperature plays no part
    assert mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]]), NO_LABELS, 4.0).item() == 6.5


def test_kl_tends_to_half_the_mse_of_centred_logits() -> None:
    student, teacher = (z - z.mean(1, keepdim=True) for z in batch(1, 5, 7))
    hot = kl(student, teacher, NO_LABELS, 200.0)
    assert hot.item() == pytest.approx(mse(student, teacher, NO_LABELS, 200.0).item() / 2, rel=1e-2)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_student_that_agrees_has_nothing_to_learn(name: str) -> None:
    logits = batch(7, 4, 6)[0].float().requires_grad_()
    loss = LOSSES.load(name)(logits, logits.detach(), torch.tensor([0, 1, 2, 3]), 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4) and logits.grad.abs().max() < 1e-4

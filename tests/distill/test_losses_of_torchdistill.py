"""The losses against torchdistill's, which others wrote; it has none for dkd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.config import TrainOptions
from kdcache.distill.losses import dist, kl, label_loss, standardized_kl

losses = pytest.importorskip("torchdistill.losses.mid_level")

LABELS = torch.tensor([0])


def theirs(name: str, *logits: Tensor, labels: Tensor | None = None, **settings: float) -> float:
    """One of torchdistill's losses of the student's and the teacher's logits."""
    place = {f"{who}_module_path": "." for who in ("student", "teacher")}
    place |= {f"{who}_module_io": "output" for who in ("student", "teacher")}
    outputs = [{".": {"output": one}} for one in logits]
    return getattr(losses, name)(**place, **settings)(*outputs, labels).item()


def batch(seed: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student.float(), teacher.float()


BATCH = st.builds(batch, st.integers(0, 2**32), st.integers(2, 8), st.integers(3, 12))
TEMPERATURE = st.floats(0.5, 8)


@given(BATCH, TEMPERATURE)
def test_kl(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    expected = theirs("KDLoss", *logits, alpha=0, temperature=temperature)  # without T²
    ours = kl(*logits, LABELS, temperature).item()
    assert ours == pytest.approx(temperature**2 * expected, rel=1e-4, abs=1e-5)


@given(BATCH, TEMPERATURE)
def test_standardized_kl(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    # they divide the sum of squares by K - 1, the paper's algorithm 1 by K
    classes = logits[0].shape[1]
    same = temperature * math.sqrt((classes - 1) / classes)
    expected = theirs("LogitStdKDLoss", *logits, alpha=0, temperature=same)
    ours = standardized_kl(*logits, LABELS, temperature).item()
    assert ours == pytest.approx(temperature**2 * expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_dist(seed: int) -> None:
    # batches in which no class is almost constant: there the two guard against 0 / 0 in other ways
    logits, temperature = batch(seed, rows=7, classes=5), 2.0 + seed
    expected = theirs("DISTLoss", *logits, tau=temperature)
    assert dist(*logits, LABELS, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_the_weights_of_recipes() -> None:
    logits, labels = batch(0, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    hinton, strong = TrainOptions(recipe="hinton"), TrainOptions(recipe="dist")
    label_weight, distill_weight = hinton.weights
    expected = theirs("KDLoss", *logits, labels=labels, alpha=0.1, temperature=4.0)
    ours = label_weight * label_loss(logits[0], labels)
    ours += distill_weight * kl(*logits, labels, hinton.temperature)
    assert ours.item() == pytest.approx(expected, rel=1e-4)
    expected = theirs("DISTLoss", *logits, beta=2.0, gamma=2.0, tau=1.0)
    ours = strong.weights[1] * dist(*logits, labels, strong.temperature)
    assert strong.weights[0] == 1 and ours.item() == pytest.approx(expected, rel=1e-4)

"""The probe: carries teacher logits to the student's classes.

Multinomial logistic regression on standardised logits. What it says about the rows it was fitted
on would be overconfident, so soft targets of training rows come from out-of-fold fits;
regularisation and temperature are chosen on the validation split.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.config import UNLABELLED
from kdcache.distill.metrics import accuracy, reliability
from kdcache.distill.probe_solver import CHUNK, Regressions, chunks, moments, standardise

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # on |W|² / 2, per row, for standardised inputs
FOLDS = 5
# what a probe's `validation` holds
QUALITY = ("accuracy", "nll", "nll_calibrated", "ece", "ece_calibrated")

# nats per row above the minimum: to compare penalties and to start from, and in the end
_ROUGH, _FINE = 1e-3, 1e-4


@dataclass(frozen=True)
class Probe:
    """A fitted probe, and how good it is on the validation split (nats; fractions of 1)."""

    mean: Tensor  # float32 (C,), of the teacher logits
    scale: Tensor  # float32 (C,)
    weight: Tensor  # float32 (FOLDS + 1, C + 1, K): the folds', then the one fitted on all rows
    fold: Tensor  # uint8 (N,), a fit that did not see image i; FOLDS, the last, without a label
    temperature: float
    penalty: float
    validation: dict[str, float]

    def project(self, teacher_logits: Tensor) -> Tensor:
        """Calibrated logits of rows that no fit has seen.

        Float `(..., C)` -> float32 `(..., K)`.
        """
        rows = teacher_logits.reshape(-1, teacher_logits.shape[-1])
        projected = torch.cat([self._final_fit(part) for part in rows.split(CHUNK)])
        return projected.div_(self.temperature).reshape(*teacher_logits.shape[:-1], -1)

    def _final_fit(self, teacher_logits: Tensor) -> Tensor:
        """The fit on all rows, before calibration: float `(R, C)` -> float32 `(R, K)`."""
        return standardise(teacher_logits, self.mean, self.scale) @ self.weight[-1]

    def project_training(self, teacher_logits: Tensor) -> Tensor:
        """Out-of-fold logits of the rows it was fitted on: `(N, V, C)` -> float32 `(N, V, K)`."""
        images, views, columns = teacher_logits.shape
        projected = torch.empty(images, views, self.weight.shape[2])
        for part in chunks(images, views):
            features = standardise(teacher_logits[part].reshape(-1, columns), self.mean, self.scale)
            for fold in range(self._fits):
                rows = self.fold[part] == fold
                projected[part][rows] = features.unflatten(0, (-1, views))[rows] @ self.weight[fold]
        return projected.div_(self.temperature)

    def project_rows(self, teacher_logits: Tensor, rows: Tensor) -> Tensor:
        """Out-of-fold logits of some training images.

        `(B, C)` of the images `rows` int64 `(B,)` -> float32 `(B, K)`.
        """
        features = standardise(teacher_logits, self.mean, self.scale)
        by_fold = torch.einsum("bc,fck->bfk", features, self.weight[: self._fits])
        own = self.fold[rows].long()[:, None, None].expand(-1, 1, by_fold.shape[2])
        return by_fold.gather(1, own)[:, 0] / self.temperature

    @cached_property
    def _fits(self) -> int:
        """How many of the fits training rows need: all, where some rows have no label."""
        return max(FOLDS, int(self.fold.max()) + 1)

    def to(self, device: torch.device) -> "Probe":
        tensors = {
            name: getattr(self, name).to(device) for name in ("mean", "scale", "weight", "fold")
        }
        return dataclasses.replace(self, **tensors)


def fit_probe(
    train_logits: Tensor,
    train_labels: Tensor,
    validation_logits: Tensor,
    validation_labels: Tensor,
    classes: int,
    seed: int,
) -> Probe:
    """Fit the probe.

    Args:
        train_logits: float `(N, V, C)`, all views of the training split; an image's views share a
            fold. May be a mapped file: it is read in chunks, in some 10 to 20 passes.
        validation_logits: float `(M, C)`, view 0.
        train_labels, validation_labels: int64 `(N,)`, `(M,)`. The last training rows may be
            `UNLABELLED`: nothing is fitted on them.
        classes: K, the student's classes.
    """
    images = int((train_labels != UNLABELLED).sum())
    unseen_by_all = torch.full((len(train_labels) - images,), FOLDS, dtype=torch.uint8)
    train_logits, train_labels = train_logits[:images], train_labels[:images]
    columns = train_logits.shape[2]
    view_0 = train_logits[:, :1]
    mean, scale = moments(view_0[:, 0])
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.randperm(images, generator=generator) % FOLDS).to(torch.uint8)

    def unseen(weight: Tensor) -> Tensor:
        return torch.cat(
            [standardise(part, mean, scale) @ weight.T for part in validation_logits.split(CHUNK)]
        )

    def fit(
        logits: Tensor, seen: Tensor, penalties: Tensor, start: Tensor, tolerance: float
    ) -> Tensor:
        return Regressions(logits, train_labels, seen, penalties, mean, scale).minimise(
            start, tolerance
        )

    # the penalty, from view 0 of all training rows
    everything = torch.ones(len(PENALTIES), images, dtype=torch.bool)
    nothing = torch.zeros(len(PENALTIES), classes, columns + 1)
    candidates = fit(view_0, everything, torch.tensor(PENALTIES), nothing, _ROUGH)
    losses = [F.cross_entropy(unseen(weight), validation_labels).item() for weight in candidates]
    penalty = PENALTIES[min(range(len(PENALTIES)), key=losses.__getitem__)]

    # the folds and the final fit: view 0 alone brings each near its optimum at a fraction of the
    # cost
    seen = torch.stack(
        [fold != number for number in range(FOLDS)] + [torch.ones(images, dtype=torch.bool)]
    )
    penalties = torch.full((FOLDS + 1,), penalty)
    weight = torch.zeros(FOLDS + 1, classes, columns + 1)
    for logits, tolerance in ((view_0, _ROUGH), (train_logits, _FINE)):
        weight = fit(logits, seen, penalties, weight, tolerance)
    raw = unseen(weight[-1])
    temperature = calibrate(raw, validation_labels)
    quality = {
        "accuracy": accuracy(validation_labels, raw),
        "nll": F.cross_entropy(raw, validation_labels).item(),
        "nll_calibrated": F.cross_entropy(raw / temperature, validation_labels).item(),
        "ece": reliability(validation_labels, raw).calibration_error,
        "ece_calibrated": reliability(validation_labels, raw / temperature).calibration_error,
    }
    fold = torch.cat((fold, unseen_by_all))
    return Probe(mean, scale, weight.mT.contiguous(), fold, temperature, penalty, quality)


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature in 0.1..10 that minimises the cross-entropy.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
    """
    # of log10(T): the loss has one minimum in 1 / T, so ternary search finds it
    low, high = -1.0, 1.0
    for _ in range(40):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if F.cross_entropy(logits / 10**a, labels) < F.cross_entropy(logits / 10**b, labels):
            high = b
        else:
            low = a
    return 10 ** ((low + high) / 2)

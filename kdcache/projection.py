"""The probe: carries teacher logits to the student's classes.

Multinomial logistic regression on standardised logits. What it says about the rows it was fitted on would be
overconfident, so soft targets of training rows come from out-of-fold fits; regularisation and temperature
are chosen on the validation part.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # on |W|² / 2, per row, for standardised inputs
FOLDS = 5
_CHUNK = 16384  # rows at a time, for bounded memory
_STEPS = 100
_TOLERANCE = 1e-3  # of the loss per row, over ten steps


@dataclass(frozen=True)
class Probe:
    """A fitted probe and how good it is on the validation part (nats; shares of 1)."""

    mean: Tensor  # float32 (C,), of the teacher logits
    scale: Tensor  # float32 (C,)
    weight: Tensor  # float32 (FOLDS + 1, C + 1, K): the folds', then the one fitted on all rows
    fold: Tensor  # uint8 (N,), the fold whose fit did not see image i
    temperature: float
    penalty: float
    validation: dict[str, float]

    def project(self, teacher_logits: Tensor) -> Tensor:
        """Calibrated logits of rows that no fit has seen: float `(..., C)` -> float32 `(..., K)`."""
        return self._apply(teacher_logits, self.weight[-1])

    def project_training(self, teacher_logits: Tensor) -> Tensor:
        """Out-of-fold logits of the rows it was fitted on: `(N, V, C)` -> float32 `(N, V, K)`."""
        projected = torch.empty(*teacher_logits.shape[:-1], self.weight.shape[2])
        for fold in range(FOLDS):
            rows = self.fold == fold
            projected[rows] = self._apply(teacher_logits[rows], self.weight[fold])
        return projected

    def _apply(self, teacher_logits: Tensor, weight: Tensor) -> Tensor:
        rows = teacher_logits.reshape(-1, teacher_logits.shape[-1])
        projected = [_standardise(part, self.mean, self.scale) @ weight for part in rows.split(_CHUNK)]
        return (torch.cat(projected) / self.temperature).reshape(*teacher_logits.shape[:-1], -1)


def fit_probe(
    train_logits: Tensor, train_labels: Tensor, validation_logits: Tensor, validation_labels: Tensor, classes: int, seed: int
) -> Probe:
    """Fit the probe.

    Args:
        train_logits: float `(N, V, C)`, all views of the training part; an image's views share a fold.
        validation_logits: float `(M, C)`, view 0.
        train_labels, validation_labels: int64 `(N,)`, `(M,)`.
        classes: K, the student's classes.
    """
    images, views, _ = train_logits.shape
    view_0 = train_logits[:, 0].float()
    mean, scale = view_0.mean(0), view_0.std(0, correction=0).clamp(min=1e-6)
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.randperm(images, generator=generator) % FOLDS).to(torch.uint8)
    unseen = _standardise(validation_logits, mean, scale)

    # the penalty, from view 0 of all training rows
    features = _standardise(view_0, mean, scale)
    everything = torch.ones(images, len(PENALTIES))
    candidates = _fit(features, train_labels, everything, torch.tensor(PENALTIES), classes)
    losses = [F.cross_entropy(unseen @ weight, validation_labels).item() for weight in candidates]
    penalty = PENALTIES[min(range(len(PENALTIES)), key=losses.__getitem__)]

    # the folds and the final fit, from all views
    seen = torch.stack([fold != number for number in range(FOLDS)] + [torch.ones(images, dtype=torch.bool)], 1)
    if views > 1:
        features = _standardise(train_logits.reshape(images * views, -1), mean, scale)
    rows = seen.float().repeat_interleave(views, 0)
    weight = _fit(features, train_labels.repeat_interleave(views), rows, torch.full((FOLDS + 1,), penalty), classes)
    raw = unseen @ weight[-1]
    temperature = calibrate(raw, validation_labels)
    quality = {
        "accuracy": (raw.argmax(1) == validation_labels).float().mean().item(),
        "nll": F.cross_entropy(raw, validation_labels).item(),
        "nll_calibrated": F.cross_entropy(raw / temperature, validation_labels).item(),
        "ece": calibration_error(raw, validation_labels),
        "ece_calibrated": calibration_error(raw / temperature, validation_labels),
    }
    return Probe(mean, scale, weight, fold, temperature, penalty, quality)


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature in 0.1..10 that minimises the cross-entropy (Guo et al., "On Calibration", 2017)."""
    low, high = -1.0, 1.0  # of log10(T); the loss has one minimum in 1 / T, so ternary search finds it
    for _ in range(40):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if F.cross_entropy(logits / 10**a, labels) < F.cross_entropy(logits / 10**b, labels):
            high = b
        else:
            low = a
    return 10 ** ((low + high) / 2)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean |confidence - accuracy| over equal bins of confidence (Guo et al. 2017)."""
    confidence, answer = torch.softmax(logits, 1).max(1)
    right = (answer == labels).float()
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins).index_add_(0, bin_of, confidence - right)
    return (gap.abs().sum() / len(labels)).item()


def _standardise(logits: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """`(R, C)` -> float32 `(R, C + 1)`: zero mean, unit variance, and a column of ones for the bias."""
    features = torch.ones(logits.shape[0], logits.shape[1] + 1)
    torch.sub(logits.float(), mean, out=features[:, :-1])
    features[:, :-1] /= scale
    return features


def _fit(features: Tensor, labels: Tensor, seen: Tensor, penalties: Tensor, classes: int) -> Tensor:
    """Fit J logistic regressions at once: float32 `(J, C + 1, K)`.

    Model j sees row i where seen[i, j] is 1, and has its own penalty on everything but the bias. All share the
    Hessian's bound XᵀX / 2 (Böhning, "Multinomial logistic regression algorithm", 1992), so that the step
    -(XᵀX / 2 + penalty)⁻¹ gradient always descends; Nesterov's momentum with restarts (O'Donoghue and
    Candès 2015) makes it fast, and the J models share every pass over the features.
    """
    columns = features.shape[1]
    models = len(penalties)
    counts = seen.sum(0)
    penalised = torch.ones(columns, 1)
    penalised[-1] = 0
    gram = features.T @ features / 2
    bound = gram + (penalties * counts)[:, None, None] * torch.diag(penalised[:, 0]) + 1e-3 * torch.eye(columns)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(bound))
    one_hot = F.one_hot(labels, classes).to(features)

    weight = momentum = torch.zeros(models, columns, classes)
    age = torch.zeros(models)
    history: list[Tensor] = []
    for _ in range(_STEPS):
        gradient, loss = _gradient(features, one_hot, seen, momentum)
        strength = (penalties * counts)[:, None, None] * penalised
        gradient += strength * momentum
        loss = (loss + (strength * momentum.square()).sum((1, 2)) / 2) / counts
        history.append(loss)
        if len(history) > 10 and (history[-11] - loss).abs().max() < _TOLERANCE:
            break
        new = momentum - torch.bmm(inverse, gradient)
        uphill = ((momentum - new) * (new - weight)).sum((1, 2)) > 0
        age = torch.where(uphill, 0.0, age + 1)
        momentum = new + (age / (age + 3))[:, None, None] * (new - weight)
        weight = new
    return weight


def _gradient(features: Tensor, one_hot: Tensor, seen: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient `(J, C + 1, K)` and loss `(J,)` of the label term, summed over the rows, in bounded memory."""
    models, columns, classes = weight.shape
    flat = weight.permute(1, 0, 2).reshape(columns, models * classes)
    gradient, loss = torch.zeros_like(flat), torch.zeros(models)
    for start in range(0, len(features), _CHUNK):
        part = slice(start, start + _CHUNK)
        log_probability = torch.log_softmax((features[part] @ flat).view(-1, models, classes), 2)
        target = one_hot[part, None]
        loss -= (seen[part] * (log_probability * target).sum(2)).sum(0)
        residual = seen[part, :, None] * (log_probability.exp() - target)
        gradient += features[part].T @ residual.reshape(-1, models * classes)
    return gradient.view(columns, models, classes).permute(1, 0, 2).contiguous(), loss

"""Multinomial logistic regressions, several at once, on more rows than memory holds as float32.

Newton's method with conjugate gradients. Rows may be a mapped float16 file: they are read a chunk
at a time, and of them only a sample of fixed size is ever copied.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2048  # rows at a time, for bounded memory
_SAMPLE = 16384  # rows that the loss's curvature is taken from
_STEPS, _INNER_STEPS = 50, 15  # of Newton's method; of conjugate gradients within each
_INNER_TOLERANCE = 1e-2  # of the squared residual, in the preconditioner's norm
_DAMPING = 1e-6  # keeps the curvature above 0 where all classes' biases move together
_TINY = 1e-30  # against 0 / 0 where a fit is done


class _State(NamedTuple):
    """Where J fits are; per row that each sees."""

    weight: Tensor  # float32 (J, K, C + 1)
    gradient: Tensor  # float32 (J, K, C + 1)
    spread: Tensor  # float32 (J, K, 1), the mean of p (1 - p): how strongly the loss bends
    loss: Tensor  # float64 (J, 1, 1)


class Regressions:
    """J regressions on the same rows, which share every pass over them.

    Fit j sees the images for which seen[j] is true, has its own penalty on |W|² / 2 but not on the
    bias, and stops by itself. It shares with the others nothing that depends on labels: only the
    rows' eigenvectors, which decide how fast a minimum is reached but not where it is.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        seen: Tensor,
        penalties: Tensor,
        mean: Tensor,
        scale: Tensor,
    ) -> None:
        """Float `(N, V, C)`, int64 `(N,)`, bool `(J, N)`, float32 `(J,)`.

        `(C,)` and `(C,)` to standardise with.
        """
        self._logits, self._labels, self._seen, self._mean, self._scale = (
            logits,
            labels,
            seen,
            mean,
            scale,
        )
        images, views, columns = logits.shape
        self._counts = (seen.sum(1) * views).clamp(min=1)[:, None, None]
        self._penalty = penalties[:, None, None]
        self._strength = self._penalty.repeat(1, 1, columns + 1)
        self._strength[..., -1] = 0
        rows = torch.linspace(
            0, images * views - 1, min(images * views, _SAMPLE), dtype=torch.float64
        ).long()
        self._sample = standardise(logits[rows // views, rows % views], mean, scale)
        self._sample_seen = seen[:, None, rows // views].float()
        self._variance, self._basis = torch.linalg.eigh(self._sample.T @ self._sample / len(rows))

    def minimise(self, weight: Tensor, tolerance: float) -> Tensor:
        """Fit all, from and to float32 `(J, K, C + 1)`, until Newton's decrement (Boyd and
        Vandenberghe 2004, 9.5), which estimates how far the loss per row is above its minimum, is
        below `tolerance` nats for each."""
        state, length = self._state(weight), torch.ones(len(weight), 1, 1)
        for _ in range(_STEPS):
            direction = self._direction(state)
            slope = _dot(state.gradient, direction)
            going = -slope / 2 >= tolerance
            if not going.any():
                break
            trial = self._state(state.weight + length * direction)
            better = going & (trial.loss < state.loss + 1e-4 * length * slope)
            # A sample bends less than all rows where it has few of a kind, and then steps are too
            # long. The slopes at both ends say where along the step it was 0; the next step, in
            # the same direction or not, is as much shorter.
            length = (
                length * slope / (slope - _dot(trial.gradient, direction)).clamp(max=-_TINY)
            ).clamp(1e-3, 1)
            state = _State(
                *(torch.where(better, new, old) for new, old in zip(trial, state, strict=True))
            )
        return state.weight

    def _state(self, weight: Tensor) -> _State:
        """One pass over all rows."""
        images, views, columns = self._logits.shape
        fits, classes, _ = weight.shape
        gradient, spread = torch.zeros(fits * classes, columns + 1), torch.zeros(fits, classes, 1)
        loss = torch.zeros(fits, 1, 1, dtype=torch.float64)
        for part in chunks(images, views):
            features = standardise(self._logits[part].reshape(-1, columns), self._mean, self._scale)
            labels = self._labels[part].repeat_interleave(views).expand(fits, 1, -1)
            seen = self._seen[:, None, part].repeat_interleave(views, 2).float()
            log_probability = torch.log_softmax(_scores(weight, features), 1)
            loss -= (log_probability.gather(1, labels) * seen).sum(2, keepdim=True)
            probability = _exp(log_probability) * seen
            spread += (probability - probability.square()).sum(2, keepdim=True)
            probability.scatter_add_(1, labels, -seen)
            gradient.addmm_(probability.flatten(0, 1), features)
        shrink = self._strength * weight
        gradient = gradient.view_as(weight) / self._counts + shrink
        return _State(
            weight, gradient, spread / self._counts, loss / self._counts + _dot(shrink, weight) / 2
        )

    def _direction(self, state: _State) -> Tensor:
        """Newton's direction by preconditioned conjugate gradients, `(J, K, C + 1)`.

        The curvature is that of a sample (Byrd et al., "On the use of stochastic Hessian
        information", 2011), the gradient that of all rows.
        """
        probability = (
            _exp(torch.log_softmax(_scores(state.weight, self._sample), 1)) * self._sample_seen
        )
        counts = self._sample_seen.sum(2, keepdim=True).clamp(min=1)
        step, residual = torch.zeros_like(state.weight), -state.gradient
        search = towards = self._precondition(residual, state.spread)
        first = product = _dot(residual, towards)
        for _ in range(_INNER_STEPS):
            going = product >= _INNER_TOLERANCE * first
            if not going.any():
                break
            pull = probability * _scores(search, self._sample)
            pull -= probability * pull.sum(1, keepdim=True)
            bent = (pull.flatten(0, 1) @ self._sample).view_as(search) / counts + (
                self._strength + _DAMPING
            ) * search
            length = torch.where(going, product / _dot(search, bent).clamp(min=_TINY), 0.0)
            step, residual = step + length * search, residual - length * bent
            towards = self._precondition(residual, state.spread)
            before, product = product, _dot(residual, towards)
            search = towards + product / before.clamp(min=_TINY) * search
        return step

    def _precondition(self, vector: Tensor, spread: Tensor) -> Tensor:
        """Solve as if p (1 - p) were the same for all rows and classes did not compete.

        A curvature of spread XᵀX + penalty.
        """
        return (
            vector
            @ self._basis
            / (spread * self._variance.clamp(min=0) + self._penalty + _DAMPING)
            @ self._basis.T
        )


def moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns of `(R, C)`, float32 `(C,)`.

    A constant column's is 1.
    """
    parts, rows = logits.split(CHUNK), len(logits)
    mean = torch.stack([part.float().sum(0) for part in parts]).double().sum(0).div(rows).float()
    squares = torch.stack([torch.sub(part, mean).square_().sum(0) for part in parts])
    scale = squares.double().sum(0).div(rows).sqrt().float()
    return mean, torch.where(scale > 1e-6, scale, 1.0)


def standardise(logits: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """`(R, C)` -> float32 `(R, C + 1)`.

    Zero mean, unit variance, and a column of ones for the bias.
    """
    features = torch.ones(logits.shape[0], logits.shape[1] + 1, device=logits.device)
    features[:, :-1].copy_(logits).sub_(mean).div_(scale)
    return features


def chunks(images: int, views: int) -> list[slice]:
    """Slices of images that have about CHUNK rows each."""
    step = max(1, CHUNK // views)
    return [slice(start, start + step) for start in range(0, images, step)]


def _scores(weight: Tensor, features: Tensor) -> Tensor:
    """`(J, K, C + 1)` and `(R, C + 1)` -> `(J, K, R)`.

    Rows last, which makes the softmax five times as fast.
    """
    return (weight.flatten(0, 1) @ features.T).unflatten(0, weight.shape[:2])


def _exp(log_probability: Tensor) -> Tensor:
    """Probabilities, in place. None below e⁻⁶⁰.

    Denormal numbers make the matrix products that follow 70 times slower.
    """
    return log_probability.clamp_(min=-60).exp_()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Each fit's inner product: `(J, K, C + 1)` -> `(J, 1, 1)`."""
    return (a * b).sum((1, 2), keepdim=True)

"""The losses of phase two. One formula, one home, one scale: every loss is the mean over the batch.

All take student_logits float `(B, K)`, teacher_logits float `(B, K)` in the same classes, labels
int64 `(B,)` (`UNLABELLED`, -1, where there is none) and the temperature T, and return a scalar.
`config/choices.py` registers them; one of your own needs no place there: `--loss
my_module:my_loss`.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.config import UNLABELLED
from kdcache.distill.metrics import kl_divergence

_TINY = 1e-7  # keeps a constant row's standard deviation from dividing by 0
# beta of decoupled distillation: the paper's usual choice, with weight 1 for the target's term
_DKD_NON_TARGET = 8.0


DistillationLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student_logits, teacher_logits, labels, temperature) -> scalar"""

Loss = TypeVar("Loss", bound=DistillationLoss)


def needs_label_classes(loss: Loss) -> Loss:
    """Mark a loss that uses the labels as columns.

    Its logits must be in the labels' own classes.
    """
    loss.needs_label_classes = True  # type: ignore[attr-defined]
    return loss


def distillation_loss(student_logits: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
    """T² * KL(soft_targets || softmax(student_logits / T)), the mean over the batch.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the
    factor T² keeps the gradient's size independent of the temperature.

    Args:
        student_logits: float `(B, C)`.
        soft_targets: float `(B, C)`, softmax(teacher_logits / T), rows summing to 1.

    Returns a scalar in nats, >= 0.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, soft_targets, reduction="batchmean")


def label_loss(student_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with integer labels `(B,)`, the mean over the rows that have one, in nats.

    NaN where none has.
    """
    return F.cross_entropy(
        student_logits, labels, label_smoothing=label_smoothing, ignore_index=UNLABELLED
    )


def soften(teacher_logits: Tensor, temperature: float) -> Tensor:
    """Soft targets: softmax(teacher_logits / T) over the last axis, float32."""
    return torch.softmax(teacher_logits.float() / temperature, dim=-1)


def kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`distillation_loss` from the teacher's logits."""
    return distillation_loss(student_logits, soften(teacher_logits, temperature), temperature)


def standardized_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`kl` of logits that were standardised row by row: z -> (z - mean(z)) / std(z).

    Sun, Ren, Li, Wang and Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024,
    algorithm 1 (std over the K classes divides by K, as there): the student has to match the
    relations of the teacher's logits, not their range.
    """
    return kl(
        _standardized(student_logits), _standardized(teacher_logits.float()), labels, temperature
    )


@needs_label_classes
def dkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """T² * (KL(b^T || b^S) + 8 * KL(p̂^T || p̂^S)), the mean over the batch.

    Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022, equation 7: b
    are the two probabilities (label's class, all others) at temperature T, p̂ those of the other
    classes among themselves, so that what the teacher says of wrong classes counts also where it
    is sure of the right one. 8 is the paper's usual beta.
    """
    log_student, log_teacher = (
        F.log_softmax(z.float() / temperature, 1) for z in (student_logits, teacher_logits)
    )
    target = kl_divergence(*(_label_or_not(log, labels) for log in (log_teacher, log_student)))
    others = kl_divergence(
        *(F.log_softmax(_without(log, labels), 1) for log in (log_teacher, log_student))
    )
    return temperature**2 * (target + _DKD_NON_TARGET * others).mean()


def dist(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """T² * ((1 - mean over rows of ρ) + (1 - mean over classes of ρ)).

    ρ is the Pearson correlation of the soft targets.

    Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    equations 8 to 10 with weight 1 for both; T² as in the authors' code. Relations between classes
    in a row, and between the batch's rows in a class, instead of the probabilities themselves.
    """
    student, teacher = soften(student_logits, temperature), soften(teacher_logits, temperature)
    between_classes = (
        1 - F.cosine_similarity(_centred(student, 1), _centred(teacher, 1), dim=1, eps=_TINY).mean()
    )
    between_rows = (
        1 - F.cosine_similarity(_centred(student, 0), _centred(teacher, 0), dim=0, eps=_TINY).mean()
    )
    return temperature**2 * (between_classes + between_rows)


def mse(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Mean squared difference of the logits, over classes and batch. It has no temperature.

    Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014. For centred logits T² * KL tends
    to half of it as T grows (Hinton et al. 2015, section 2.1).
    """
    return F.mse_loss(student_logits, teacher_logits.float())


def _standardized(logits: Tensor) -> Tensor:
    return _centred(logits, 1) / (logits.std(1, correction=0, keepdim=True) + _TINY)


def _centred(values: Tensor, axis: int) -> Tensor:
    return values - values.mean(axis, keepdim=True)


def _label_or_not(log_probability: Tensor, labels: Tensor) -> Tensor:
    """log of (label's class, all others): `(B, 2)`."""
    others = torch.logsumexp(_without(log_probability, labels), 1, keepdim=True)
    return torch.cat([log_probability.gather(1, labels[:, None]), others], 1)


def _without(values: Tensor, labels: Tensor) -> Tensor:
    """The other classes' columns of each row: `(B, K)` -> `(B, K - 1)`.

    They are gathered, because a mask would wait for the device.
    """
    column = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, column + (column >= labels[:, None]))

"""The losses of phase two. One formula, one home, one scale."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(student_logits: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
    """T² * KL(soft_targets || softmax(student_logits / T)), the mean over the batch.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the factor T²
    keeps the gradient's size independent of the temperature.

    Args:
        student_logits: float `(B, C)`.
        soft_targets: float `(B, C)`, softmax(teacher_logits / T), rows summing to 1.

    Returns a scalar in nats, >= 0.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, soft_targets, reduction="batchmean")


def label_loss(student_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with integer labels `(B,)`, the mean over the batch, in nats."""
    return F.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)


def soften(teacher_logits: Tensor, temperature: float) -> Tensor:
    """Soft targets: softmax(teacher_logits / T) over the last axis, float32."""
    return torch.softmax(teacher_logits.float() / temperature, dim=-1)

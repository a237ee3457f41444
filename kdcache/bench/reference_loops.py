"""What both phases are compared with, to be read and doubted: bare loops and the reference loop."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, Resize, ToPILImage, ToTensor

from kdcache.data import Split
from kdcache.engine import Teacher
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, Model, class_logits
from kdcache.runtime import autocast, compiled

_TEMPERATURE, _ALPHA = 4.0, 0.9


def bare_teacher(teacher: Teacher, batches: list[int]) -> Callable[[], None]:
    """The model alone, over batches of these sizes that lie on the device already."""
    size = teacher.model.preprocessing.image_size
    inputs = torch.randn(max(batches), 3, size, size, device=teacher.device)

    def forward() -> None:
        for batch in batches:
            teacher.logits(inputs[:batch])

    return forward


def bare_student(
    student: Model, precision: str, device: torch.device, batch: int, steps: int, compile: str
) -> Callable[[], None]:
    """Steps of the shortest training loop, on one batch that lies on the device already."""
    module = student.module.to(device).to(memory_format=torch.channels_last).train()
    forward, size = compiled(module, compile), student.preprocessing.image_size
    inputs = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    weights, fused = module.parameters(), device.type == "cuda"
    optimizer = torch.optim.SGD(weights, 1e-3, momentum=0.9, nesterov=True, fused=fused)

    def train() -> None:
        for _ in range(steps):
            with autocast(precision, device):
                logits = class_logits(forward(inputs)).float()
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels).backward()
            optimizer.step()

    return train


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: from an array to PIL, resized, normalised."""

    def __init__(self, split: Split, size: int) -> None:
        normalise = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self._split = split
        self._transform = Compose([ToPILImage(), Resize(size), ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._split.images[index]), int(self._split.labels[index])


def reference_loop(
    teacher: Model,
    student: Model,
    images: PilImages,
    device: torch.device,
    batch: int,
    workers: int,
) -> Callable[[], None]:
    """An epoch of distillation as most scripts do it: float32, the teacher in every step.

    With other classes than the student's, the teacher's first ones stand in for them.
    """
    loader = DataLoader(
        images, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    teacher_module, module = teacher.module.to(device).eval(), student.module.to(device).train()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for pixels, classes in loader:
            inputs = pixels.to(device, non_blocking=True)
            labels = classes.to(device, non_blocking=True)
            with torch.no_grad():
                teacher_logits = class_logits(teacher_module(inputs))
            logits = class_logits(module(inputs))
            soft_targets = (teacher_logits[:, : logits.shape[1]] / _TEMPERATURE).softmax(1)
            log_student = (logits / _TEMPERATURE).log_softmax(1)
            divergence = functional.kl_div(log_student, soft_targets, reduction="batchmean")
            label_loss = functional.cross_entropy(logits, labels)
            loss = (1 - _ALPHA) * label_loss + _ALPHA * _TEMPERATURE**2 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch

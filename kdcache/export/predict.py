"""A finished run's student on images of one's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcache.data import read_image
from kdcache.errors import KdcacheError
from kdcache.export.student import FinishedRun
from kdcache.models import class_logits
from kdcache.runtime import autocast, forward_flops, pick_precision

_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image with their probabilities, the most probable first."""

    path: Path
    predictions: tuple[tuple[str, float], ...]


def predict(
    run: FinishedRun,
    paths: Sequence[Path],
    *,
    top: int,
    device: torch.device,
    on_fault: Callable[[KdcacheError], None],
) -> Iterator[Prediction]:
    """Answer for each image file, in their order and batch by batch; an image of the dataset is answered as in evaluation.

    Args:
        top: predictions of an image; all where there are fewer classes.
        on_fault: called for each file that cannot be read, which is then left out.
    """
    if top < 1:
        raise KdcacheError("--top to be at least 1", f"--top {top}", "correct the option")
    run.module.to(device, memory_format=torch.channels_last)
    size = run.preprocessing.image_size
    shape = run.image_shape or (size, size)
    for start in range(0, len(paths), _BATCH):
        read: list[tuple[Path, Tensor]] = []
        for path in paths[start : start + _BATCH]:
            try:
                read.append((path, read_image(path, shape)))
            except KdcacheError as error:
                on_fault(error)
        if read:
            logits = predict_logits(run, torch.stack([image for _, image in read]).to(device))
            for (path, _), row in zip(read, logits, strict=True):
                yield Prediction(path, _most_probable(row, run.preprocessing.class_names, top))


@torch.inference_mode()
def predict_logits(run: FinishedRun, images: Tensor) -> Tensor:
    """The student's logits float32 `(B, K)` on the CPU for whole images uint8 `(B, 3, H, W)` on the student's device.

    The arithmetic is that of the run's own evaluation; on another kind of device it is what is usual there.
    """
    device = images.device
    wanted = run.options.precision if run.config.get("device_type") == device.type else "auto"

    def operations() -> float:
        return forward_flops(run.module, run.preprocessing.image_size)

    precision = pick_precision(wanted, device, operations, on_gpu="bf16")
    with autocast(precision, device):
        return class_logits(run.module(run.render(images))).float().cpu()


def _most_probable(
    logits: Tensor, names: tuple[str, ...], top: int
) -> tuple[tuple[str, float], ...]:
    probabilities = logits.double().softmax(0)
    order = logits.argsort(descending=True, stable=True)[:top].tolist()
    return tuple((names[index], probabilities[index].item()) for index in order)

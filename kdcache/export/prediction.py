"""A finished run's student on images of one's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcache.data import read_image
from kdcache.errors import KdcacheError, OptionError
from kdcache.export.finished_run import FinishedRun
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
    """Predict the classes of image files, in their order and batch by batch.

    An image of the run's dataset is predicted as in the run's own evaluation.

    Args:
        top: predictions of an image; all where there are fewer classes.
        device: where the student runs; it is moved there.
        on_fault: called for each file that cannot be read, which is then omitted.

    Raises OptionError where `top` is below 1.
    """
    if top < 1:
        raise OptionError("--top to be at least 1", f"--top {top}", "correct the option")
    known = run.card.preprocessing
    run.module.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    shape = run.card.image_shape or (known.image_size, known.image_size)
    for start in range(0, len(paths), _BATCH):
        read, images = [], []
        for path in paths[start : start + _BATCH]:
            try:
                images.append(read_image(path, shape))
            except KdcacheError as error:
                on_fault(error)
            else:
                read.append(path)
        if not read:
            continue
        logits = predict_logits(run, torch.stack(images).to(device))
        for path, row in zip(read, logits, strict=True):
            yield Prediction(path, _most_probable(row, known.class_names, top))


@torch.inference_mode()
def predict_logits(run: FinishedRun, images: Tensor) -> Tensor:
    """The student's logits for whole images.

    The arithmetic is that of the run's own evaluation; on another kind of device it is what is
    usual there.

    Args:
        images: uint8 `(B, 3, H, W)` on the student's device.

    Returns float32 `(B, K)` on the CPU.
    """
    device = images.device
    same_kind = run.config.device_type == device.type

    def operations() -> float:
        return forward_flops(run.module, run.card.preprocessing.image_size)

    wanted = run.config.options.precision if same_kind else "auto"
    precision = pick_precision(wanted, device, operations, on_gpu="bf16")
    with autocast(precision, device):
        return class_logits(run.module(run.render(images))).float().cpu()


def _most_probable(
    logits: Tensor, names: tuple[str, ...], top: int
) -> tuple[tuple[str, float], ...]:
    probabilities = logits.double().softmax(0)
    order = logits.argsort(descending=True, stable=True)[:top].tolist()
    return tuple((names[index], probabilities[index].item()) for index in order)

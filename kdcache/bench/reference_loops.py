"""What the bench runs: bare loops, the usual script, images and a teacher that cost nothing, and what needs a fresh process."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as pil

from kdcache.cache import open_cache
from kdcache.config import SPLITS, PrecomputeOptions, TrainOptions
from kdcache.data import ImageData, Split, coarse_class_names, render_shapes
from kdcache.distill import check_images_match
from kdcache.engine import StudentRun, Teacher, TrainingData, precompute, prepare_teacher
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, Model, Preprocessing, class_logits
from kdcache.runtime import autocast, compiled, peak_memory, pick_device, synchronizer

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TEMPERATURE, _ALPHA = 4.0, 0.9


def shape_images(train: int) -> ImageData:
    """The embedded shapes, `train` of them to learn from; validation and test have one image a class each."""
    names = coarse_class_names()
    splits = {}
    for split, count in zip(SPLITS, (train, len(names), len(names)), strict=True):
        images, labels = render_shapes(count, stream=f"bench/{split}")
        splits[split] = Split(torch.from_numpy(images), torch.from_numpy(labels // 100))
    return ImageData("shapes", names, splits)


def noise_images(train: int) -> ImageData:
    """Random pixels in CIFAR-10's shape, where the number of images matters and what they show does not."""
    generator = np.random.default_rng(0)
    names = coarse_class_names()
    splits = {}
    for split, count in zip(SPLITS, (train, train // 5 + len(names), len(names)), strict=True):
        pixels = generator.integers(0, 256, (count, 3, 32, 32), np.uint8)
        splits[split] = Split(torch.from_numpy(pixels), torch.arange(count) % len(names))
    return ImageData("noise", names, splits)


def cheap_teacher(classes: int, device: torch.device) -> Teacher:
    """One linear layer on 4 x 4 average pixels: what is left of the time is the pipeline's own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))
    model = Model(
        module, "cheap", "none", Preprocessing(8, IMAGENET_MEAN, IMAGENET_STD), pretrained=False
    )
    return prepare_teacher(model, device, "fp32")


@dataclass(frozen=True)
class MatrixProduct:
    """Products of two square matrices, their floating-point operations, and their size in words."""

    run: Callable[[], None]
    operations: int
    size: str


def matrix_product(size: int, precision: str, device: torch.device, times: int) -> MatrixProduct:
    """`times` products of two `size` x `size` matrices, 2 size³ operations each."""
    left, right = (torch.randn(size, size, device=device).to(_DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    return MatrixProduct(multiply, 2 * size**3 * times, f"{size} x {size}")


def bare_teacher(teacher: Teacher, *batches: int) -> Callable[[], None]:
    """The model alone, over batches of these sizes that lie on the device already; what it says stays there."""
    module, size = teacher.model.module, teacher.model.preprocessing.image_size
    inputs = torch.randn(max(batches), 3, size, size, device=teacher.device)
    if not any(
        isinstance(layer, nn.MultiheadAttention) for layer in module.modules()
    ):  # as prepare_teacher decides
        inputs = inputs.to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode(), autocast(teacher.precision, teacher.device):
            for batch in batches:
                teacher.forward(inputs[:batch])

    return forward


def bare_student(
    student: Model, options: TrainOptions, device: torch.device, batch: int, *, classes: int
) -> Callable[[], None]:
    """One step of the shortest training loop there is, on a batch that lies on the device already.

    Args:
        options: resolved; optimizer, precision and compile are taken from them.
    """
    module = student.module.to(device, memory_format=torch.channels_last).train()
    forward = compiled(module, options.compile)
    size = student.preprocessing.image_size
    inputs = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % classes
    fused = device.type == "cuda"
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            module.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=fused
        )
    else:
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")

    def step() -> None:
        with autocast(options.precision, device):
            logits = class_logits(forward(inputs)).float()
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


class _PilImages(Dataset):
    """Images as torchvision's CIFAR10 gives them: from an array to PIL, resized there, normalised."""

    def __init__(self, split: Split, size: int) -> None:
        self._split = split
        self._resize = torchvision.transforms.Resize(size)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = self._resize(pil.to_pil_image(self._split.images[row]))
        return pil.normalize(pil.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD), int(
            self._split.labels[row]
        )


class ReferenceLoop:
    """Distillation as most scripts do it: float32, a DataLoader over PIL images, the teacher in every step.

    The workers live on between epochs and the model and batch are the product's, which is more than some scripts have.
    With other classes than the student's, the teacher's first ones stand in for them: the cost is the same.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        split: Split,
        size: int,
        *,
        batch: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self._device = device
        self._teacher = teacher.to(device).eval()
        self._student = student.to(device).train()
        self._optimizer = torch.optim.SGD(
            self._student.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4
        )
        self._loader = DataLoader(
            _PilImages(split, size), batch, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )  # fmt: skip

    def epoch(self) -> None:
        for inputs, labels in self._loader:
            inputs, labels = (
                inputs.to(self._device, non_blocking=True),
                labels.to(self._device, non_blocking=True),
            )
            with torch.no_grad():
                taught = class_logits(self._teacher(inputs))
            logits = class_logits(self._student(inputs))
            soft = functional.kl_div(
                functional.log_softmax(logits / _TEMPERATURE, 1),
                functional.softmax(taught[:, : logits.shape[1]] / _TEMPERATURE, 1),
                reduction="batchmean",
            )
            loss = (1 - _ALPHA) * functional.cross_entropy(
                logits, labels
            ) + _ALPHA * _TEMPERATURE**2 * soft
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()


def agreement(
    teacher: Teacher, inputs: list[Tensor], exact: list[Tensor]
) -> tuple[tuple[float, ...], ...]:
    """Share of images with the same top answer, and mean KL(exact ‖ teacher) in nats, of each batch."""
    same, divergence = [], []
    for some, expected in zip(inputs, exact, strict=True):
        logits = teacher.logits(some)
        same.append((logits.argmax(1) == expected.argmax(1)).double().mean().item())
        p, q = (functional.log_softmax(one.double(), 1) for one in (expected, logits))
        divergence.append((p.exp() * (p - q)).sum(1).mean().item())
    return tuple(same), tuple(divergence)


class _FirstStepError(Exception):
    """Ends a training that has shown what it should."""


def first_steps(cache_path: str, student: str, device_name: str) -> dict[str, float]:
    """In a fresh process: two students of one finished cache, each until its first optimizer step.

    The noise that the cache was made from is drawn anew in place of reading image files, and its time is left out.

    Returns the time.time() after the imports, seconds of drawing, and the time.time() of both steps.
    """
    imported = time.time()
    device = pick_device(device_name)
    cache = open_cache(Path(cache_path))
    began = time.time()
    images = noise_images(len(cache.splits["train"]))
    drawing = time.time() - began
    check_images_match(cache, images)
    training_data = TrainingData(images, cache)

    def stop(done: int, total: int) -> None:
        raise _FirstStepError

    moments = []
    for number in range(2):
        out = Path(cache_path).parent / f"first-steps-{time.time_ns()}-{number}"
        options = TrainOptions(
            cache=Path(cache_path),
            student=student,
            student_weights="none",
            image_size=32,
            device=device_name,
            out=out,
        )
        with contextlib.suppress(_FirstStepError):
            StudentRun(options, training_data, lambda text: None, stop).train()
        synchronizer(device)()
        moments.append(time.time())
    return {"imported": imported, "drawing": drawing, "first": moments[0], "second": moments[1]}


def fill_cheap_cache(
    cache_path: str, rows: int, classes: int, device_name: str
) -> dict[str, float]:
    """Phase one with the cheap teacher over `rows` training images of noise -> seconds, bytes of the largest resident set."""
    device = pick_device(device_name)
    images = noise_images(rows)
    teacher = cheap_teacher(classes, device)
    began = time.perf_counter()
    precompute(
        teacher,
        images,
        PrecomputeOptions(cache=Path(cache_path), restart=True),
        lambda done, total: None,
    )
    return {"seconds": time.perf_counter() - began, "peak": peak_memory()}

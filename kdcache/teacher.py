"""A frozen teacher, ready to run."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.arithmetic import answering_batch, autocast, compiled, noting_outputs, pick_precision
from kdcache.cache import Cache
from kdcache.errors import InputError
from kdcache.models import Model, build_model, class_logits, state_digest
from kdcache.views import Renderer


@dataclass(frozen=True)
class Teacher:
    """A frozen model, ready to run on its device; `batch_size` images at a time suit both."""

    model: Model
    device: torch.device
    precision: str
    forward: Callable[[Tensor], Any]  # the model's module, or what torch.compile made of it
    classes: int = 0
    batch_size: int = 1

    @torch.inference_mode()
    def logits(self, inputs: Tensor) -> Tensor:
        """Normalised inputs float32 `(B, 3, S, S)` on the device -> raw logits float32 `(B, C)` there."""
        with autocast(self.precision, self.device):
            return class_logits(self.forward(inputs)).float()

    def renderer(self, image_shape: tuple[int, int]) -> Renderer:
        """From images of `image_shape` pixels and views to this teacher's input, on its device."""
        size, mean, std, _ = vars(self.model.preprocessing).values()
        return Renderer(size, mean, std, image_shape, self.device)


def prepare_teacher(model: Model, device: torch.device, precision: str, compile: str = "none") -> Teacher:
    """Freeze a model, move it to its device, and find out how many classes and how large outputs it has by running it once."""
    module = model.module.to(device).eval().requires_grad_(False)
    if not any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules()):
        module = module.to(memory_format=torch.channels_last)
    size = model.preprocessing.image_size
    teacher = Teacher(model, device, pick_precision(precision, device, module, size, on_gpu="fp16"), module)
    try:
        with noting_outputs(module) as sizes:
            output = teacher.logits(torch.zeros(2, 3, size, size, device=device))
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"a teacher that takes inputs (2, 3, {size}, {size})", f"{model.name}: {reason}", "give its --image-size"
        ) from error
    if output.ndim != 2 or len(output) != 2:
        raise InputError(
            "a teacher that returns logits (2, classes) for two images", f"{tuple(output.shape)}", "correct the teacher"
        )
    return dataclasses.replace(
        teacher,
        forward=compiled(module, compile),
        classes=output.shape[1],
        batch_size=answering_batch(max(sizes), device),
    )


def teacher_of(cache: Cache, weights: str | None, device: torch.device) -> Teacher:
    """The teacher that filled a cache, with the very weights that it had.

    Args:
        weights: where they are, if they came from a file.

    Raises InputError where the weights are others.
    """
    recorded, entry = cache.manifest["teacher"], cache.manifest["input"]
    model = build_model(
        recorded["name"],
        weights or recorded["weights"],
        seed=cache.manifest["views"]["seed"],
        image_size=entry["image_size"],
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
    )
    digest = state_digest(model.module)
    if digest != recorded["digest"]:
        raise InputError(
            f"the teacher's weights (state dict {recorded['digest'][:16]})",
            f"{weights or recorded['weights']} ({digest[:16]})",
            "give the file that phase one used as --teacher-weights",
        )
    return prepare_teacher(model, device, cache.manifest["precision"])

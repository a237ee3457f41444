"""A frozen teacher: prepared for phase one, found again from a cache, or run in every step of
phase two.
"""

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.cache import Cache
from kdcache.config import PrecomputeOptions, agreed
from kdcache.data import Mix, Renderer
from kdcache.distill import Head, Projection
from kdcache.errors import DataError, KdcacheWarning, OptionError
from kdcache.models import (
    Model,
    build_model,
    class_logits,
    count_random_tensors,
    lacks_head,
    state_digest,
)
from kdcache.runtime import (
    MODEL_ERRORS,
    autocast,
    compiled,
    forward_flops,
    inference_batch_size,
    pick_precision,
    record_output_sizes,
)

_COLUMNS = {"logits": "classes", "features": "features"}


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
        """Normalised inputs float32 `(B, 3, S, S)` -> raw logits float32 `(B, C)`, there.

        Or features `(B, D)`, which go the same way from here on.
        """
        with autocast(self.precision, self.device):
            return class_logits(self.forward(inputs)).float()

    def renderer(self, image_shape: tuple[int, int]) -> Renderer:
        """From images of `image_shape` pixels and views to this teacher's input, on its device."""
        known = self.model.preprocessing
        return Renderer(
            known.image_size, known.mean, known.std, image_shape, self.device, known.interpolation
        )


def load_teacher(options: PrecomputeOptions, device: torch.device) -> Teacher:
    """The teacher that phase one's options name.

    A KdcacheWarning tells of random weights that nobody asked for, and of an odd mean or std.

    Raises OptionError or DataError.
    """
    model = build_model(
        options.teacher,
        options.teacher_weights,
        seed=options.seed,
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
        output=options.output,
    )
    if options.output == "logits" and lacks_head(model.module):
        expected = "a teacher with a classifier for --output logits"
        raise OptionError(expected, f"{model.name} without one", "give --output features")
    model.preprocessing.warn_of_scale()
    if options.teacher_weights is None and not model.pretrained:
        random = count_random_tensors(model, options.seed)
        if random:
            warnings.warn(
                f"{random} of the {len(model.module.state_dict())} tensors of {model.name} are"
                " random, which differ from seed to seed: such a teacher has learned nothing;"
                " give --teacher-weights, or none if that is meant",
                KdcacheWarning,
                stacklevel=2,
            )
    return prepare_teacher(model, device, options.precision, options.compile)


def prepare_teacher(
    model: Model, device: torch.device, precision: str, compile: str = "none"
) -> Teacher:
    """Freeze a model, move it to its device, and run it once to see how large its outputs are.

    Raises OptionError where it does not take its inputs, or does not return logits.
    """
    module = model.module.to(device).eval().requires_grad_(False)
    if not any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules()):
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = model.preprocessing.image_size
    precision = pick_precision(
        precision, device, lambda: forward_flops(module, size), on_gpu="fp16"
    )
    teacher = Teacher(model, device, precision, module)
    try:
        with record_output_sizes(module) as sizes:
            output = teacher.logits(torch.zeros(2, 3, size, size, device=device))
    except MODEL_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"a teacher that takes inputs (2, 3, {size}, {size})",
            f"{model.name}: {reason}",
            "give its --image-size",
        ) from error
    if output.ndim != 2 or len(output) != 2:
        raise OptionError(
            f"a teacher that returns {model.output} (2, {_COLUMNS[model.output]}) for two images",
            f"{tuple(output.shape)}",
            "correct the teacher",
        )
    return dataclasses.replace(
        teacher,
        forward=compiled(module, compile),
        classes=output.shape[1],
        batch_size=inference_batch_size(max(sizes), device),
    )


def teacher_of(
    cache: Cache, name: str | None, weights: str | None, device: torch.device
) -> Teacher:
    """The teacher that filled a cache, with the very weights that it had.

    Args:
        name: the teacher's; needed for one of the user's own, `package.module:callable`.
        weights: where they are, if they came from a file.

    Raises OptionError where the name is another, DataError where the weights are others.
    """
    recorded, entry = cache.manifest.teacher, cache.manifest.input
    model = build_model(
        agreed(recorded.name, name, "--teacher", cache.path),
        weights or recorded.weights,
        seed=cache.manifest.views.seed,
        image_size=entry.image_size,
        mean=entry.mean,
        std=entry.std,
        interpolation=entry.interpolation,
        output=recorded.output,
    )
    digest = state_digest(model.module)
    if digest != recorded.digest:
        raise DataError(
            f"the teacher's weights (state dict {recorded.digest[:16]})",
            f"{weights or recorded.weights} ({digest[:16]})",
            "give the file that phase one used as --teacher-weights",
        )
    return prepare_teacher(model, device, cache.manifest.precision)


class OnlineTeacher:
    """Runs a cache's teacher in each step, on the views that the student sees.

    Args:
        cache: whose teacher and preprocessing are used; its logits are not.
        image_shape: height and width in pixels of the images.
        projection: of that cache.
        name, weights: as `teacher_of` takes them.

    Raises DataError where the weights are not the cache's teacher's.
    """

    def __init__(
        self,
        cache: Cache,
        image_shape: tuple[int, int],
        projection: Projection,
        name: str | None,
        weights: str | None,
        device: torch.device,
    ) -> None:
        self._teacher = teacher_of(cache, name, weights, device)
        self._render = self._teacher.renderer(image_shape)
        self._projection = projection

    def __call__(
        self, images: Tensor, rows: Tensor, views: Tensor, mix: Mix | None
    ) -> dict[Head, Tensor]:
        """Logits for each head, for images uint8 `(B, 3, H, W)` in views `(B, 5)`, mixed or not.

        `rows` int64 `(B,)`: the images' rows in the training split that the cache was made from.
        """
        inputs = self._render(images, views)
        logits = self._teacher.logits(inputs if mix is None else mix.images(inputs))
        return self._projection.batch_logits(logits, rows)

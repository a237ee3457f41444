"""A run's options with everything filled in that follows from cache, weights and device; and what does not go together."""

import math

import torch

from kdcache.cache import Cache
from kdcache.config import LOSSES, TrainOptions
from kdcache.distill import default_projection
from kdcache.errors import KdcacheError
from kdcache.models import Model
from kdcache.runtime import Processes, pick_precision

_LEARNING_RATES = {
    ("sgd", False): 0.1,
    ("sgd", True): 0.02,
    ("adamw", False): 1e-3,
    ("adamw", True): 1e-4,
}


_REFERENCE_BATCH = 128  # images in a step; other batches learn in proportion (Goyal et al. 2017)
_WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}


def choose_projection(options: TrainOptions, cache: Cache) -> TrainOptions:
    """Options with the projection and input size that follow from the cache."""
    views = cache.splits["train"].views.shape[1]
    if (options.views or 1) > views:
        raise KdcacheError(
            f"--views 1 to {views}, as many as the cache has", f"{options.views}", "use fewer"
        )
    if options.labels == "teacher" and options.projection not in (None, "none"):
        raise KdcacheError(
            "--projection none for --labels teacher", options.projection, "leave --projection away"
        )
    default = "none" if options.labels == "teacher" else default_projection(cache)
    return options.replace(
        projection=options.projection or default,
        image_size=options.image_size or cache.manifest.input.image_size,
    )


def resolve(
    options: TrainOptions, views: int, student: Model, device: torch.device
) -> TrainOptions:
    """Fill in the recipe's defaults that depend on the cache, the student and the device."""
    several = views > 1 and options.alpha > 0
    size = student.preprocessing.image_size
    return options.replace(
        lr=options.lr
        or _LEARNING_RATES[options.optimizer, student.pretrained]
        * options.batch_size
        / _REFERENCE_BATCH,
        weight_decay=_WEIGHT_DECAYS[options.optimizer]
        if options.weight_decay is None
        else options.weight_decay,
        augment=options.augment or ("cached" if several else "crop-flip"),
        precision=pick_precision(options.precision, device, student.module, size, on_gpu="bf16"),
    )


def check_combination(options: TrainOptions) -> None:
    """Raise KdcacheError where options exclude each other."""
    if options.cache is None:
        needing = {"--augment cached": options.augment == "cached", "--live-teacher": options.live_teacher,
                   "--labels teacher": options.labels == "teacher", "--views": options.views is not None}  # fmt: skip
        for flag, given in needing.items():
            if given:
                raise KdcacheError(
                    f"--cache for {flag}", "no cache", f"give --cache, or leave {flag} away"
                )
    if getattr(LOSSES.load(options.loss), "needs_label_classes", False) and "head" in (
        options.projection or ""
    ):
        raise KdcacheError(
            f"--projection probe or none for --loss {options.loss}, which needs the teacher's logits in the labels' classes",
            f"--projection {options.projection}",
            "use another --loss or --projection",
        )
    if options.teacher_weights is not None and not options.live_teacher:
        raise KdcacheError(
            "--live-teacher with --teacher-weights",
            "it alone",
            "add --live-teacher or leave it away",
        )


def check_processes(options: TrainOptions, images: int, processes: Processes) -> None:
    """Raise KdcacheError where several processes cannot share this training."""
    if processes.world_size == 1:
        return
    steps = math.ceil(images / options.batch_size)
    if images // steps < processes.world_size:
        raise KdcacheError(
            f"at least an image a step for each of {processes.world_size} processes",
            f"{images // steps}",
            "use fewer",
        )
    if options.mix != "none":
        raise KdcacheError(
            "--mix none with several processes",
            f"--mix {options.mix}",
            "use one process, or no --mix",
        )

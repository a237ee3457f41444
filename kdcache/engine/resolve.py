"""Options resolved: every default filled in, once, before anything is built.

And what does not go together refused.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kdcache.cache import Cache
from kdcache.config import LOSSES, TrainOptions
from kdcache.data import ImageData
from kdcache.distill import Head, default_projection, load_projection
from kdcache.errors import OptionError
from kdcache.models import (
    Preprocessing,
    begins_pretrained,
    build_model,
    default_weights,
    device_to_look_at,
    known_preprocessing,
)
from kdcache.runs import RunSummary, finished_summary, make_run_config, read_config
from kdcache.runtime import Processes, forward_flops, pick_device, pick_precision

# by optimizer, and whether the student begins with weights
_LEARNING_RATES = {
    ("sgd", False): 0.1,
    ("sgd", True): 0.02,
    ("adamw", False): 1e-3,
    ("adamw", True): 1e-4,
}
_REFERENCE_BATCH = 128  # images in a step; other batches learn in proportion (Goyal et al. 2017)
_WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}
MOST_SHOWINGS = 8
"""How often a cached view is shown, at most, before fresh crops teach more (docs/evidence.md)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What one student's training depends on, beside the images and the teacher's logits.

    Args:
        student, student_weights, small_stem: which model, and with which weights it begins.
        pretrained: whether it begins with weights.
        preprocessing: what the student expects as input; its class names are the student's.
        teacher_classes: outputs of the second head, 0 without one.
        heads: the heads that are taught with soft targets; none for labels only.
        projection: of `PROJECTIONS`; "none" without a cache.
        views: how many of the cached views are used, 0 without a cache.
        augment: the student's views: cached, or of `VIEW_POLICIES`.
        live_teacher: whether the teacher runs in every step.
        alpha: the distillation term's share of both weights.
        lr: peak learning rate; `warmup` is the fraction of the steps in which it rises.
        layer_decay: each layer's learning rate, as a fraction of the next one's.
        precision: fp32, bf16 or fp16.
    """

    student: str
    student_weights: str
    small_stem: bool
    pretrained: bool
    preprocessing: Preprocessing
    teacher_classes: int
    heads: tuple[Head, ...]
    projection: str
    views: int
    augment: str
    live_teacher: bool
    mix: str
    combine: str
    teacher_weights: tuple[float, ...] | None
    loss: str
    temperature: float
    alpha: float
    label_weight: float
    distill_weight: float
    distill_warmup: float
    label_smoothing: float
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    layer_decay: float
    weight_decay: float
    warmup: float
    precision: str
    compile: str
    seed: int

    @property
    def classes(self) -> int:
        """The student's classes."""
        return len(self.preprocessing.class_names)

    @property
    def matching(self) -> str:
        """Whose views the student sees.

        Matched (the cached ones), unmatched (its own), or live (the teacher sees them too).
        """
        if self.live_teacher:
            return "live"
        return "matched" if self.augment in ("cached", "none") else "unmatched"


def resolve_config(
    options: TrainOptions, images: ImageData, cache: Cache | None, device: torch.device
) -> TrainConfig:
    """Fill in what follows from the cache, the images, the student's weights and the device.

    Raises OptionError where options exclude each other, or the cache.
    """
    _check_combination(options)
    weights = options.student_weights or default_weights(options.student)
    projection, heads, views = _teaching(options, images, cache)
    pretrained = begins_pretrained(options.student, weights)
    preprocessing = _preprocessing(options, weights, images, cache)
    batch = min(options.batch_size, len(learned_rows(options, images)))
    lr = _LEARNING_RATES[options.optimizer, pretrained] * batch / _REFERENCE_BATCH
    return TrainConfig(
        student=options.student,
        student_weights=weights,
        small_stem=options.small_stem,
        pretrained=pretrained,
        preprocessing=preprocessing,
        teacher_classes=cache.manifest.teacher.classes if cache and "teacher" in heads else 0,
        heads=heads,
        projection=projection,
        views=views,
        augment=options.augment or _default_augment(options, views),
        live_teacher=options.live_teacher,
        mix=options.mix,
        combine=options.combine,
        teacher_weights=options.teacher_weights_of_mean,
        loss=options.loss,
        temperature=options.temperature,
        alpha=options.distillation_share,
        label_weight=options.weights[0],
        distill_weight=options.weights[1],
        distill_warmup=options.distill_warmup,
        label_smoothing=options.label_smoothing,
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=options.optimizer,
        lr=options.lr or lr,
        layer_decay=options.layer_decay,
        weight_decay=_or(options.weight_decay, _WEIGHT_DECAYS[options.optimizer]),
        warmup=options.warmup,
        precision=_precision(options, preprocessing.image_size, device),
        compile=options.compile,
        seed=options.seed,
    )


def learned_rows(options: TrainOptions, images: ImageData) -> np.ndarray:
    """The rows of the training split that a student learns from, int64, ascending.

    Those without a label are among them only where soft targets are learned.
    """
    train = images.splits["train"]
    rows = train.spread(options.train_images)
    taught = options.cache is not None and options.distills
    return rows if taught else rows[rows < train.labelled]


def recorded_options(options: TrainOptions, config: TrainConfig) -> TrainOptions:
    """The options with the resolved values in place of the defaults: what config.json holds.

    Those that do nothing, or say what becomes of an earlier run, have their defaults.
    """
    with_cache = options.cache is not None
    resolved = options.without_start().replace(
        image_size=config.preprocessing.image_size,
        projection=config.projection if with_cache else options.projection,
        augment=config.augment,
        lr=config.lr,
        weight_decay=config.weight_decay,
        precision=config.precision,
    )
    return resolved.used_only()


def finished_run(
    options: TrainOptions, images: ImageData, cache: Cache | None, processes: Processes
) -> RunSummary | None:
    """The summary of the run that is asked for, if `options.out` holds it, finished.

    Nothing is built, and nothing written.

    Raises OptionError where it holds a run of other options, DataError where one of other images.
    """
    device = pick_device(options.device, processes.local_rank)

    def resolve(some: TrainOptions) -> TrainOptions:
        return recorded_options(some, resolve_config(some, images, cache, device))

    def look() -> RunSummary | None:
        held = None if options.overwrite else read_config(options.out)
        if held is None:
            return None
        learned = images.with_train(learned_rows(options, images))
        now = make_run_config(options, resolve(options), learned, cache, device)
        return finished_summary(options, held, now, resolve)

    return processes.broadcast_object(look)


def _check_combination(options: TrainOptions) -> None:
    """Raise OptionError where options exclude each other."""
    unused = options.unused(options.changed())
    options.check_used(dict.fromkeys(name for name, need in unused if need.strict))
    if options.labels == "teacher" and options.projection not in (None, "none"):
        expected = "--projection none for --labels teacher"
        raise OptionError(expected, options.projection, "omit --projection")


def _teaching(
    options: TrainOptions, images: ImageData, cache: Cache | None
) -> tuple[str, tuple[Head, ...], int]:
    """Name of the projection, the heads that it teaches, and the number of views."""
    if cache is None:
        return "none", (), 0
    cached_views = cache.manifest.splits["train"].views
    if (options.views or 1) > cached_views:
        expected = f"--views 1 to {cached_views}, as many as the cache has"
        raise OptionError(expected, f"{options.views}", "use fewer")
    default = "none" if options.labels == "teacher" else default_projection(cache)
    name = options.projection or default
    heads = load_projection(cache, name).heads
    needs_labels = getattr(LOSSES.load(options.loss), "needs_label_classes", False)
    if needs_labels and learned_rows(options, images)[-1] >= images.splits["train"].labelled:
        raise OptionError(
            f"a label for each image for --loss {options.loss}",
            "training images without labels",
            "use another --loss or --data",
        )
    if needs_labels and "teacher" in heads:
        raise OptionError(
            f"--projection probe or none for --loss {options.loss}, which needs the teacher's"
            " logits in the labels' classes",
            f"--projection {name}",
            "use another --loss or --projection",
        )
    return name, heads, options.views or cached_views


def _default_augment(options: TrainOptions, views: int) -> str:
    """The cached views as long as none is shown too often, else crops of the student's own."""
    few_showings = options.epochs <= MOST_SHOWINGS * views
    return "cached" if options.distills and views > 1 and few_showings else "crop-flip"


def _preprocessing(
    options: TrainOptions, weights: str, images: ImageData, cache: Cache | None
) -> Preprocessing:
    """The student's input: as given, else of the teacher's size and as its weights say."""
    known = known_preprocessing(options.student, weights)
    size = options.image_size
    if size is None and cache is not None:
        size = cache.manifest.input.image_size
    found = Preprocessing(
        size or known.image_size,
        options.mean or known.mean,
        options.std or known.std,
        images.class_names,
        known.interpolation,
    )
    found.warn_of_scale()
    return found


def _precision(options: TrainOptions, image_size: int, device: torch.device) -> str:
    """The arithmetic of the student.

    Where it depends on the student's size, that is counted on a model without data.
    """

    def operations() -> float:
        with torch.device(device_to_look_at(options.student)):
            student = build_model(
                options.student,
                "none",
                seed=options.seed,
                small_stem=options.small_stem,
                image_size=image_size,
            )
        return forward_flops(student.module, image_size)

    return pick_precision(options.precision, device, operations, on_gpu="bf16")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value

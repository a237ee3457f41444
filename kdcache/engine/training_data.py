"""What students are trained from: the images, a cache that belongs to them, and what its teacher says of them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.config import TrainOptions
from kdcache.data import ImageData, Mix, Split, load_selected_images
from kdcache.distill import TeacherTargets, load_images_of, make_targets
from kdcache.engine.teacher import OnlineTeacher
from kdcache.errors import KdcacheError


@dataclass(frozen=True)
class TrainingData:
    """What all students of one cache share: read, projected and loaded once."""

    images: ImageData
    cache: Cache | None
    _targets: dict[str, TeacherTargets] = field(default_factory=dict)
    _live: dict[tuple, OnlineTeacher] = field(default_factory=dict)

    def targets(self, projection: str) -> TeacherTargets:
        """The cache's soft targets in the student's classes, for all views."""
        if projection not in self._targets:
            self._targets[projection] = make_targets(
                self.cache, projection, self.images.class_names
            )
        return self._targets[projection]

    def online_teacher(
        self, projection: str, weights: str | None, rows: np.ndarray, device: torch.device
    ) -> Callable[[Tensor, Tensor, Tensor, Mix | None], dict[str, Tensor]]:
        """The cache's teacher in the loop, for a trainer whose images are these rows of the training part."""
        key = (projection, weights, device)
        if key not in self._live:
            made = self.targets(projection).projection
            self._live[key] = OnlineTeacher(
                self.cache, self.images.image_shape, made, weights, device
            )
        live, chosen = self._live[key], torch.from_numpy(rows).to(device)
        return lambda images, rows, views, mix: live(images, chosen[rows], views, mix)


def load_training_data(options: TrainOptions) -> TrainingData:
    """Open the cache and read the images that it was made from; or, for labels only, just the images."""
    if options.cache is None:
        if options.alpha > 0:
            raise KdcacheError(
                "--cache FILE.h5, or --alpha 0 to train on labels only",
                "neither",
                "add one of them",
            )
        return TrainingData(load_selected_images(options), None)
    cache = open_cache(options.cache, check_logits=not options.skip_checksums)
    recorded = cache.manifest.dataset.name
    if options.dataset not in (None, recorded):
        raise KdcacheError(
            f"--dataset {recorded}, as in {options.cache}", options.dataset, "leave --dataset away"
        )
    images = load_images_of(cache, options.data, options.stream or None)
    return TrainingData(
        _labelled_by_teacher(images, cache) if options.labels == "teacher" else images, cache
    )


def _labelled_by_teacher(images: ImageData, cache: Cache) -> ImageData:
    """The same images with the teacher's classes, and its top answer for the whole image as their label."""
    teacher = cache.manifest.teacher
    splits = {
        split: Split(
            part.images, torch.from_numpy(np.asarray(cache.splits[split].logits[:, 0])).argmax(1)
        )
        for split, part in images.splits.items()
    }
    names = teacher.class_names or [f"class {number}" for number in range(teacher.classes)]
    return dataclasses.replace(images, splits=splits, class_names=tuple(names))

"""What students are trained from: the images, a cache that belongs to them, and what its teacher says of them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.config import TrainOptions
from kdcache.errors import InputError
from kdcache.images import ImageData, Split, load_chosen_images
from kdcache.live import LiveTeacher
from kdcache.mixing import Mix
from kdcache.targets import Targets, load_images_of, make_targets


@dataclass(frozen=True)
class Materials:
    """What all students of one cache share: read, projected and loaded once."""

    images: ImageData
    cache: Cache | None
    _targets: dict[str, Targets] = field(default_factory=dict)
    _live: dict[tuple, LiveTeacher] = field(default_factory=dict)

    def targets(self, projection: str) -> Targets:
        """The cache's soft targets in the student's classes, for all views."""
        if projection not in self._targets:
            self._targets[projection] = make_targets(self.cache, projection, self.images.class_names)
        return self._targets[projection]

    def live_teacher(
        self, projection: str, weights: str | None, rows: np.ndarray, device: torch.device
    ) -> Callable[[Tensor, Tensor, Tensor, Mix | None], dict[str, Tensor]]:
        """The cache's teacher in the loop, for a trainer whose images are these rows of the training part."""
        key = (projection, weights, device)
        if key not in self._live:
            self._live[key] = LiveTeacher(self.cache, self.images.image_shape, *key)
        live, chosen = self._live[key], torch.from_numpy(rows).to(device)
        return lambda images, rows, views, mix: live(images, chosen[rows], views, mix)


def load_materials(options: TrainOptions) -> Materials:
    """Open the cache and read the images that it was made from; or, for labels only, just the images."""
    if options.cache is None:
        if options.alpha > 0:
            raise InputError("--cache FILE.h5, or --alpha 0 to train on labels only", "neither", "add one of them")
        return Materials(load_chosen_images(options), None)
    cache = open_cache(options.cache, check_logits=not options.skip_checksums)
    recorded = cache.manifest["dataset"]["name"]
    if options.dataset not in (None, recorded):
        raise InputError(f"--dataset {recorded}, as in {options.cache}", options.dataset, "leave --dataset away")
    images = load_images_of(cache, options.data, options.stream or None)
    return Materials(_labelled_by_teacher(images, cache) if options.labels == "teacher" else images, cache)


def _labelled_by_teacher(images: ImageData, cache: Cache) -> ImageData:
    """The same images with the teacher's classes, and its top answer for the whole image as their label."""
    teacher = cache.manifest["teacher"]
    splits = {
        split: Split(part.images, torch.from_numpy(np.asarray(cache.splits[split].logits[:, 0])).argmax(1))
        for split, part in images.splits.items()
    }
    names = teacher["class_names"] or [f"class {number}" for number in range(teacher["classes"])]
    return dataclasses.replace(images, splits=splits, class_names=tuple(names))

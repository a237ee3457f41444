"""The teacher in the loop, in place of its cached logits: what a cache has to reproduce, and its price."""

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.mixing import Mix
from kdcache.targets import load_or_fit_probe
from kdcache.teacher import teacher_of


class LiveTeacher:
    """Runs a cache's teacher on the training images of each step, in the views that the student sees.

    Args:
        cache: whose teacher, preprocessing and probe are used; its logits are not.
        image_shape: height and width in pixels of the images.
        projection: probe, head, probe+head or none.
        weights: file with the teacher's weights, if phase one had them from one.

    Raises InputError where the weights are not the cache's teacher's.
    """

    def __init__(
        self, cache: Cache, image_shape: tuple[int, int], projection: str, weights: str | None, device: torch.device
    ) -> None:
        self._teacher = teacher_of(cache, weights, device)
        self._render = self._teacher.renderer(image_shape)
        self._projection = projection
        self._probe = load_or_fit_probe(cache).to(device) if "probe" in projection else None

    def __call__(self, images: Tensor, rows: Tensor, views: Tensor, mix: Mix | None) -> dict[str, Tensor]:
        """Logits of images uint8 `(B, 3, H, W)` in views `(B, 5)`, mixed if there is a mix, as `Targets.train` has them.

        `rows` int64 `(B,)`: the images' rows in the training part that the cache was made from.
        """
        inputs = self._render(images, views)
        logits = self._teacher.logits(inputs if mix is None else mix.images(inputs))
        taught = {}
        if self._probe is not None:
            taught["student"] = self._probe.project_rows(logits, rows)
        elif self._projection == "none":
            taught["student"] = logits
        if "head" in self._projection:
            taught["teacher"] = logits
        return taught

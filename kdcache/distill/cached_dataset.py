"""A cache as a torch Dataset, for a training loop of one's own."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdcache.cache import Cache
from kdcache.data import ImageData, Renderer
from kdcache.distill.losses import soften
from kdcache.distill.matching import check_images_match
from kdcache.distill.teacher_targets import make_targets


class CachedViews(Dataset[dict[str, Tensor | int]]):
    """Every view of every image of one split, with its soft targets.

    Item `image_index * views + view_index` is a dict of `image` float32 `(3, S, S)`, cropped,
    mirrored, resized and normalised as the teacher saw it; `soft_targets` float32 `(K,)`; and the
    ints `label` (-1 for an image without one), `image_index`, `view_index`. Everything is plain
    memory: it can be read by any number of DataLoader workers.

    Args:
        cache: from `open_cache`.
        images: from `load_images_of`, the images that the cache was made from.
        split: train, validation or test.
        projection: probe or none; or head, for soft targets of the training split in the teacher's
            own classes.
        image_size, mean, std: of the student's input; by default the teacher's.

    Raises KdcacheError where images and cache do not belong together.
    """

    def __init__(
        self,
        cache: Cache,
        images: ImageData,
        split: str = "train",
        *,
        projection: str = "probe",
        temperature: float = 2.0,
        image_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        check_images_match(cache, images)
        targets = make_targets(cache, projection)
        if split == "train":
            self._logits = targets.train[targets.projection.heads[0]]
        else:
            self._logits = targets.predictions[split][:, None]
        self._images, self._labels = images.splits[split].images, images.splits[split].labels
        self._views = torch.from_numpy(cache.splits[split].views)
        self._temperature = temperature
        teacher = cache.manifest.input
        self._render = Renderer(
            image_size or teacher.image_size,
            mean or teacher.mean,
            std or teacher.std,
            images.image_shape,
            interpolation=teacher.interpolation,
        )

    def __len__(self) -> int:
        return self._views.shape[0] * self._views.shape[1]

    def __getitem__(self, item: int) -> dict[str, Tensor | int]:
        image_index, view_index = divmod(range(len(self))[item], self._views.shape[1])
        return {
            "image": self._render(
                self._images[image_index][None], self._views[image_index, view_index, None]
            )[0],
            "soft_targets": soften(self._logits[image_index, view_index], self._temperature),
            "label": int(self._labels[image_index]),
            "image_index": image_index,
            "view_index": view_index,
        }

"""What a model expects as input: size, normalisation, and the classes that it knows."""

import warnings
from dataclasses import dataclass

from kdcache.errors import KdcacheWarning

DEFAULT_IMAGE_SIZE = 224
# of the channels of ImageNet's training images, on the scale 0 to 1, as torchvision has them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects as input.

    Args:
        image_size: side in pixels of its square input.
        mean, std: of the three channels, on the scale 0 to 1: input = (pixel / 255 - mean) / std.
        class_names: of its outputs; empty where nobody knows them.
        interpolation: of `INTERPOLATIONS`, with which an image is brought to that size.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    interpolation: str = "bilinear"

    def warn_of_scale(self) -> None:
        """A KdcacheWarning where mean or std look like those of pixels from 0 to 255."""
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if max(values) > 1:
                shown = ",".join(f"{value:g}" for value in values)
                warnings.warn(
                    f"{flag} {shown} is not on the scale 0 to 1, which pixels are brought to before"
                    " it is applied; divide by 255 what is on the scale 0 to 255",
                    KdcacheWarning,
                    stacklevel=3,
                )

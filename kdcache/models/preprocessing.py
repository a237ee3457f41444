"""What a model expects as input: size, normalisation, and the classes that it knows."""

from dataclasses import dataclass

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
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

"""What a model expects as input: size, normalisation, and the classes that it knows."""

from dataclasses import dataclass

DEFAULT_IMAGE_SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects as input. `class_names` is empty where nobody knows them."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

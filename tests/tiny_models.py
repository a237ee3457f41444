"""Models small enough for tests, reached as 'tiny_models:tiny_cnn' and the like."""

import torchvision
from torch import Tensor, nn


def tiny_cnn(classes: int = 10) -> nn.Module:
    """Takes images of any size from 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


def tiny_teacher() -> nn.Module:
    return tiny_cnn(20)


def without_batch_norm() -> nn.Module:
    """What it learns from a batch does not depend on how the batch is divided."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def down_to_one_pixel() -> nn.Module:
    """Its batch norm has one number a channel and image, so one image is too few to train on."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10))


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_cnn()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, self.model(inputs)


def pair() -> nn.Module:
    """Returns a tuple, of which nobody knows which one are the logits."""
    return _Pair()


def no_module() -> int:
    return 3


def fully_convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def headless() -> nn.Module:
    return nn.Flatten()


def with_its_own_weights() -> nn.Module:
    """The same weights whatever the seed, as a callable has that loads them itself."""
    model = tiny_teacher()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.01)
    return model


def learned() -> nn.Module:
    """The same, by a callable that says so."""
    return with_its_own_weights()


learned.pretrained = True


def without_classifier() -> nn.Module:
    """As people make a feature extractor of a model of torchvision's."""
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Identity()  # type: ignore[assignment]
    return model


def without_layers() -> nn.Module:
    """Ten numbers of an image, none of them learned."""
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten(2), _Mean())


class _Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)

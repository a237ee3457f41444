"""Models small enough for tests, reached as 'tiny_models:tiny_cnn' and the like."""

from torch import nn


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


def no_module() -> int:
    return 3


def fully_convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def headless() -> nn.Module:
    return nn.Flatten()

"""A transformer that is built in no time."""

import pytest
import torchvision
from torchvision.models.vision_transformer import VisionTransformer


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch) -> str:
    """A transformer of torchvision's own class, tiny, in torchvision's register."""

    def vit_tiny(image_size: int = 224, num_classes: int = 1000) -> VisionTransformer:
        return VisionTransformer(image_size, 16, 1, 2, 8, 16, num_classes=num_classes)

    vit_tiny.__module__ = "torchvision.models.vision_transformer"
    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "vit_tiny", vit_tiny)
    return "vit_tiny"

"""ResNets for 32-pixel images: layers counted by hand, and the name that older files bear."""

import pytest
import torch
from torch import nn

from kdcache.models import build_model
from kdcache.models.build import Model
from kdcache.models.small_resnets import SmallResNet, half_resnet8, resnet20


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet8", 8), ("resnet14", 14), ("resnet20", 20), ("resnet32", 32), ("resnet56", 56)],
)
def test_a_net_has_as_many_layers_as_its_name_says(name: str, layers: int) -> None:
    module = build_model(f"kdcache.models.small_resnets:{name}", None, seed=0).module
    weighted = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers + 2  # and the two 1 x 1 shortcuts, which the name does not count


def test_parameters_by_hand() -> None:
    # convolutions 3 x 3: 3 -> 16; stage 16: 2; stage 32: 16 -> 32 and 32 -> 32; stage 64 alike;
    # shortcuts 1 x 1; each convolution has a batch norm of two numbers a channel; the head 64 -> 10
    convolutions = 9 * (3 * 16 + 2 * 16**2 + 16 * 32 + 32**2 + 32 * 64 + 64**2)
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    module = SmallResNet(1)
    total = sum(parameter.numel() for parameter in module.parameters())
    assert total == convolutions + shortcuts + norms + 64 * 10 + 10


@pytest.mark.parametrize("side", [16, 32, 33])
def test_logits_for_images_of_any_side(side: int) -> None:
    images = torch.zeros(2, 3, side, side)
    assert resnet20(classes=7).eval()(images).shape == (2, 7)
    assert half_resnet8().eval()(images).shape == (2, 10)


def test_the_name_that_files_of_version_0_1_0_bear_still_builds() -> None:
    def build(module: str) -> Model:
        return build_model(f"{module}:resnet20", None, seed=0, classes=4)

    old, new = build("kdcache.small_resnets"), build("kdcache.models.small_resnets")
    assert isinstance(old.module, SmallResNet)
    assert old.name == "kdcache.small_resnets:resnet20", "it stays as it was given"
    for one, other in zip(old.module.parameters(), new.module.parameters(), strict=True):
        assert torch.equal(one, other)

"""ResNets for 32-pixel images, which torchvision lacks.

One is named `--student kdcache.models.small_resnets:resnet20`.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2: a 3 x 3
convolution, three stages of n basic blocks with 16, 32 and 64 channels, and a linear head; 6n + 2
layers. Shortcuts between stages are 1 x 1 convolutions here, the paper's option B, since
torchvision's BasicBlock has them.
"""

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Sequential):
    """Input float `(B, 3, H, W)`, output logits `(B, classes)`.

    Args:
        blocks: basic blocks in each of the three stages.
        width: channels of the stem and the first stage; each later stage has twice as many.
        stem_stride: of the first convolution.
        classes: outputs of the head, which phase two replaces for other classes.
    """

    def __init__(
        self, blocks: int, width: int = 16, stem_stride: int = 1, classes: int = 10
    ) -> None:
        stages = []
        inputs = width
        for stage in range(3):
            outputs = width << stage
            stride = 1 if stage == 0 else 2
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            layers = [BasicBlock(inputs, outputs, stride, shortcut)]
            layers += [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            inputs = outputs
        stem = nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False)
        super().__init__(
            nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *stages,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(inputs, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


resnet8 = partial(SmallResNet, 1)
resnet14 = partial(SmallResNet, 2)
resnet20 = partial(SmallResNet, 3)
resnet32 = partial(SmallResNet, 5)
resnet56 = partial(SmallResNet, 9)

# a stem of stride 2 makes every layer behind it four times as cheap: for experiments on a CPU
half_resnet8 = partial(SmallResNet, 1, stem_stride=2)
# a teacher for it: twice the channels, five times the weights (docs/evidence.md)
wide_half_resnet8 = partial(SmallResNet, 1, width=32, stem_stride=2)

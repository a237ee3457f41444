"""Mixup and CutMix: a batch's images mixed in pairs, and the targets of a mixed image."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.data.random import philox_from_name


@dataclass(frozen=True)
class Mix:
    """What happens to the batch `(B, ...)` of one step.

    Args:
        partner: int64 `(B,)`, the row that row i is mixed with.
        fraction: of the mixed image i that row i makes up, 0 to 1; its partner makes up the rest.
        box: (top, left, bottom, right) as fractions of the input's side, which the partner fills;
            None for mixup.
    """

    partner: Tensor
    fraction: float
    box: tuple[float, float, float, float] | None

    def images(self, inputs: Tensor) -> Tensor:
        """Mix inputs float `(B, 3, S, S)`.

        For another S it is the same mix at that size, up to a pixel of the box.
        """
        if self.box is None:
            return self.fraction * inputs + (1 - self.fraction) * inputs[self.partner]
        top, left, bottom, right = (round(edge * inputs.shape[2]) for edge in self.box)
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = inputs[self.partner, :, top:bottom, left:right]
        return mixed

    def blend(self, own: Tensor, of_partner: Tensor) -> Tensor:
        """A term of the loss: its mean over both images' targets, weighted by their fractions."""
        return self.fraction * own + (1 - self.fraction) * of_partner


def draw_mix(kind: str, count: int, size: int, *, seed: int, stream: str) -> Mix:
    """Draw the mix of one batch, from a generator keyed by (seed, stream).

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, and Yun et al., "CutMix", 2019:
    the fraction is Beta(1, 1), that is uniform. CutMix's box has the partner's fraction of the area
    around a uniform centre and is cut off at the border; the fraction is then what is left of the
    image, counted in the pixels of an input of side `size`.

    Args:
        kind: mixup or cutmix.
        count: B, the rows of the batch.
        size: side in pixels of the input, to whose pixels CutMix's box is rounded.
    """
    generator = np.random.Generator(philox_from_name(f"{seed}/{stream}"))
    partner = torch.from_numpy(generator.permutation(count))
    fraction = generator.random()
    if kind == "mixup":
        return Mix(partner, fraction, None)
    side = math.sqrt(1 - fraction)
    centre = generator.random(2)
    low = np.rint(np.clip(centre - side / 2, 0, 1) * size)  # in whole pixels
    high = np.rint(np.clip(centre + side / 2, 0, 1) * size)
    top, left = (low / size).tolist()
    bottom, right = (high / size).tolist()
    box_area = float(np.prod(high - low)) / size**2
    return Mix(partner, 1 - box_area, (top, left, bottom, right))

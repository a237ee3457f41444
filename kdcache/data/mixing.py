"""Mixup and CutMix: a batch's images mixed in pairs, and how much of each pair's targets a mixed image has."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.data.random import philox_from_name


@dataclass(frozen=True)
class Mix:
    """What happens to the batch `(B, ...)` of one step.

    `partner` int64 `(B,)`: the row that row i is mixed with. `share`: row i's own part, 0 to 1; the partner's is the
    rest. `box`: (top, left, bottom, right) as shares of the input's side, taken from the partner; None for mixup.
    """

    partner: Tensor
    share: float
    box: tuple[float, float, float, float] | None

    def images(self, inputs: Tensor) -> Tensor:
        """Inputs float `(B, 3, S, S)`, mixed; for another S the same mix at that size, up to a pixel of the box."""
        if self.box is None:
            return self.share * inputs + (1 - self.share) * inputs[self.partner]
        top, left, bottom, right = (round(edge * inputs.shape[2]) for edge in self.box)
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = inputs[self.partner, :, top:bottom, left:right]
        return mixed

    def blend(self, own: Tensor, of_partner: Tensor) -> Tensor:
        """A term of the loss as the mean of the term with either image's target, weighted by their shares."""
        return self.share * own + (1 - self.share) * of_partner


def draw_mix(kind: str, count: int, size: int, *, seed: int, stream: str) -> Mix:
    """Draw the mix of one batch, from a generator keyed by (seed, stream).

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, and Yun et al., "CutMix", 2019: the share is
    Beta(1, 1), that is uniform; CutMix's box has the partner's share of the area around a uniform centre, is cut off
    at the border, and the share is then what is left of the image, counted in the pixels of an input of side `size`.
    """
    generator = np.random.Generator(philox_from_name(f"{seed}/{stream}"))
    partner = torch.from_numpy(generator.permutation(count))
    share = generator.random()
    if kind == "mixup":
        return Mix(partner, share, None)
    side = math.sqrt(1 - share)
    centre = generator.random(2)
    low, high = (np.rint(np.clip(centre + half, 0, 1) * size) for half in (-side / 2, side / 2))
    share = 1 - float(np.prod(high - low)) / size**2
    return Mix(partner, share, tuple(float(edge) / size for edge in (*low, *high)))

"""TODO report.teacher_check."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.cache import Cache
from kdcache.data import ImageData
from kdcache.distill import check_images_match
from kdcache.engine import teacher_of
from kdcache.runtime import pick_device

# How far a second run of the same teacher may be from the stored logits, in standard deviations of the logits:
# float16 storage alone is 2^-11 of a logit; the rest is what the arithmetic loses in a deep network.
_EXPECTED_DIFFERENCE = {"fp32": 0.02, "fp16": 0.1, "bf16": 0.5}


def rerun_teacher(
    cache: Cache, images: ImageData, count: int, *, weights: str | None, device: str, seed: int
) -> dict[str, Any]:
    """Run the teacher again on `count` random (image, view) rows of all splits and compare.

    Args:
        weights: where the teacher's weights are, if they came from a file.

    Returns largest_difference, mean_kl (nats, stored to live, T = 1), agreement (share of equal top-1), the
    difference that the precision explains, and whether the largest is within it.
    """
    check_images_match(cache, images)
    teacher = teacher_of(cache, weights, pick_device(device))
    render = teacher.renderer(images.image_shape)
    generator = np.random.default_rng(seed)
    stored, live = [], []
    for split, part in cache.splits.items():
        share = max(
            1,
            round(
                count
                * part.logits[..., 0].size
                / sum(p.logits[..., 0].size for p in cache.splits.values())
            ),
        )
        rows = generator.choice(
            part.logits[..., 0].size, min(share, part.logits[..., 0].size), replace=False
        )
        for some in np.array_split(rows, -(-len(rows) // 32)):
            image_index, view_index = np.divmod(np.sort(some), part.views.shape[1])
            views = torch.from_numpy(part.views[image_index, view_index]).to(teacher.device)
            inputs = render(images.splits[split].images[image_index].to(teacher.device), views)
            live.append(teacher.logits(inputs).cpu())
            stored.append(
                torch.from_numpy(np.asarray(part.logits[image_index, view_index])).float()
            )
    return _compared(torch.cat(stored), torch.cat(live), teacher.precision)


def _compared(stored: Tensor, live: Tensor, precision: str) -> dict[str, Any]:
    expected = _EXPECTED_DIFFERENCE[precision] * live.std().item()
    largest = (stored - live).abs().max().item()
    log_stored, log_live = F.log_softmax(stored, 1), F.log_softmax(live, 1)
    return {
        "rows": len(stored),
        "largest_difference": largest,
        "mean_kl": F.kl_div(log_live, log_stored, log_target=True, reduction="batchmean").item(),
        "agreement": (stored.argmax(1) == live.argmax(1)).float().mean().item(),
        "explained_by_precision": expected,
        "within": largest <= expected,
    }

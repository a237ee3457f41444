"""Whether a cache's teacher still says what the cache holds: runs it again on some rows."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.cache import Cache
from kdcache.data import ImageData
from kdcache.distill import agreement, check_images_match, kl_divergence
from kdcache.engine import teacher_of
from kdcache.runtime import pick_device

# How far a second run of the same teacher may be from the stored logits, in standard deviations of
# the logits: float16 storage alone is 2^-11 of a logit; the rest is what the arithmetic loses in a
# deep network.
_EXPECTED_DIFFERENCE = {"fp32": 0.02, "fp16": 0.1, "bf16": 0.5}
_BATCH = 32


def rerun_teacher(
    cache: Cache,
    images: ImageData,
    count: int,
    *,
    teacher: str | None = None,
    weights: str | None,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """Run the teacher again on `count` random (image, view) rows of all splits and compare.

    Args:
        images: those that the cache was made from.
        count: of rows, shared by the splits as their rows are, at least one of each; all where
            there are fewer.
        teacher: its name; needed for one of the user's own, `package.module:callable`.
        weights: where the teacher's weights are, if they came from a file.
        device: where the teacher runs, "auto" or as torch names it.
        seed: of the choice of rows.

    Returns rows, largest_difference (of logits or features), explained_by_precision (the difference
    that the arithmetic explains), and within (whether the largest is at most that); of logits also
    mean_kl (nats, stored to live, T = 1) and agreement (the fraction of equal predictions).

    Raises DataError where the images or the weights are not those of the cache.
    """
    check_images_match(cache, images)
    live_teacher = teacher_of(cache, teacher, weights, pick_device(device))
    render = live_teacher.renderer(images.image_shape)
    generator = np.random.default_rng(seed)
    rows_in_split = {split: part.views[..., 0].size for split, part in cache.splits.items()}
    wanted = _shared(count, rows_in_split)
    stored, live = [], []
    for split, part in cache.splits.items():
        rows = np.sort(generator.choice(rows_in_split[split], wanted[split], replace=False))
        for batch in np.split(rows, range(_BATCH, len(rows), _BATCH)):
            image_index, view_index = np.divmod(batch, part.views.shape[1])
            views = torch.from_numpy(part.views[image_index, view_index]).to(live_teacher.device)
            pixels = images.splits[split].images[torch.from_numpy(image_index)]
            live.append(live_teacher.logits(render(pixels.to(live_teacher.device), views)).cpu())
            cached = np.asarray(part.logits[image_index, view_index])
            stored.append(torch.from_numpy(cached).float())
    of_logits = cache.manifest.teacher.output == "logits"
    return _compare(torch.cat(stored), torch.cat(live), live_teacher.precision, of_logits)


def _shared(count: int, rows: dict[str, int]) -> dict[str, int]:
    """How many of `count` rows each split gives, by the largest remainders; at least one."""
    total = sum(rows.values())
    count = min(max(count, len(rows)), total)
    exact = {split: count * available / total for split, available in rows.items()}
    shares = {split: max(1, int(share)) for split, share in exact.items()}
    while sum(shares.values()) != count:
        step = 1 if sum(shares.values()) < count else -1
        # the split that is furthest from its share, among those that can give or lose a row
        able = [split for split in rows if 1 <= shares[split] + step <= rows[split]]
        shares[max(able, key=lambda split: step * (exact[split] - shares[split]))] += step
    return shares


def _compare(
    stored: Tensor, live: Tensor, precision: str, of_logits: bool = True
) -> dict[str, Any]:
    """Compare logits float32 `(M, C)`, or features, of the same rows."""
    expected = _EXPECTED_DIFFERENCE[precision] * live.std().item()
    if not of_logits:  # some features are a hundred times as large as most
        expected += live.abs().max().item() / 2**11
    largest = (stored - live).abs().max().item()
    found: dict[str, Any] = {"rows": len(stored), "largest_difference": largest}
    if of_logits:
        # in float64: what rounds below zero in float32 is no divergence
        divergence = kl_divergence(
            F.log_softmax(stored.double(), 1), F.log_softmax(live.double(), 1)
        ).clamp(min=0)
        found["mean_kl"] = divergence.mean().item()
        found["agreement"] = agreement(stored, live)
    return found | {"explained_by_precision": expected, "within": largest <= expected}

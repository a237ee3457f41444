"""Looks at a cache: what is in it, whether it is intact, and whether its teacher still says the same."""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.config import SPLITS
from kdcache.images import ImageData
from kdcache.losses import soften
from kdcache.models import pick_device
from kdcache.targets import Targets, check_belongs, default_projection, load_or_fit_probe, make_targets
from kdcache.teacher import teacher_of

TEMPERATURES = (1, 2, 4)
_CHILD_SECONDS, _CHILD_BYTES = 120, 16 << 30
# How far a second run of the same teacher may be from the stored logits, in standard deviations of the logits:
# float16 storage alone is 2^-11 of a logit; the rest is what the arithmetic loses in a deep network.
_EXPECTED_DIFFERENCE = {"fp32": 0.02, "fp16": 0.1, "bf16": 0.5}


@dataclass(frozen=True)
class Contents:
    """What `info` shows. `facts` is ready for JSON; the rest is what the picture shows."""

    facts: dict[str, Any]
    cache: Cache
    targets: Targets
    by_label: np.ndarray  # float32 (K, K), the mean soft target (T = 1) of the validation images of each label


def look(path: Path, check_logits: bool = True) -> Contents:
    """Open a cache and gather what is to be known of it."""
    started = time.perf_counter()
    cache = open_cache(path, check_logits=check_logits)
    seconds = time.perf_counter() - started
    size = path.stat().st_size
    projection = default_projection(cache)
    targets = make_targets(cache, projection)
    labels = torch.from_numpy(cache.splits["validation"].labels)
    manifest, names = cache.manifest, cache.manifest["dataset"]["class_names"]
    facts = {
        "path": str(path),
        "bytes": size,
        "fingerprint": cache.fingerprint,
        "dataset": manifest["dataset"] | {"class_names": names},
        "splits": {split: {key: manifest["splits"][split][key] for key in ("rows", "views")} for split in SPLITS},
        "teacher": manifest["teacher"],
        "input": manifest["input"],
        "views": manifest["views"],
        "precision": manifest["precision"],
        "software": manifest["software"],
        "opening": {"seconds": seconds, "checked": "every byte" if check_logits else "all but the logits"},
        "projection": projection,
        "probe": load_or_fit_probe(cache).validation if projection == "probe" else None,
        "teacher_validation_accuracy": _accuracy(targets.answers["validation"], labels),
        "teacher_validation_accuracy_by_class": {
            name: _accuracy(targets.answers["validation"][labels == label], labels[labels == label])
            for label, name in enumerate(names)
        },
        "soft_target_entropy": {
            f"T={temperature}": _quantiles(entropy(targets.train["student"], temperature)) for temperature in TEMPERATURES
        },
    }
    one_hot = F.one_hot(labels, len(names)).float()
    by_label = one_hot.T @ soften(targets.answers["validation"], 1.0) / one_hot.sum(0).clamp(min=1)[:, None]
    return Contents(facts, cache, targets, by_label.numpy())


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of softmax(logits / T) over the last axis, flattened."""
    soft_targets = soften(logits, temperature)
    return -torch.xlogy(soft_targets, soft_targets).sum(-1).flatten()


def verify(path: Path) -> Cache:
    """Check every byte. Raises DamagedError naming the first part or block that is not what was written."""
    return open_cache(path, check_logits=True)


def verify_in_child(path: Path) -> str | None:
    """Check every byte in a process with limits on time and memory, which a forged file may take down.

    Returns None, or in one line what was wrong.
    """
    command = [sys.executable, "-m", "kdcache", "verify", str(path)]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=_CHILD_SECONDS, preexec_fn=_limit, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"reading it took more than {_CHILD_SECONDS} s"
    if child.returncode < 0:
        return f"reading it killed the reading process (signal {-child.returncode})"
    lines = child.stderr.strip().splitlines()
    return None if child.returncode == 0 else lines[-1] if lines else f"exit code {child.returncode}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write


def rerun_teacher(
    cache: Cache, images: ImageData, count: int, *, weights: str | None, device: str, seed: int
) -> dict[str, Any]:
    """Run the teacher again on `count` random (image, view) rows of all splits and compare.

    Args:
        weights: where the teacher's weights are, if they came from a file.

    Returns largest_difference, mean_kl (nats, stored to live, T = 1), agreement (share of equal top-1), the
    difference that the precision explains, and whether the largest is within it.
    """
    check_belongs(cache, images)
    teacher = teacher_of(cache, weights, pick_device(device))
    render = teacher.renderer(images.image_shape)
    generator = np.random.default_rng(seed)
    stored, live = [], []
    for split, part in cache.splits.items():
        share = max(1, round(count * part.logits[..., 0].size / sum(p.logits[..., 0].size for p in cache.splits.values())))
        rows = generator.choice(part.logits[..., 0].size, min(share, part.logits[..., 0].size), replace=False)
        for some in np.array_split(rows, -(-len(rows) // 32)):
            image_index, view_index = np.divmod(np.sort(some), part.views.shape[1])
            views = torch.from_numpy(part.views[image_index, view_index]).to(teacher.device)
            inputs = render(images.splits[split].images[image_index].to(teacher.device), views)
            live.append(teacher.logits(inputs).cpu())
            stored.append(torch.from_numpy(np.asarray(part.logits[image_index, view_index])).float())
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


def _accuracy(logits: Tensor, labels: Tensor) -> float | None:
    return (logits.argmax(1) == labels).float().mean().item() if len(labels) else None


def _quantiles(values: Tensor) -> dict[str, float]:
    low, middle, high = np.quantile(values.numpy(), (0.05, 0.5, 0.95))
    return {"mean": values.mean().item(), "5 %": float(low), "50 %": float(middle), "95 %": float(high)}

"""Looks at a cache: what is in it, whether it is intact, and whether its teacher still says the same."""

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
from kdcache.distill import (
    TeacherTargets,
    default_projection,
    load_or_fit_probe,
    make_targets,
    soften,
)

TEMPERATURES = (1, 2, 4)


@dataclass(frozen=True)
class Contents:
    """What `info` shows. `facts` is ready for JSON; the rest is what the picture shows."""

    facts: dict[str, Any]
    cache: Cache
    targets: TeacherTargets
    by_label: (
        np.ndarray
    )  # float32 (K, K), the mean soft target (T = 1) of the validation images of each label


def look(path: Path, check_logits: bool = True) -> Contents:
    """Open a cache and gather what is to be known of it."""
    started = time.perf_counter()
    cache = open_cache(path, check_logits=check_logits)
    seconds = time.perf_counter() - started
    size = path.stat().st_size
    projection = default_projection(cache)
    targets = make_targets(cache, projection)
    labels = torch.from_numpy(cache.splits["validation"].labels)
    manifest, names = cache.manifest.document, cache.manifest.dataset.class_names
    facts = {
        "path": str(path),
        "bytes": size,
        "fingerprint": cache.fingerprint,
        "dataset": manifest["dataset"],
        "splits": {
            split: {key: manifest["splits"][split][key] for key in ("rows", "views")}
            for split in SPLITS
        },
        "teacher": manifest["teacher"],
        "input": manifest["input"],
        "views": manifest["views"],
        "precision": manifest["precision"],
        "software": manifest["software"],
        "opening": {
            "seconds": seconds,
            "checked": "every byte" if check_logits else "all but the logits",
        },
        "projection": projection,
        "probe": load_or_fit_probe(cache).validation if projection == "probe" else None,
        "teacher_validation_accuracy": _accuracy(targets.predictions["validation"], labels),
        "teacher_validation_accuracy_by_class": {
            name: _accuracy(
                targets.predictions["validation"][labels == label], labels[labels == label]
            )
            for label, name in enumerate(names)
        },
        "soft_target_entropy": {
            f"T={temperature}": _quantiles(entropy(targets.train["student"], temperature))
            for temperature in TEMPERATURES
        },
    }
    one_hot = F.one_hot(labels, len(names)).float()
    by_label = (
        one_hot.T
        @ soften(targets.predictions["validation"], 1.0)
        / one_hot.sum(0).clamp(min=1)[:, None]
    )
    return Contents(facts, cache, targets, by_label.numpy())


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of softmax(logits / T) over the last axis, flattened."""
    soft_targets = soften(logits, temperature)
    return -torch.xlogy(soft_targets, soft_targets).sum(-1).flatten()


def _accuracy(logits: Tensor, labels: Tensor) -> float | None:
    return (logits.argmax(1) == labels).float().mean().item() if len(labels) else None


def _quantiles(values: Tensor) -> dict[str, float]:
    low, middle, high = np.quantile(values.numpy(), (0.05, 0.5, 0.95))
    return {
        "mean": values.mean().item(),
        "5 %": float(low),
        "50 %": float(middle),
        "95 %": float(high),
    }

"""What a cache holds, and how good and how certain its teacher is in the student's classes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.cache import Cache, open_caches
from kdcache.config import COMBINATIONS, SPLITS, UNLABELLED
from kdcache.distill import (
    TeacherTargets,
    accuracy,
    default_projection,
    entropy,
    load_or_fit_probe,
    make_targets,
    mean_logits,
    soften,
)

_TEMPERATURES = (1, 2, 4)


@dataclass(frozen=True)
class CacheSummary:
    """What `info` shows.

    Attributes:
        facts: ready for JSON.
        cache: that was opened.
        targets: its teacher's logits in the student's classes.
        entropies: of the soft targets of all training views, nats `(N V,)`, by temperature ("T=1").
        by_label: float32 `(K, K)`, the mean soft target (T = 1) of the validation images of each
            label (rows); 0 for a label without images.
    """

    facts: dict[str, Any]
    cache: Cache
    targets: TeacherTargets
    entropies: dict[str, np.ndarray]
    by_label: np.ndarray


def summarize_cache(path: Path | Sequence[Path], check_logits: bool = True) -> CacheSummary:
    """Open a cache, or several as an ensemble, and gather what is to be known of it.

    Args:
        check_logits: also check the checksums of the logits, for which the whole file is read.

    Raises CacheDamagedError, or DataError where it is not a finished cache.
    """
    started = time.perf_counter()
    paths = [path] if isinstance(path, Path) else list(path)
    cache = open_caches(paths, check_logits=check_logits)
    seconds = time.perf_counter() - started
    projection = default_projection(cache)
    targets = make_targets(cache, projection)
    fitted = projection == "probe" and not cache.members
    labels = torch.from_numpy(cache.splits["validation"].labels)
    logits = targets.predictions["validation"]
    entropies = {
        f"T={temperature}": entropy(soften(targets.train["student"], temperature)).flatten().numpy()
        for temperature in _TEMPERATURES
    }
    facts = {
        "path": " + ".join(map(str, paths)),
        "bytes": sum(one.stat().st_size for one in paths),
        "fingerprint": cache.fingerprint,
        **_provenance(cache),
        "unlabelled_images": int((cache.splits["train"].labels == UNLABELLED).sum()),
        "opening": {
            "seconds": seconds,
            "checked": "every byte" if check_logits else "all but the logits",
        },
        "projection": projection,
        "probe": load_or_fit_probe(cache).validation if fitted else None,
        "ensemble": _ensemble(cache, targets),
        "teacher_validation_accuracy": accuracy(labels, logits) if len(labels) else None,
        "teacher_validation_accuracy_by_class": _accuracy_by_class(cache, labels, logits),
        "soft_target_entropy": {name: _quantiles(values) for name, values in entropies.items()},
    }
    return CacheSummary(facts, cache, targets, entropies, _mean_by_label(labels, logits))


def _ensemble(cache: Cache, targets: TeacherTargets) -> dict[str, Any] | None:
    """Each teacher of several caches, and both ways to combine them; None of one cache."""
    labels = torch.from_numpy(cache.splits["validation"].labels)
    if not cache.members or not len(labels):
        return None
    each = [predictions["validation"] for predictions in targets.members]
    teachers = [
        {
            "teacher": one.manifest.teacher.name,
            "cache": str(one.path),
            "fingerprint": one.fingerprint,
            "validation_accuracy": accuracy(labels, logits),
        }
        for one, logits in zip(cache.members, each, strict=True)
    ]
    equal = [1 / len(each)] * len(each)
    scores = {
        combine: accuracy(labels, mean_logits(each, combine, equal)) for combine in COMBINATIONS
    }
    return {"teachers": teachers, "validation_accuracy": scores}


def _provenance(cache: Cache) -> dict[str, Any]:
    """The part of the manifest that is worth showing."""
    manifest = cache.manifest.document
    splits = {}
    for split in SPLITS:
        splits[split] = {key: manifest["splits"][split][key] for key in ("rows", "views")}
    shown = ("teacher", "input", "views", "precision", "software")
    return {"dataset": manifest["dataset"], "splits": splits} | {
        key: manifest[key] for key in shown
    }


def _accuracy_by_class(cache: Cache, labels: Tensor, logits: Tensor) -> dict[str, float | None]:
    """By the name of each class; None where it has no images."""
    found = {}
    for label, name in enumerate(cache.manifest.dataset.class_names):
        rows = labels == label
        found[name] = accuracy(labels[rows], logits[rows]) if rows.any() else None
    return found


def _mean_by_label(labels: Tensor, logits: Tensor) -> np.ndarray:
    """The mean soft target (T = 1) of each label's images, float32 `(K, K)`."""
    one_hot = F.one_hot(labels, logits.shape[1]).float()
    images = one_hot.sum(0).clamp(min=1)
    return (one_hot.T @ soften(logits, 1.0) / images[:, None]).numpy()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {
        "mean": torch.from_numpy(values).mean().item(),
        "5 %": float(low),
        "50 %": float(middle),
        "95 %": float(high),
    }

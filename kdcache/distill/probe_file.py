"""TODO distill.probe_file."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.distill.probe import FOLDS, QUALITY, Probe, fit_probe
from kdcache.errors import KdcacheError
from kdcache.models import read_state_dict
from kdcache.runtime import save_tensors


def probe_path(cache: Cache) -> Path:
    return cache.path.with_name(f"{cache.path.name}.probe-{cache.fingerprint[:16]}.pt")


def load_or_fit_probe(cache: Cache) -> Probe:
    """The probe that is kept beside the cache; fitted and put there if no valid one is. A read-only folder is no fault."""
    path = probe_path(cache)
    with contextlib.suppress(KdcacheError):  # not there, or damaged
        kept = _probe_from(read_state_dict(path), cache)
        if kept is not None:
            return kept
    train, validation = cache.splits["train"], cache.splits["validation"]
    probe = fit_probe(
        torch.from_numpy(np.asarray(train.logits)),
        torch.from_numpy(train.labels),
        torch.from_numpy(np.asarray(validation.logits[:, 0])),
        torch.from_numpy(validation.labels),
        len(cache.manifest.dataset.class_names),
        seed=0,
    )
    with contextlib.suppress(KdcacheError):
        save_tensors(path, _tensors_of(probe, cache.fingerprint))
    return probe


def _tensors_of(probe: Probe, fingerprint: str) -> dict[str, Tensor]:
    """What is kept of a probe: tensors only, so that it is read back without executing anything."""
    numbers = {"temperature": probe.temperature, "penalty": probe.penalty} | probe.validation
    return {
        "fingerprint": torch.tensor(list(bytes.fromhex(fingerprint)), dtype=torch.uint8),
        "mean": probe.mean,
        "scale": probe.scale,
        "weight": probe.weight,
        "fold": probe.fold,
        **{name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()},
    }


def _probe_from(tensors: dict[str, Tensor], cache: Cache) -> Probe | None:
    """The inverse of `_tensors_of`; None for anything but a sound probe of this cache."""
    rows, _, columns = cache.splits["train"].logits.shape
    expected = {
        "fingerprint": (torch.uint8, (len(cache.fingerprint) // 2,)),
        "mean": (torch.float32, (columns,)),
        "scale": (torch.float32, (columns,)),
        "weight": (
            torch.float32,
            (FOLDS + 1, columns + 1, len(cache.manifest.dataset.class_names)),
        ),
        "fold": (torch.uint8, (rows,)),
        **dict.fromkeys(("temperature", "penalty", *QUALITY), (torch.float64, ())),
    }
    dense = all(
        tensor.layout == torch.strided and tensor.device.type == "cpu"
        for tensor in tensors.values()
    )
    if (
        not dense
        or {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        != expected
    ):
        return None
    if (
        bytes(tensors["fingerprint"].tolist()).hex() != cache.fingerprint
        or (tensors["fold"] >= FOLDS).any()
    ):
        return None
    positive = all((tensors[name] > 0).all() for name in ("scale", "temperature", "penalty"))
    if not positive or not all(tensor.isfinite().all() for tensor in tensors.values()):
        return None
    arrays = {name: tensors[name] for name in ("mean", "scale", "weight", "fold")}
    numbers = {name: tensors[name].item() for name in ("temperature", "penalty")}
    return Probe(**arrays, **numbers, validation={name: tensors[name].item() for name in QUALITY})

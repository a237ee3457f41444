"""The probe in a file beside its cache, so that it is fitted once.

Its name has the cache's fingerprint.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.distill.probe import FOLDS, QUALITY, Probe, fit_probe
from kdcache.errors import DataError
from kdcache.models import read_state_dict
from kdcache.runtime import save_tensors

_ARRAYS = ("mean", "scale", "weight", "fold")
_NUMBERS = ("temperature", "penalty", *QUALITY)


def probe_path(cache: Cache) -> Path:
    """Where the probe of a cache is kept."""
    return cache.path.with_name(f"{cache.path.name}.probe-{cache.fingerprint[:16]}.pt")


def load_or_fit_probe(cache: Cache) -> Probe:
    """The probe that is kept beside the cache; fitted and put there if there is no valid one.

    A folder that cannot be written is no fault: the probe is then fitted each time.
    """
    path = probe_path(cache)
    with contextlib.suppress(DataError):  # not there, or damaged
        tensors = read_state_dict(path)
        if _is_sound(tensors, cache):
            return _probe_from(tensors)
    train, validation = cache.splits["train"], cache.splits["validation"]
    probe = fit_probe(
        torch.from_numpy(np.asarray(train.logits)),
        torch.from_numpy(train.labels),
        torch.from_numpy(np.asarray(validation.logits[:, 0])),
        torch.from_numpy(validation.labels),
        len(cache.manifest.dataset.class_names),
        seed=0,
    )
    with contextlib.suppress(DataError):
        save_tensors(path, _tensors_of(probe, cache.fingerprint))
    return probe


def _tensors_of(probe: Probe, fingerprint: str) -> dict[str, Tensor]:
    """What is kept of a probe: tensors only, so that it is read back without executing anything."""
    numbers = {"temperature": probe.temperature, "penalty": probe.penalty} | probe.validation
    tensors = {name: getattr(probe, name) for name in _ARRAYS}
    tensors |= {name: torch.tensor(numbers[name], dtype=torch.float64) for name in _NUMBERS}
    digest = torch.tensor(list(bytes.fromhex(fingerprint)), dtype=torch.uint8)
    return {"fingerprint": digest} | tensors


def _probe_from(tensors: dict[str, Tensor]) -> Probe:
    """The inverse of `_tensors_of`."""
    return Probe(
        tensors["mean"],
        tensors["scale"],
        tensors["weight"],
        tensors["fold"],
        temperature=tensors["temperature"].item(),
        penalty=tensors["penalty"].item(),
        validation={name: tensors[name].item() for name in QUALITY},
    )


def _is_sound(tensors: dict[str, Tensor], cache: Cache) -> bool:
    """Whether these are the tensors of a probe of this cache.

    Names, types, shapes, and values that can be.
    """
    rows, _, columns = cache.splits["train"].logits.shape
    classes = len(cache.manifest.dataset.class_names)
    expected = {
        "fingerprint": (torch.uint8, (len(cache.fingerprint) // 2,)),
        "mean": (torch.float32, (columns,)),
        "scale": (torch.float32, (columns,)),
        "weight": (torch.float32, (FOLDS + 1, columns + 1, classes)),
        "fold": (torch.uint8, (rows,)),
        **dict.fromkeys(_NUMBERS, (torch.float64, ())),
    }
    for tensor in tensors.values():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            return False
    if {name: (one.dtype, tuple(one.shape)) for name, one in tensors.items()} != expected:
        return False
    if bytes(tensors["fingerprint"].tolist()).hex() != cache.fingerprint:
        return False
    if bool((tensors["fold"] >= FOLDS).any()):
        return False
    positive = all(bool((tensors[name] > 0).all()) for name in ("scale", "temperature", "penalty"))
    return positive and all(bool(tensor.isfinite().all()) for tensor in tensors.values())

"""The probe in a file beside its cache, so that it is fitted once.

The file's name has the cache's fingerprint; the file says of which content it was fitted.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.config import UNLABELLED
from kdcache.distill.probe import FOLDS, QUALITY, Probe, fit_probe
from kdcache.errors import DataError
from kdcache.runtime import load_tensors, save_tensors

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
    with contextlib.suppress(DataError):  # not there, damaged, or of other logits
        return _probe_from(_read(path, cache))
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
        save_tensors(path, _tensors_of(probe, cache))
    return probe


def verify_probe(cache: Cache) -> str | None:
    """Check the probe that is kept beside a cache: what was found sound; None where none is kept.

    Raises DataError where it is damaged, or was fitted on other logits.
    """
    path = probe_path(cache)
    if not path.exists():
        return None
    tensors = _read(path, cache)
    if "content" in tensors:
        return f"{path}: the probe fitted on these logits"
    return f"{path}: a probe of this manifest; 0.1.0 did not record of which logits"


def _read(path: Path, cache: Cache) -> dict[str, Tensor]:
    expected = f"the probe of {cache.path}"
    remedy = "remove it: it is fitted again when it is needed"
    cpu = torch.device("cpu")
    tensors = load_tensors(path, cpu, expected=expected, remedy=remedy)
    fault = _fault(tensors, cache)
    if fault is not None:
        raise DataError(expected, f"{path}, {fault}", remedy)
    return tensors


def _tensors_of(probe: Probe, cache: Cache) -> dict[str, Tensor]:
    """What is kept of a probe: tensors only, so that it is read back without executing anything."""
    numbers = {"temperature": probe.temperature, "penalty": probe.penalty} | probe.validation
    tensors = {name: getattr(probe, name) for name in _ARRAYS}
    tensors |= {name: torch.tensor(numbers[name], dtype=torch.float64) for name in _NUMBERS}
    tensors["fingerprint"] = _digest_tensor(cache.fingerprint)
    tensors["content"] = _digest_tensor(cache.content_digest)
    return tensors


def _digest_tensor(digest: str) -> Tensor:
    """uint8 `(32,)`."""
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


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


def _fault(tensors: Any, cache: Cache) -> str | None:
    """Why these are not the tensors of this cache's probe; None where they are.

    Looked at are names, types, shapes, values that can be, and the digests of the cache.
    """
    rows, _, columns = cache.splits["train"].logits.shape
    classes = len(cache.manifest.dataset.class_names)
    expected = {
        "fingerprint": (torch.uint8, (len(cache.fingerprint) // 2,)),
        "content": (torch.uint8, (len(cache.content_digest) // 2,)),
        "mean": (torch.float32, (columns,)),
        "scale": (torch.float32, (columns,)),
        "weight": (torch.float32, (FOLDS + 1, columns + 1, classes)),
        "fold": (torch.uint8, (rows,)),
        **dict.fromkeys(_NUMBERS, (torch.float64, ())),
    }
    other = "which holds something else"
    if not isinstance(tensors, dict):
        return other
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return other
        if tensor.device.type != "cpu":
            return other
        found[name] = (tensor.dtype, tuple(tensor.shape))
    of_older = {name: kind for name, kind in expected.items() if name != "content"}
    if found not in (expected, of_older):
        return other
    if not torch.equal(tensors["fingerprint"], _digest_tensor(cache.fingerprint)):
        return "which is of another cache"
    content = _digest_tensor(cache.content_digest)
    if not torch.equal(tensors.get("content", content), content):
        return "which was fitted on other logits"
    fold, unlabelled = tensors["fold"], cache.splits["train"].labels == UNLABELLED
    if bool((fold > FOLDS).any()) or not torch.equal(fold == FOLDS, torch.from_numpy(unlabelled)):
        return other
    positive = all(bool((tensors[name] > 0).all()) for name in ("scale", "temperature", "penalty"))
    if not positive or not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return other
    return None

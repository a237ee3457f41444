"""From a cache to what a student learns from: checks that images and cache belong together, and projects."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.checkpoint import save_tensors
from kdcache.errors import InputError
from kdcache.images import ImageData, load_images
from kdcache.models import read_state_dict
from kdcache.projection import FOLDS, QUALITY, Probe, fit_probe


@dataclass(frozen=True)
class Targets:
    """What the teacher says.

    `train`: the logits that the student is taught with, under the name of whose classes they have: "student" float
    `(N, V, K)`, "teacher" float `(N, V, C)` for a second head, or both. `answers` float32 `(N, K)` for validation and
    test: the teacher's logits in the student's classes.
    """

    projection: str
    train: dict[str, Tensor]
    answers: dict[str, Tensor]

    def of(self, rows: np.ndarray, views: int) -> "Targets":
        """Those of some training images only, in their first views."""
        chosen = torch.from_numpy(rows)
        part = {
            classes: (logits if len(rows) == len(logits) else logits[chosen])[:, :views]
            for classes, logits in self.train.items()
        }
        return dataclasses.replace(self, train=part)


def load_images_of(cache: Cache, folder: Path, stream: bool | None = None) -> ImageData:
    """Read from `folder` the images that a cache was made from, divided as they were then; `stream` as in `load_images`.

    Raises InputError where they are not there, or are not these.
    """
    recorded = cache.manifest["dataset"]
    images = load_images(
        recorded["name"],
        folder,
        limit=recorded["limit"],
        store_size=recorded["store_size"] or 0,  # none was needed
        split_seed=recorded["split_seed"],
        stream=stream,
    )
    check_belongs(cache, images)
    return images


def check_belongs(cache: Cache, images: ImageData) -> None:
    """Raise InputError unless the cache was made from exactly these images, in this order, with these labels."""
    expected = cache.manifest["dataset"]["class_names"]
    if list(images.class_names) != expected:
        raise InputError(f"the classes {', '.join(expected[:10])}", ", ".join(images.class_names[:10]), "correct --data")
    for split, part in images.splits.items():
        cached = cache.splits[split]
        if len(part) != len(cached):
            raise InputError(f"{len(cached)} {split} images, as {cache.path} was made from", f"{len(part)}", "correct --data")
        differing = np.flatnonzero(part.row_checksums() != cached.image_crc32)
        if len(differing):
            raise InputError(
                f"the images that {cache.path} was made from",
                f"{len(differing)} other images or labels, the first in {split} row {differing[0]}",
                "correct --data, or run phase one on these images",
            )


def make_targets(cache: Cache, projection: str, class_names: Sequence[str] | None = None) -> Targets:
    """Project the cached logits into the classes in which the student is taught.

    Args:
        class_names: the student's classes; by default the dataset's.
    """
    logits = {split: torch.from_numpy(np.asarray(part.logits)) for split, part in cache.splits.items()}
    return PROJECTED_BY[projection](cache, logits, class_names or cache.manifest["dataset"]["class_names"])


def _as_it_is(cache: Cache, logits: dict[str, Tensor], class_names: Sequence[str]) -> Targets:
    teacher_classes = cache.manifest["teacher"]["classes"]
    if teacher_classes != len(class_names):
        raise InputError(
            f"as many teacher classes as student classes ({len(class_names)}) for --projection none",
            f"{teacher_classes}",
            "use --projection probe or head",
        )
    answers = {split: logits[split][:, 0].float() for split in ("validation", "test")}
    return Targets("none", {"student": logits["train"]}, answers)


def _through_probe(cache: Cache, logits: dict[str, Tensor], class_names: Sequence[str]) -> Targets:
    probe = load_or_fit_probe(cache)
    answers = {split: probe.project(logits[split][:, 0]) for split in ("validation", "test")}
    return Targets("probe", {"student": probe.project_training(logits["train"])}, answers)


def _for_second_head(cache: Cache, logits: dict[str, Tensor], class_names: Sequence[str]) -> Targets:
    probe = load_or_fit_probe(cache)  # to say how good the teacher is
    answers = {split: probe.project(logits[split][:, 0]) for split in ("validation", "test")}
    return Targets("head", {"teacher": logits["train"]}, answers)


def _for_both_heads(cache: Cache, logits: dict[str, Tensor], class_names: Sequence[str]) -> Targets:
    probed = _through_probe(cache, logits, class_names)
    return Targets("probe+head", probed.train | {"teacher": logits["train"]}, probed.answers)


PROJECTED_BY: dict[str, Callable[[Cache, dict[str, Tensor], Sequence[str]], Targets]] = {
    "none": _as_it_is,
    "probe": _through_probe,
    "head": _for_second_head,
    "probe+head": _for_both_heads,
}


def default_projection(cache: Cache) -> str:
    """none where teacher and student have the same classes, else probe."""
    same = cache.manifest["teacher"]["class_names"] == cache.manifest["dataset"]["class_names"]
    return "none" if same else "probe"


def probe_path(cache: Cache) -> Path:
    return cache.path.with_name(f"{cache.path.name}.probe-{cache.fingerprint[:16]}.pt")


def load_or_fit_probe(cache: Cache) -> Probe:
    """The probe that is kept beside the cache; fitted and put there if no valid one is. A read-only folder is no fault."""
    path = probe_path(cache)
    with contextlib.suppress(InputError):  # not there, or damaged
        kept = _probe_from(read_state_dict(path), cache)
        if kept is not None:
            return kept
    train, validation = cache.splits["train"], cache.splits["validation"]
    probe = fit_probe(
        torch.from_numpy(np.asarray(train.logits)),
        torch.from_numpy(train.labels),
        torch.from_numpy(np.asarray(validation.logits[:, 0])),
        torch.from_numpy(validation.labels),
        len(cache.manifest["dataset"]["class_names"]),
        seed=0,
    )
    with contextlib.suppress(InputError):
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
        "weight": (torch.float32, (FOLDS + 1, columns + 1, len(cache.manifest["dataset"]["class_names"]))),
        "fold": (torch.uint8, (rows,)),
        **dict.fromkeys(("temperature", "penalty", *QUALITY), (torch.float64, ())),
    }
    dense = all(tensor.layout == torch.strided and tensor.device.type == "cpu" for tensor in tensors.values())
    if not dense or {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} != expected:
        return None
    if bytes(tensors["fingerprint"].tolist()).hex() != cache.fingerprint or (tensors["fold"] >= FOLDS).any():
        return None
    positive = all((tensors[name] > 0).all() for name in ("scale", "temperature", "penalty"))
    if not positive or not all(tensor.isfinite().all() for tensor in tensors.values()):
        return None
    arrays = {name: tensors[name] for name in ("mean", "scale", "weight", "fold")}
    numbers = {name: tensors[name].item() for name in ("temperature", "penalty")}
    return Probe(**arrays, **numbers, validation={name: tensors[name].item() for name in QUALITY})

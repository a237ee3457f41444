"""A finished run as those use it who come after: its student, what goes in, and images to try it on."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.config import DATASETS, TrainOptions
from kdcache.data import Renderer, draw_views, load_images
from kdcache.errors import KdcacheError
from kdcache.models import CARD_FILE, Preprocessing, build_model, read_state_dict, replace_head

_NEEDED = ("config.json", "student.pt", CARD_FILE, "summary.json")


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, read and checked.

    `module` is on the CPU, float32, in evaluation mode. `image_shape` is the height and width in pixels of the
    dataset's images before they become the student's square input; None where an older run did not record it.
    The three dicts are config.json, student.json and summary.json.
    """

    folder: Path
    module: nn.Module
    preprocessing: Preprocessing
    image_shape: tuple[int, int] | None
    options: TrainOptions
    config: dict[str, Any]
    description: dict[str, Any]
    summary: dict[str, Any]

    def render(self, images: Tensor) -> Tensor:
        """Whole images uint8 `(B, 3, H, W)` -> the student's input float32 `(B, 3, size, size)`, as in evaluation."""
        known, shape = self.preprocessing, tuple(images.shape[2:])
        views = torch.from_numpy(
            draw_views("none", len(images), *shape, views=1, seed=0, stream="")[:, 0]
        )
        return Renderer(known.image_size, known.mean, known.std, shape, images.device)(
            images, views.to(images.device)
        )


def open_run(folder: Path) -> FinishedRun:
    """Read a finished run. Raises KdcacheError where it is none, or is damaged."""
    missing = next((name for name in _NEEDED if not (folder / name).is_file()), None)
    if missing is not None:
        raise KdcacheError(
            "the folder of a finished run",
            f"{folder} without {missing}",
            "give the --out of a run that went to its end",
        )
    config, description, summary = (
        _read_object(folder / name) for name in _NEEDED if name.endswith(".json")
    )
    try:
        options = TrainOptions.from_dict(config["options"])
        preprocessing, image_shape = _input(description)
        if not isinstance(description["model"], str) or not isinstance(summary["dataset"], str):
            raise ValueError("a name that is not text")
    except (KeyError, TypeError, ValueError) as error:
        raise KdcacheError(
            "a run's files as train_student.py writes them", f"{folder}: {error!r}", "train anew"
        ) from error
    module = _student(description, preprocessing, folder / "student.pt")
    return FinishedRun(
        folder, module, preprocessing, image_shape, options, config, description, summary
    )


def _input(description: dict[str, Any]) -> tuple[Preprocessing, tuple[int, int] | None]:
    """What the student expects, and its dataset's `image_shape`.

    Raises KeyError, TypeError or ValueError where the description cannot be.
    """
    mean, std, names = (tuple(description[key]) for key in ("mean", "std", "class_names"))
    shape = description.get("image_shape")
    sizes = (description["image_size"], *(shape or (1, 1)))
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    if (
        len(mean) != 3
        or len(std) != 3
        or not all(math.isfinite(number) for number in mean + std)
        or min(std) <= 0
    ):
        raise ValueError(f"mean {mean} and std {std}")
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class names {names}")
    return Preprocessing(sizes[0], mean, std, names), tuple(shape) if shape else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise KdcacheError(
            "a run's files as train_student.py writes them", f"{path}: {error}", "train anew"
        ) from error


def _student(description: dict[str, Any], preprocessing: Preprocessing, weights: Path) -> nn.Module:
    """The student with its weights."""
    state, classes = read_state_dict(weights), len(preprocessing.class_names)
    # auxiliary heads, which GoogLeNet has, keep the pretrained weights' classes when the last head is replaced
    for wanted in (classes, None):
        module = build_model(
            description["model"],
            "none",
            seed=0,
            classes=wanted,
            small_stem=bool(description.get("small_stem")),
            image_size=preprocessing.image_size,
        ).module
        if wanted is None:
            replace_head(module, classes)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            fault = str(error).splitlines()[-1].strip()
            continue
        return module.eval()
    raise KdcacheError(
        f"weights of {description['model']} in {weights}", fault[:200], "train anew"
    ) from None


def sample_images(run: FinishedRun, folder: Path | None, count: int) -> Tensor | None:
    """As many as `count` images of the run's test split, uint8 `(N, 3, H, W)`; None where they are not at hand.

    Nothing is downloaded. Where `folder` is None they are looked for where the run had them.

    Raises KdcacheError where `folder` is given and does not hold them, or holds others.
    """
    name, names, options = run.summary["dataset"], run.preprocessing.class_names, run.options
    place = folder or options.data
    if not DATASETS.load(name).is_at_hand(place):
        if folder is None:
            return None
        raise KdcacheError(
            f"the images of {name} in {folder}", "none", "correct --data, or leave it away"
        )
    few = max(count, 2 * len(names))  # two of each class, which is what dividing them takes
    limit = min(few, options.limit or few)
    store_size = run.image_shape[0] if run.image_shape else options.store_size
    images = load_images(
        name, place, limit=limit, store_size=store_size, split_seed=options.split_seed
    )
    if images.class_names != names:
        raise KdcacheError(
            f"the classes {', '.join(names[:10])}",
            ", ".join(images.class_names[:10]),
            "correct --data",
        )
    found = images.splits["test"].images
    return found[torch.linspace(0, len(found) - 1, min(count, len(found))).long()]

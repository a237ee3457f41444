"""A finished run, opened: its student, what goes in, and images to try it on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcache.config import DATASETS, agreed
from kdcache.data import Renderer, load_images, whole_image_views
from kdcache.errors import DataError
from kdcache.models import (
    CARD_FILE,
    StudentCard,
    build_model,
    read_state_dict,
    read_student_card,
    replace_head,
)
from kdcache.runs import (
    CONFIG_FILE,
    STUDENT_FILE,
    SUMMARY_FILE,
    RunConfig,
    RunSummary,
    read_config,
    read_summary,
    refuse_edited_config,
)


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, read and checked.

    Attributes:
        folder: the run's.
        module: the student, on the CPU, float32, in evaluation mode.
        config: what the run was begun with.
        card: what the student is and expects as input.
        summary: what the run reached.
    """

    folder: Path
    module: nn.Module
    config: RunConfig
    card: StudentCard
    summary: RunSummary

    def render(self, images: Tensor) -> Tensor:
        """Make the student's input of whole images, as in the run's own evaluation.

        uint8 `(B, 3, H, W)` -> float32 `(B, 3, image_size, image_size)`, on the same device.
        """
        known = self.card.preprocessing
        height, width = images.shape[2:]
        shape, device = (height, width), images.device
        render = Renderer(
            known.image_size, known.mean, known.std, shape, device, known.interpolation
        )
        return render(images, whole_image_views(len(images), height, width).to(images.device))


def open_run(folder: Path, student: str | None = None) -> FinishedRun:
    """Read a finished run and build its student.

    Args:
        student: its name; needed for one of the user's own, `package.module:callable`.

    Raises DataError where the folder holds no finished run, or a damaged one, and OptionError where
    the student has another name, or its code cannot be imported.
    """
    config, summary = read_config(folder), read_summary(folder)
    if config is None:
        raise _unfinished(folder, CONFIG_FILE)
    if summary is None:
        raise _unfinished(folder, SUMMARY_FILE)
    refuse_edited_config(folder, summary)
    for name in (CARD_FILE, STUDENT_FILE):
        if not (folder / name).is_file():
            raise _unfinished(folder, name)
    card = read_student_card(folder / CARD_FILE)
    agreed(card.model, student, "--student", folder / CARD_FILE)
    module = _build_student(card, folder / STUDENT_FILE)
    return FinishedRun(folder, module, config, card, summary)


def _unfinished(folder: Path, missing: str) -> DataError:
    return DataError(
        "the folder of a finished run",
        f"{folder} without {missing}",
        "give the --out of a run that went to its end",
    )


def _build_student(card: StudentCard, weights: Path) -> nn.Module:
    """The student with its weights, in evaluation mode."""
    state, classes = read_state_dict(weights, foreign=False), len(card.preprocessing.class_names)
    fault = "no class names"
    # GoogLeNet's auxiliary heads keep the classes that they had in the pretrained weights when the
    # last head is replaced; so where a model of `classes` outputs does not fit, that was the case
    for outputs in (classes, None) if classes else ():
        module = build_model(
            card.model,
            "none",
            seed=0,
            classes=outputs,
            small_stem=card.small_stem,
            image_size=card.preprocessing.image_size,
        ).module
        if outputs is None:
            replace_head(module, classes)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            fault = str(error).splitlines()[-1].strip()[:200]
            continue
        return module.eval()
    raise DataError(f"weights of {card.model} in {weights}", fault, "train anew")


def sample_images(run: FinishedRun, folder: Path | None, count: int) -> Tensor | None:
    """At most `count` images of the run's test split, uint8 `(N, 3, H, W)`.

    None where there are none here: nothing is downloaded.

    Args:
        folder: with the dataset's images; None means where the run had them.

    Raises DataError where `folder` is given and does not hold them, or holds others.
    """
    options, names = run.config.options, run.card.preprocessing.class_names
    dataset, place = run.summary.dataset or "", folder or options.data
    # a dataset of the user's own is code, which does not run because a file names it
    readable = dataset in DATASETS and DATASETS.load(dataset).is_at_hand(place)
    if not readable:
        if folder is None:
            return None
        wanted = f"the images of {dataset or 'a dataset that the run recorded'} in {folder}"
        raise DataError(wanted, "none", "correct --data, or omit it")
    few = max(count, 2 * len(names))  # two of each class, or the dataset cannot be split
    images = load_images(
        dataset,
        place,
        limit=min(few, options.limit or few),
        store_size=options.store_size,
        image_shape=run.card.image_shape,
        split_seed=options.split_seed,
    )
    if images.class_names != names:
        expected, found = (", ".join(some[:10]) for some in (names, images.class_names))
        raise DataError(f"the classes {expected}", found, "correct --data")
    test = images.splits["test"].images
    rows = torch.linspace(0, len(test) - 1, min(count, len(test)))
    return test[rows.long()]

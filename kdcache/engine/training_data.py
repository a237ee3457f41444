"""What students are trained from.

The images, a cache that belongs to them, and what its teacher says of them.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_caches
from kdcache.config import TrainOptions
from kdcache.data import ImageData, Mix, Split, load_selected_images
from kdcache.distill import Head, TeacherTargets, accuracy, load_images_of, make_targets
from kdcache.engine.resolve import MOST_SHOWINGS, TrainConfig
from kdcache.engine.teacher import OnlineTeacher
from kdcache.engine.trainer import OnlineLogits
from kdcache.errors import OptionError
from kdcache.runs import RunSummary, TeacherScores


@dataclass(frozen=True)
class TrainingData:
    """What all students of one cache share: read, projected and loaded once.

    `images` are split, and labelled as `--labels` says; `cache` is None for students of labels
    only.
    """

    images: ImageData
    cache: Cache | None
    _targets: dict[tuple[object, ...], TeacherTargets] = field(default_factory=dict)
    _online: dict[tuple[str | torch.device | None, ...], OnlineTeacher] = field(
        default_factory=dict
    )

    def targets(
        self,
        projection: str,
        combine: str = "probabilities",
        teacher_weights: tuple[float, ...] | None = None,
    ) -> TeacherTargets:
        """What the cached teachers say, as `make_targets` has it; needs a cache."""
        key = (projection, combine, teacher_weights)
        if key not in self._targets:
            self._targets[key] = make_targets(
                self._the_cache(),
                projection,
                self.images.class_names,
                combine=combine,
                teacher_weights=teacher_weights,
            )
        return self._targets[key]

    def part(
        self, config: TrainConfig, rows: np.ndarray
    ) -> tuple[TeacherTargets | None, np.ndarray | None]:
        """What the cached teacher says of some training images, in their first views.

        Where a student learns from them in views of its own, that is the mean over them.

        Returns the targets and the views themselves, int16 `(N, views, 5)`; None and None without
        a cache.
        """
        if self.cache is None:
            return None, None
        found = self.targets(config.projection, config.combine, config.teacher_weights)
        targets = found.select(rows, config.views)
        if config.matching == "unmatched" and config.alpha > 0:
            targets = targets.averaged()
        return targets, self.cache.splits["train"].views[rows, : config.views]

    def online_teacher(
        self, projection: str, options: TrainOptions, rows: np.ndarray, device: torch.device
    ) -> OnlineLogits:
        """The cache's teacher in the loop, for a trainer of these rows of the training split."""
        name, weights = options.teacher, options.teacher_weights
        key = (projection, name, weights, device)
        if key not in self._online:
            fitted = self.targets(projection).projection
            shape = self.images.image_shape
            cache = self._the_cache()
            self._online[key] = OnlineTeacher(cache, shape, fitted, name, weights, device)
        teacher, chosen = self._online[key], torch.from_numpy(rows).to(device)

        def logits(
            images: Tensor, rows: Tensor, views: Tensor, mix: Mix | None
        ) -> dict[Head, Tensor]:
            return teacher(images, chosen[rows], views, mix)

        return logits

    def _the_cache(self) -> Cache:
        if self.cache is None:
            raise OptionError("--cache for a teacher", "none", "give --cache, or --alpha 0")
        return self.cache


def load_training_data(options: TrainOptions) -> TrainingData:
    """Open the cache and read its images; or, for labels only, just the images.

    Raises OptionError, DataError or CacheDamagedError.
    """
    if options.cache is None:
        if options.distills:
            expected = "--cache FILE.h5, or --alpha 0 to train on labels only"
            raise OptionError(expected, "neither", "add one of them")
        return TrainingData(load_selected_images(options), None)
    cache = open_caches(options.caches, check_logits=not options.skip_checksums)
    images = load_images_of(
        cache, options.data, dataset=options.dataset, stream=options.stream or None
    )
    if options.labels == "teacher":
        images = _labelled_by_teacher(images, cache)
    return TrainingData(images, cache)


def teacher_scores(
    cache: Cache | None, targets: TeacherTargets | None, images: ImageData, labels: str
) -> TeacherScores | None:
    """How good the cached teacher is on validation and test images; None without a cache.

    Args:
        labels: whose they are, as --labels says.
    """
    if targets is None or cache is None:
        return None

    def scores(name: str, predictions: dict[str, Tensor]) -> TeacherScores:
        known = {} if labels == "teacher" else predictions  # its own would all be right
        found = {
            split: accuracy(images.splits[split].labels, logits) for split, logits in known.items()
        }
        return TeacherScores(name, found.get("validation"), found.get("test"))

    names = [one.manifest.teacher.name for one in cache.members or (cache,)]
    if not targets.members:
        return scores(names[0], targets.predictions)
    ensemble = scores(" + ".join(name.rpartition(":")[2] for name in names), targets.predictions)
    return dataclasses.replace(ensemble, members=tuple(map(scores, names, targets.members)))


def describe_images(images: ImageData, learned: ImageData) -> str:
    """In words: how many images there are.

    Args:
        learned: the same, with the part of the training split that is learned from.
    """
    train, validation = learned.splits["train"], len(learned.splits["validation"])
    counts = f"{train.labelled:,} training, {validation:,} validation images"
    if train.unlabelled:
        counts += f", {train.unlabelled:,} unlabelled ones"
    elif passed_over := images.splits["train"].unlabelled:
        counts += f" ({passed_over:,} unlabelled ones are used in distillation only)"
    return f"{images.name}: {counts}"


def describe_teaching(
    config: TrainConfig, teacher: TeacherScores, baseline: RunSummary | None
) -> list[str]:
    """In words: how good the teacher is, and in which views the student sees its soft targets.

    The figures in the warnings are those of docs/evidence.md, "An ImageNet teacher".

    Args:
        baseline: the best run beside this one that was trained on labels only, if there is one.
    """
    how = "as it is" if config.projection == "none" else "through the probe"
    reached = teacher.validation_accuracy
    if reached is None:
        lines = ["the labels are the teacher's own predictions, so its accuracy says nothing"]
    else:
        lines = [f"the teacher, {how}: {reached:.1%} validation accuracy"]
    if config.alpha == 0:
        return lines
    if reached is not None and baseline is not None and baseline.validation_accuracy > reached:
        better = (
            f"{baseline.name}, trained on labels only, reaches {baseline.validation_accuracy:.1%},"
            " more than this teacher"
        )
        if config.alpha > TrainOptions().alpha:
            remedy = "where that was measured, --alpha 0.9 lost points and --alpha 0.5 gained some"
            lines.append(f"warning: {better}; {remedy}")
        else:
            lines.append(f"{better}; where that was measured, distilling still gained 2 points")
    if config.live_teacher:
        lines.append(
            "the teacher runs in every step, on what the student sees; its cached logits are not"
            " read"
        )
    elif config.matching == "unmatched":
        known = f"the mean over its {config.views} cached views"
        if config.views == 1:
            known = "those of its cached view"
        lines.append(
            f"the student sees its own {config.augment} of each image; the soft targets are {known}"
            " (unmatched views)"
        )
    elif config.epochs > config.views:
        shown = config.epochs / config.views
        shared = f"{config.epochs} epochs share {config.views} cached views"
        shared += f": each is shown about {shown:.1f} times"
        if shown > MOST_SHOWINGS:
            cost = "where that was measured, 15 times cost 3 points against labels only"
            shared = f"warning: {shared}; {cost}; omit --augment for the student's own crops"
        lines.append(shared)
    return lines


def _labelled_by_teacher(images: ImageData, cache: Cache) -> ImageData:
    """The same images with the teacher's classes, and its predictions as their labels."""
    teacher = cache.manifest.teacher
    if teacher.output != "logits":
        found = f"{cache.path} of {teacher.output}"
        raise OptionError("a cache of logits for --labels teacher", found, "omit --labels")
    splits = {}
    for split, part in images.splits.items():
        logits = torch.from_numpy(np.asarray(cache.splits[split].logits[:, 0]))
        splits[split] = Split(part.images, logits.argmax(1))
    names = teacher.class_names or tuple(f"class {number}" for number in range(teacher.classes))
    return dataclasses.replace(images, splits=splits, class_names=names)

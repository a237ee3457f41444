"""From a cache to what a student learns from.

Its logits, projected into the classes in which the student is taught.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.config import PROJECTIONS
from kdcache.distill.losses import soften
from kdcache.distill.projections import Head, IdentityProjection, Projection
from kdcache.errors import OptionError

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's logits, as a student is taught with them and as it is compared with them.

    Attributes:
        projection: through which they went.
        train: what each of the student's heads is taught with, for all views of the training
            split: float `(N, V, K)` in the student's classes or `(N, V, C)` in the teacher's.
        predictions: float32 `(N, K)` for validation and test, in the student's classes.
        members: of an ensemble the predictions of each teacher, in the order of the caches.
    """

    projection: Projection
    train: dict[Head, Tensor]
    predictions: dict[str, Tensor]
    members: tuple[dict[str, Tensor], ...] = ()

    def select(self, rows: np.ndarray, views: int) -> "TeacherTargets":
        """Those of some training images only, in their first views."""
        chosen: dict[Head, Tensor] = {}
        for head, logits in self.train.items():
            # all rows are taken without a copy, which matters where they lie in a mapped file
            some = logits if len(rows) == len(logits) else logits[torch.from_numpy(rows)]
            chosen[head] = some[:, :views]
        return dataclasses.replace(self, train=chosen)

    def averaged(self) -> "TeacherTargets":
        """With the mean of each image's logits over its views, `(N, 1, ...)`.

        It is what the cache knows about a view that the teacher has not seen.
        """
        means = {head: logits.mean(1, keepdim=True) for head, logits in self.train.items()}
        return dataclasses.replace(self, train=means)


def make_targets(
    cache: Cache,
    projection: str,
    class_names: Sequence[str] | None = None,
    *,
    combine: str = "probabilities",
    teacher_weights: Sequence[float] | None = None,
) -> TeacherTargets:
    """Project the cached logits into the classes in which the student is taught.

    Args:
        projection: of `PROJECTIONS`, or package.module:name of a `Projection`.
        class_names: the student's classes; by default the dataset's.
        combine: of several caches, what the mean is of: "probabilities" (at temperature 1) or
            "logits", both after the projection.
        teacher_weights: their weights in that mean, which add up to 1; by default equal.

    Raises OptionError where the projection or the weights do not suit the caches.
    """
    if cache.members:
        count = len(cache.members)
        weights = [1 / count] * count if teacher_weights is None else list(teacher_weights)
        if len(weights) != count or abs(sum(weights) - 1) > 1e-6:
            expected = f"{count} numbers for --teacher-weight that add up to 1"
            raise OptionError(expected, " ".join(map(str, weights)), "correct them")
        each = [make_targets(member, projection, class_names) for member in cache.members]
        return _mean_of(each, combine, weights)
    made = load_projection(cache, projection)(
        cache, class_names or cache.manifest.dataset.class_names
    )
    logits = {
        split: torch.from_numpy(np.asarray(part.logits)) for split, part in cache.splits.items()
    }
    predictions = {split: made.project(logits[split][:, 0]) for split in ("validation", "test")}
    return TeacherTargets(made, made.training_logits(logits["train"]), predictions)


def mean_logits(logits: Sequence[Tensor], combine: str, weights: Sequence[float]) -> Tensor:
    """Logits float32 of several teachers' together, as `make_targets` combines them."""
    found = torch.zeros(logits[0].shape)
    for one, weight in zip(logits, weights, strict=True):
        found += weight * (one.float() if combine == "logits" else soften(one, 1.0))
    # a probability of 0 in float32 is none in log: the smallest normal number stands for it
    return found if combine == "logits" else found.clamp_min_(_TINY).log_()


def _mean_of(
    each: Sequence[TeacherTargets], combine: str, weights: Sequence[float]
) -> TeacherTargets:
    """The targets of an ensemble: its logits are those of the mean probabilities, or the mean."""

    def mean(logits: Sequence[Tensor]) -> Tensor:
        return mean_logits(logits, combine, weights)

    first = each[0]
    if "teacher" in first.train:
        expected = "--projection probe or none for several caches"
        raise OptionError(expected, "a head of the teacher's classes", "use another --projection")
    return TeacherTargets(
        first.projection,
        {"student": mean([one.train["student"] for one in each])},
        {split: mean([one.predictions[split] for one in each]) for split in first.predictions},
        tuple(one.predictions for one in each),
    )


def load_projection(cache: Cache, name: str) -> type[Projection]:
    """The projection called `name`, of `PROJECTIONS` or package.module:name.

    Raises OptionError where there is none, or it takes a cache's features for logits.
    """
    kind: type[Projection] = PROJECTIONS.load(name)
    takes_logits = "teacher" in kind.heads or issubclass(kind, IdentityProjection)
    if takes_logits and cache.manifest.teacher.output != "logits":
        expected = f"a cache of logits for --projection {name}"
        found = f"{cache.path} of {cache.manifest.teacher.output}"
        raise OptionError(expected, found, "omit --projection, which is then probe")
    return kind


def default_projection(cache: Cache) -> str:
    """none where all teachers have the student's classes, else probe."""
    manifests = [one.manifest for one in cache.members or (cache,)]
    same = all(one.teacher.class_names == one.dataset.class_names for one in manifests)
    return "none" if same else "probe"

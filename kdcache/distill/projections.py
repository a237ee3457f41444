"""Projections: what carries the teacher's classes to those in which a student is taught.

A projection is fitted once, on the training split, and then frozen, so that all soft targets of a
run are computed at its start. `config/choices.py` registers these; one of your own is named by
`--projection my_module:MyProjection`.
"""

import abc
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.distill.probe import Probe
from kdcache.distill.probe_file import load_or_fit_probe
from kdcache.errors import OptionError

Head = Literal["student", "teacher"]
"""A head of the student: its own classes, or the teacher's, in a second head that is discarded
after training.
"""


class Projection(abc.ABC):
    """From the teacher's logits to the logits that a student is taught with.

    Attributes:
        heads: the student's heads that are taught. "student" takes what the three methods below
            return, in the student's classes; "teacher" takes the teacher's logits as they are.

    Args:
        cache: whose teacher it is.
        class_names: the student's K classes.
    """

    heads: ClassVar[tuple[Head, ...]] = ("student",)

    def __init__(self, cache: Cache, class_names: Sequence[str]) -> None:
        self.cache, self.class_names = cache, tuple(class_names)

    @abc.abstractmethod
    def project(self, teacher_logits: Tensor) -> Tensor:
        """Images that no fit has seen: float `(N, C)` -> float32 `(N, K)`.

        It says how good the teacher is.
        """

    @abc.abstractmethod
    def project_training(self, teacher_logits: Tensor) -> Tensor:
        """All views of the training split, from the cache.

        Float `(N, V, C)` -> float `(N, V, K)`.
        """

    @abc.abstractmethod
    def project_rows(self, teacher_logits: Tensor, rows: Tensor) -> Tensor:
        """For a teacher in the loop: float `(B, C)` on its device -> float `(B, K)`.

        `rows` int64 `(B,)`: the images' rows in the training split.
        """

    def training_logits(self, teacher_logits: Tensor) -> dict[Head, Tensor]:
        """What each head is taught with, for all views of the training split.

        Float `(N, V, K)` or `(N, V, C)`.
        """
        return {
            head: self.project_training(teacher_logits) if head == "student" else teacher_logits
            for head in self.heads
        }

    def batch_logits(self, teacher_logits: Tensor, rows: Tensor) -> dict[Head, Tensor]:
        """The same for one batch of a teacher in the loop: float `(B, K)` or `(B, C)`."""
        return {
            head: self.project_rows(teacher_logits, rows) if head == "student" else teacher_logits
            for head in self.heads
        }


class IdentityProjection(Projection):
    """`none`: teacher and student have the same classes."""

    def __init__(self, cache: Cache, class_names: Sequence[str]) -> None:
        super().__init__(cache, class_names)
        teacher_classes = cache.manifest.teacher.classes
        if teacher_classes != len(class_names):
            raise OptionError(
                f"as many teacher classes as student classes ({len(class_names)})"
                " for --projection none",
                f"{teacher_classes}",
                "use --projection probe or head",
            )

    def project(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits.float()

    def project_training(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits

    def project_rows(self, teacher_logits: Tensor, rows: Tensor) -> Tensor:
        return teacher_logits


class ProbeProjection(Projection):
    """`probe`: a multinomial logistic regression on the teacher's logits.

    Out-of-fold for the training split.
    """

    def project(self, teacher_logits: Tensor) -> Tensor:
        return self._probe.project(teacher_logits)

    def project_training(self, teacher_logits: Tensor) -> Tensor:
        return self._probe.project_training(teacher_logits)

    def project_rows(self, teacher_logits: Tensor, rows: Tensor) -> Tensor:
        return self._probe_on(teacher_logits.device).project_rows(teacher_logits, rows)

    @cached_property
    def _probe(self) -> Probe:
        return load_or_fit_probe(self.cache)

    def _probe_on(self, device: torch.device) -> Probe:
        """The probe where the teacher runs; moved there once."""
        if self._moved is None or self._moved.weight.device != device:
            self._moved = self._probe.to(device)
        return self._moved

    _moved: Probe | None = None


class HeadProjection(ProbeProjection):
    """`head`: a second head of the student learns the teacher's own classes.

    The probe only says how good the teacher is.
    """

    heads = ("teacher",)


class ProbeAndHeadProjection(ProbeProjection):
    """`probe+head`: both."""

    heads = ("student", "teacher")

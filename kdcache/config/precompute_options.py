"""The options of phase one, as the user gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdcache.config.choices import (
    OUTPUTS,
    VIEW_POLICIES,
)
from kdcache.config.fields import (
    AT_LEAST_1,
    VIEW_COUNTS,
    Group,
    Role,
    option,
)
from kdcache.config.options import DatasetOptions
from kdcache.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions(DatasetOptions):
    """Phase one."""

    script: ClassVar[str] = "precompute_teacher.py"
    model: ClassVar[str] = "teacher"
    first: ClassVar[tuple[str, ...]] = ("dataset", "data", "teacher", "views", "cache")
    examples: ClassVar[tuple[str, ...]] = (
        "--dataset cifar10 --augment crop-flip --views 8 --cache cifar10-vit.h5",
    )
    cache: Path = option(Path("teacher.h5"), "the cache to write", Role.PATHS, group=Group.OUTPUT)
    teacher: str = option(
        "vit_b_16",
        "a model of torchvision, timm/NAME, or package.module:callable",
        Role.RECIPE,
        model=True,
        group=Group.MODEL,
    )
    teacher_weights: str | None = option(
        None,
        "a torchvision weights name, pretrained (timm's), none (random), or a file (default:"
        " IMAGENET1K_V1, pretrained, or none for a callable)",
        Role.PATHS,
        group=Group.MODEL,
    )
    output: str = option(
        "logits",
        "what is stored of each view; features: what the classifier takes in, for a teacher"
        " without one, or with far more classes than features",
        Role.RECIPE,
        choices=OUTPUTS,
        group=Group.MODEL,
    )
    augment: str = option(
        "none",
        "how views 1, 2, ... of a training image are drawn",
        Role.RECIPE,
        registry=VIEW_POLICIES,
        group=Group.DATA,
    )
    views: int = option(
        1,
        "views of each training image; view 0 is the whole image",
        Role.RECIPE,
        within=VIEW_COUNTS,
        group=Group.DATA,
    )
    batch_size: int | None = option(
        None,
        "views in one forward pass; halved where memory is short (default: what suits the teacher"
        " and the device)",
        Role.RECIPE,
        within=AT_LEAST_1,
        group=Group.RUNTIME,
    )
    restart: bool = option(
        False, "discard what an interrupted run left behind", Role.START, group=Group.OUTPUT
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.views > 1) != (self.augment != "none"):
            raise OptionError(
                "--views above 1 and an --augment other than none together",
                f"--views {self.views} --augment {self.augment}",
                "give both or neither",
            )

"""Everything that is chosen by name.

Each loss, dataset, view policy and projection is declared here, once.
"""

from typing import Any

from kdcache.config.registry import Registry

SPLITS = ("train", "validation", "test")
UNLABELLED = -1
"""The label of an image that has none; only the last rows of a training split may have it."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune")
MIXES = ("none", "mixup", "cutmix")
COMBINATIONS = ("probabilities", "logits")
LABELS = ("dataset", "teacher")
INTERPOLATIONS = ("bilinear", "bicubic")
OUTPUTS = ("logits", "features")
OPTIMIZERS = ("sgd", "adamw")

SAMPLERS = ("tpe", "random")
"""Of `sweep --search`; the first is the default."""
PRUNERS = ("none", "median", "successive-halving", "hyperband")
"""Of `sweep --pruner`."""
DATASETS: Registry[Any] = Registry(
    "--dataset",
    {
        "cifar10": "kdcache.data.datasets:CIFAR10",
        "cifar100": "kdcache.data.datasets:CIFAR100",
        "folder": "kdcache.data.datasets:FOLDER",
        "shapes": "kdcache.data.datasets:SHAPES",
        "shapes-fine": "kdcache.data.datasets:FINE_SHAPES",
    },
)
VIEW_POLICIES: Registry[Any] = Registry(
    "--augment",
    {
        "none": "kdcache.data.views:whole_image",
        "flip": "kdcache.data.views:random_flip",
        "crop-flip": "kdcache.data.views:random_crop_and_flip",
        "resized-crop": "kdcache.data.views:random_resized_crop",
    },
)
LOSSES: Registry[Any] = Registry(
    "--loss",
    {
        "kl": "kdcache.distill.losses:kl",
        "standardized-kl": "kdcache.distill.losses:standardized_kl",
        "dkd": "kdcache.distill.losses:dkd",
        "dist": "kdcache.distill.losses:dist",
        "mse": "kdcache.distill.losses:mse",
    },
)
PROJECTIONS: Registry[Any] = Registry(
    "--projection",
    {
        "probe": "kdcache.distill.projections:ProbeProjection",
        "head": "kdcache.distill.projections:HeadProjection",
        "probe+head": "kdcache.distill.projections:ProbeAndHeadProjection",
        "none": "kdcache.distill.projections:IdentityProjection",
    },
)

"""What can be chosen: the options of both phases, and the registries of losses, datasets, views
and projections.

Nothing here imports torch, so that help and a wrong option answer at once.
"""

from kdcache.config.choices import (
    COMBINATIONS,
    COMPILE_MODES,
    DATASETS,
    INTERPOLATIONS,
    LOSSES,
    MIXES,
    OUTPUTS,
    PRECISIONS,
    PROJECTIONS,
    PRUNERS,
    SAMPLERS,
    SPLITS,
    UNLABELLED,
    VIEW_POLICIES,
)
from kdcache.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    IMAGE_SIZES,
    POSITIVE,
    SEEDS,
    VIEW_COUNTS,
    Group,
    Range,
    Role,
    Span,
    converter,
    flag_of,
    one_or_more,
    option,
    rgb,
    spec_of,
)
from kdcache.config.options import DatasetOptions, Options
from kdcache.config.precompute_options import PrecomputeOptions
from kdcache.config.recipes import RECIPES, expanded, in_front
from kdcache.config.registry import Registry, agreed, import_object, is_import_path
from kdcache.config.settings_file import read_settings
from kdcache.config.train_options import TrainOptions

__all__ = [
    "AT_LEAST_0",
    "AT_LEAST_1",
    "COMBINATIONS",
    "COMPILE_MODES",
    "DATASETS",
    "IMAGE_SIZES",
    "INTERPOLATIONS",
    "LOSSES",
    "MIXES",
    "OUTPUTS",
    "POSITIVE",
    "PRECISIONS",
    "PROJECTIONS",
    "RECIPES",
    "SEEDS",
    "SPLITS",
    "UNLABELLED",
    "VIEW_COUNTS",
    "VIEW_POLICIES",
    "DatasetOptions",
    "Group",
    "Options",
    "PrecomputeOptions",
    "Range",
    "Registry",
    "Role",
    "TrainOptions",
    "agreed",
    "converter",
    "expanded",
    "flag_of",
    "import_object",
    "in_front",
    "is_import_path",
    "one_or_more",
    "option",
    "read_settings",
    "rgb",
    "spec_of",
]

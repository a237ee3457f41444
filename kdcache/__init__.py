"""Two-phase knowledge distillation: run the teacher once, train students many times.

What this module offers is the public interface, and each name is imported when it is first used,
so that `import kdcache` costs next to nothing. Everything else in the package is private.
"""

# The folders of the package, in the order of their imports: what stands further left never imports
# what stands further right, and folders separated by a comma do not import each other.
#
#   errors < config < runtime < models, data, cache < distill < runs < engine
#   < search, report, export < bench < cli
from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.cache import Cache, Manifest, open_cache, open_caches
    from kdcache.config import (
        DATASETS,
        LOSSES,
        PROJECTIONS,
        VIEW_POLICIES,
        PrecomputeOptions,
        TrainOptions,
    )
    from kdcache.data import (
        DatasetReader,
        ImageData,
        Request,
        Source,
        load_images,
        source_in_memory,
    )
    from kdcache.distill import (
        CachedViews,
        Projection,
        TeacherTargets,
        distillation_loss,
        label_loss,
        load_images_of,
        make_targets,
        soften,
    )
    from kdcache.engine import (
        PrecomputeReport,
        StudentRun,
        TrainingCallbacks,
        precompute,
        prepare_teacher,
        train_student,
    )
    from kdcache.errors import (
        CacheDamagedError,
        DataError,
        DivergedError,
        KdcacheError,
        OptionError,
        PeerError,
    )
    from kdcache.export import FinishedRun, open_run
    from kdcache.models import build_model
    from kdcache.runs import EpochRecord, RunSummary, resumed_options

__all__ = [
    "DATASETS",
    "LOSSES",
    "PROJECTIONS",
    "VIEW_POLICIES",
    "Cache",
    "CacheDamagedError",
    "CachedViews",
    "DataError",
    "DatasetReader",
    "DivergedError",
    "EpochRecord",
    "FinishedRun",
    "ImageData",
    "KdcacheError",
    "Manifest",
    "OptionError",
    "PeerError",
    "PrecomputeOptions",
    "PrecomputeReport",
    "Projection",
    "Request",
    "RunSummary",
    "Source",
    "StudentRun",
    "TeacherTargets",
    "TrainOptions",
    "TrainingCallbacks",
    "__version__",
    "build_model",
    "distillation_loss",
    "label_loss",
    "load_images",
    "load_images_of",
    "make_targets",
    "open_cache",
    "open_caches",
    "open_run",
    "precompute",
    "prepare_teacher",
    "resumed_options",
    "soften",
    "source_in_memory",
    "train_student",
]

__version__ = "0.2.0"

__getattr__ = lazy_exports(__name__)


def __dir__() -> list[str]:
    return __all__

"""The two phases at work: the frozen teacher that fills a cache, and the trainer of one student.

Options are resolved here, once, before anything is built.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.engine.precomputation import (
        PrecomputeReport,
        precompute,
    )
    from kdcache.engine.resolve import (
        resolve_config,
    )
    from kdcache.engine.student import (
        build_student,
    )
    from kdcache.engine.student_run import (
        StudentRun,
        train_student,
    )
    from kdcache.engine.teacher import (
        Teacher,
        load_teacher,
        prepare_teacher,
        teacher_of,
    )
    from kdcache.engine.trainer import (
        Trainer,
        TrainingCallbacks,
    )
    from kdcache.engine.training_data import (
        TrainingData,
        load_training_data,
    )

__getattr__ = lazy_exports(__name__)

"""What a run of phase two leaves in its folder: typed records, predictions, and finding and reading them.

Everything that looks at runs, looks at them through this folder.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.runs.folder import (
        RUN_FILES,
        read_summary,
        start_run,
    )
    from kdcache.runs.predictions import (
        save_predictions,
    )
    from kdcache.runs.reader import (
        Run,
        find_runs,
        load_test_images,
    )
    from kdcache.runs.records import (
        EpochRecord,
        RunConfig,
        RunSummary,
        TeacherScores,
    )

__getattr__ = lazy_exports(__name__)

"""What a run of phase two leaves in its folder: typed records, predictions, and their reader.

Everything that looks at runs, looks at them through this folder.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.runs.continuing import (
        extended_options,
        finished_summary,
        resumed_options,
    )
    from kdcache.runs.folder import (
        BEST_CHECKPOINT,
        CONFIG_FILE,
        HISTORY_FILE,
        LAST_CHECKPOINT,
        PREDICTIONS_FILE,
        RUN_FILES,
        STUDENT_FILE,
        SUMMARY_FILE,
        read_config,
        read_history,
        read_summary,
        refuse_edited_config,
    )
    from kdcache.runs.lock import (
        claim,
        only_writer,
    )
    from kdcache.runs.predictions import (
        Predictions,
    )
    from kdcache.runs.reader import (
        Run,
        best_labels_only,
        find_runs,
        read_run,
    )
    from kdcache.runs.recorder import (
        RunRecorder,
        make_run_config,
    )
    from kdcache.runs.records import (
        EpochRecord,
        RunConfig,
        RunSummary,
        TeacherScores,
    )

__getattr__ = lazy_exports(__name__)

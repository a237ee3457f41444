"""Finished runs, compared: by group of seeds, each against its baseline, and in words.

It imports no torch, and SciPy only for a paired test, so that a table of runs is there at once.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.report.comparison.comparison import Comparison, compare_runs
    from kdcache.report.comparison.groups import (
        Group,
        Score,
        best_of,
        option_name,
        option_text,
        split_by_test_images,
        varied_options,
    )
    from kdcache.report.comparison.rows import Row, TeacherRow
    from kdcache.report.comparison.statistics import margin

__getattr__ = lazy_exports(__name__)

"""Finished runs, compared: by group of seeds, each against its baseline, and in words.

It imports neither torch nor NumPy, so that a table of runs is there at once.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.report.comparison.comparison import Comparison, compare_runs
    from kdcache.report.comparison.groups import Group, Score, best_of, split_by_test_images
    from kdcache.report.comparison.rows import Row, TeacherRow

__getattr__ = lazy_exports(__name__)

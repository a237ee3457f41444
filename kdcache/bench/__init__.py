"""How fast both phases run on this machine, beside bare loops and the reference loop.

docs/performance.md says what each number means.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.bench.measurements import run
    from kdcache.bench.options import QUICK, BenchOptions, chosen
    from kdcache.bench.presentation import ratio_chart, remarks, table_head, table_line, table_rows
    from kdcache.bench.timing import Measurement

__getattr__ = lazy_exports(__name__)

"""How fast both phases run on this machine, beside bare loops and the reference loop."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.bench.measurements import (
        chosen,
        run,
    )
    from kdcache.bench.setup import (
        QUICK,
        BenchOptions,
    )
    from kdcache.bench.timing import (
        ratio_chart,
        remarks,
        table_rows,
    )

__getattr__ = lazy_exports(__name__)

"""Many students of one cache: every combination of some options, or those that a search tries."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.search.grid import (
        finished,
    )
    from kdcache.search.jobs import (
        pick_jobs,
    )
    from kdcache.search.plan import (
        SweepPlan,
    )
    from kdcache.search.sweep import (
        Sweep,
        SweepCallbacks,
        train_one,
    )

__getattr__ = lazy_exports(__name__)

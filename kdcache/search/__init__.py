"""Many students of one cache: every combination of some options, with several seeds each."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.search.grid import (
        combinations,
        finished,
    )
    from kdcache.search.sweep import (
        SweepCallbacks,
        train_all,
    )

__getattr__ = lazy_exports(__name__)

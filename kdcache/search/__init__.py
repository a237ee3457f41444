"""Many students of one cache: every combination of some options, with several seeds each."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.search.sweep import (
        SweepCallbacks,
        combinations,
        finished,
        train_all,
    )

__getattr__ = lazy_exports(__name__)

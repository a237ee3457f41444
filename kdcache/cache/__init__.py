"""The cache: one HDF5 file with a teacher's logits, which proves itself whole, and its writer.

docs/format.md has every byte.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.cache.manifest import (
        Manifest,
    )
    from kdcache.cache.reader import (
        Cache,
        open_cache,
        open_caches,
        verify_cache,
    )
    from kdcache.cache.writer import (
        BlockRows,
        CacheWriter,
    )

__getattr__ = lazy_exports(__name__)

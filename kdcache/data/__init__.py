"""Images: datasets and their splits, image files, the embedded shapes, and how they get to a model.

Views, mixing and prefetching live here, and every random draw comes from a generator with a name.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.data.datasets import (
        load_images,
        load_selected_images,
    )
    from kdcache.data.files.decoding import (
        read_image,
    )
    from kdcache.data.files.finding import (
        image_files,
    )
    from kdcache.data.files.image_folder import (
        Images,
        LazyImages,
    )
    from kdcache.data.mixing import (
        Mix,
        draw_mix,
    )
    from kdcache.data.prefetch import (
        Prefetcher,
    )
    from kdcache.data.shapes import (
        coarse_class_names,
        render_shapes,
    )
    from kdcache.data.sources import (
        DatasetReader,
        Request,
        Source,
        source_in_memory,
    )
    from kdcache.data.splits import (
        ImageData,
        Split,
    )
    from kdcache.data.views import (
        Renderer,
        draw_views,
        whole_image_views,
    )

__getattr__ = lazy_exports(__name__)

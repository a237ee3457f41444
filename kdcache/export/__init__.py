"""A finished student leaves: in other formats, with a model card, or as predictions for one's own images."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.export.export import (
        CARD_FILE,
        DisagreementError,
        export,
    )
    from kdcache.export.formats import (
        FORMATS,
    )
    from kdcache.export.predict import (
        Prediction,
        predict,
    )
    from kdcache.export.student import (
        open_run,
    )

__getattr__ = lazy_exports(__name__)

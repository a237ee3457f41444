"""A finished student leaves: in formats that others load, with a model card, or as predictions.

Every exported model is checked against the student before it gets its name.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.export.exporter import (
        CARD_FILE,
        DisagreementError,
        export_student,
    )
    from kdcache.export.finished_run import (
        FinishedRun,
        open_run,
    )
    from kdcache.export.formats import (
        FORMATS,
    )
    from kdcache.export.prediction import (
        Prediction,
        predict,
    )

__getattr__ = lazy_exports(__name__)

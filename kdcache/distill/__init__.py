"""From cached logits to what a student learns from: projections, soft targets and losses.

The cached Dataset, for a training loop of one's own, lives here too.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.distill.cached_dataset import (
        CachedViews,
    )
    from kdcache.distill.losses import (
        DistillationLoss,
        distillation_loss,
        label_loss,
        soften,
    )
    from kdcache.distill.matching import (
        check_images_match,
        load_images_of,
    )
    from kdcache.distill.metrics import (
        accuracy,
        agreement,
        class_accuracies,
        confusion,
        entropy,
        joint_outcomes,
        kl_divergence,
        notable_images,
        reliability,
    )
    from kdcache.distill.probe_file import (
        load_or_fit_probe,
        verify_probe,
    )
    from kdcache.distill.projections import (
        Head,
        Projection,
    )
    from kdcache.distill.teacher_targets import (
        TeacherTargets,
        default_projection,
        load_projection,
        make_targets,
        mean_logits,
    )

__getattr__ = lazy_exports(__name__)

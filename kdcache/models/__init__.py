"""Teachers and students: built by name, with their weights, heads, and what they expect as input.

A model of the user's own is named `package.module:callable`.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.models.build import (
        Model,
        begins_pretrained,
        build_model,
        count_random_tensors,
    )
    from kdcache.models.heads import (
        class_logits,
        head_parameters,
        lacks_head,
        replace_head,
        student_state_dict,
    )
    from kdcache.models.preprocessing import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        Preprocessing,
    )
    from kdcache.models.small_resnets import (
        SmallResNet,
    )
    from kdcache.models.state_dicts import (
        read_state_dict,
        state_digest,
    )
    from kdcache.models.student_card import (
        CARD_FILE,
        StudentCard,
        read_student_card,
    )
    from kdcache.models.weights import (
        default_weights,
        device_to_look_at,
        known_preprocessing,
    )

__getattr__ = lazy_exports(__name__)

"""Methods at their published settings, by name: defaults for the options of phase two.

Where each figure was found is said beside it. T is the temperature.
"""

from collections.abc import Iterable, Mapping
from typing import Any

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # Hinton, Vinyals and Dean 2015 name no weights for images. These are the baseline that later
    # papers compare with on CIFAR-100: CFG.KD in mdistiller/engine/cfg.py of megvii-research's
    # mdistiller.
    "hinton": {"loss": "kl", "alpha": 0.9, "temperature": 4.0},
    # Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022: CFG.DKD in the same file (1 for
    # the label's class and 8 for the others, as `dkd` has them; T = 4; a warm-up of 20 epochs, of
    # the 240 that CFG.SOLVER has).
    "dkd": {
        "loss": "dkd",
        "label_weight": 1.0,
        "distill_weight": 1.0,
        "temperature": 4.0,
        "distill_warmup": 20 / 240,
    },
    # Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024: --base-temp 2 and
    # --kd-weight 9 in the README of sunshangquan's logit-standardization-KD; the label term keeps
    # the 0.1 of mdistiller's baseline.
    "logit-standardization": {
        "loss": "standardized-kl",
        "label_weight": 0.1,
        "distill_weight": 9.0,
        "temperature": 2.0,
    },
    # Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022: weight 1 for the
    # labels, beta = gamma = 2; T = 1 is that of ImageNet, and CIFAR-100 had 4.
    "dist": {"loss": "dist", "label_weight": 1.0, "distill_weight": 2.0, "temperature": 1.0},
    # Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022:
    # KL alone, T = 1, and every batch mixed with a fraction uniform in 0 to 1 (distance_kw and
    # mixup in big_vision/configs/proj/distill/bit_i1k.py of google-research's big_vision); teacher
    # and student see the same view.
    "function-matching": {
        "loss": "kl",
        "alpha": 1.0,
        "temperature": 1.0,
        "mix": "mixup",
        "augment": "cached",
    },
}

# alpha and the two weights say the same thing: where one is given, the other is not taken
_EXCLUDES = {
    "alpha": ("label_weight", "distill_weight"),
    "label_weight": ("alpha",),
    "distill_weight": ("alpha",),
}


def expanded(given: Mapping[str, Any], also_given: Iterable[str] = ()) -> dict[str, Any]:
    """Options by name, with the values of the recipe among them in its place.

    Args:
        given: those that a user gave; they win over the recipe's.
        also_given: names of others that were given elsewhere; they win, too.
    """
    values = dict(given)
    if values.get("recipe") not in RECIPES:
        return values
    recipe = RECIPES[values.pop("recipe")]
    return _open_beside([*values, *also_given], recipe) | values


def in_front(first: Mapping[str, Any], behind: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name: the first ones, and of those behind what the first leave open."""
    return _open_beside(first, behind) | dict(first)


def _open_beside(given: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    shut = {one for name in given for one in (name, *_EXCLUDES.get(name, ()))}
    return {name: value for name, value in values.items() if name not in shut}

"""The rows of docs/evidence.py's tables: what each student's options are beside the common ones.

A row may also name the benches of other teachers (evidence.py), `teacher`, and a `variant` of the
probe.
"""

from typing import Any

Settings = dict[str, Any]
LABELS: Settings = {"alpha": 0.0}
DEFAULT: Settings = {"temperature": 2.0, "alpha": 0.5}
VIEWS = {
    "labels only, crop-flip": LABELS,
    "1 cached view, shown as it is": {"views": 1, "augment": "cached"},
    "1 cached view, the student's own crop-flip (unmatched)": {"views": 1, "augment": "crop-flip"},
    **{f"{count} cached views": {"views": count, "augment": "cached"} for count in (2, 4, 8, 16)},
    "live teacher, the 16 cached views": {"live_teacher": True},
    "live teacher, a new crop-flip each epoch": {"live_teacher": True, "augment": "crop-flip"},
}
TEMPERATURES = {
    "labels only": LABELS,
    **{f"T = {t:g}, alpha = 0.9": {"temperature": float(t)} for t in (1, 2, 4, 8)},
    **{f"T = 4, alpha = {a:g}": {"temperature": 4.0, "alpha": a} for a in (0.3, 0.6, 1.0)},
}
LOSSES = {
    "labels only": LABELS,
    "kl": {},
    **{loss: {"loss": loss} for loss in ("standardized-kl", "dkd", "dist", "mse")},
    "standardized-kl, T = 1": {"loss": "standardized-kl", "temperature": 1.0},
    "dkd, alpha = 0.5": {"loss": "dkd", "alpha": 0.5},
}
PROJECTIONS = {
    "labels only": LABELS,
    "probe, out-of-fold, calibrated (default)": {"projection": "probe"},
    "probe, out-of-fold, not calibrated": {"projection": "probe", "variant": "uncalibrated"},
    "probe, in-fold, calibrated": {"projection": "probe", "variant": "in-fold"},
    "probe, in-fold, not calibrated": {"projection": "probe", "variant": "in-fold uncalibrated"},
    "head, alpha = 0.5": {"projection": "head", "alpha": 0.5},
    "probe+head": {"projection": "probe+head"},
}
FEW_LABELS = {
    f"{fraction} of the labels, {kind}": {"train_images": images, "epochs": epochs, **settings}
    for fraction, images, epochs in (("1 %", 400, 60), ("10 %", 4000, 30), ("100 %", 40000, 6))
    for kind, settings in (("labels only", LABELS), ("distilled", {}))
}
PATIENCE = {
    f"{epochs} epochs, {name}": {"epochs": epochs, **settings}
    for epochs in (10, 60)
    for name, settings in {
        "labels only": LABELS,
        "cached views, T = 4, alpha = 0.9": {"augment": "cached"},
        "cached views, T = 2, alpha = 0.5": {"augment": "cached"} | DEFAULT,
        "own crops, T = 2, alpha = 0.5": {"augment": "crop-flip"} | DEFAULT,
    }.items()
}
SCHEDULES = {
    f"{epochs} epochs, {name}": {"epochs": epochs, **settings}
    for epochs in (10, 25, 75, 200)
    for name, settings in {
        "labels only": LABELS,
        **{f"--views {views}": {"views": views} | DEFAULT for views in (1, 4, 16)},
        "--views 16, own crops": {"views": 16, "augment": "crop-flip"} | DEFAULT,
    }.items()
    if epochs < 200 or "own crops" not in name  # the default has own crops there
}
TEACHERS: dict[str, Settings] = {
    "75 epochs, labels only": LABELS | {"epochs": 75},
    **{
        f"75 epochs, {model} at {pixels} px": {"epochs": 75, "views": 4, "teacher": name} | DEFAULT
        for name, model, pixels in (
            ("lite0-96", "efficientnet_lite0", 96),
            ("lite0-160", "efficientnet_lite0", 160),
            ("lite2-96", "efficientnet_lite2", 96),
            ("lite2-160", "efficientnet_lite2", 160),
            ("lite2-224", "efficientnet_lite2", 224),
        )
    },
    "200 epochs, labels only": LABELS | {"epochs": 200},
    **{
        f"200 epochs, {name}": {"epochs": 200, "views": 4, "teacher": bench} | DEFAULT
        for name, bench in (
            ("efficientnet_lite0 at 96 px", "lite0-96"),
            ("efficientnet_lite2 at 160 px", "lite2-160"),
        )
    },
}
TAUGHT: Settings = {"teacher": "lite2-160", "views": 4}
IMAGENET_TEMPERATURES = {"labels only": LABELS | {"epochs": 75}} | {
    f"T = {t:g}, alpha = {a:g}": TAUGHT | {"epochs": 75, "temperature": t, "alpha": a}
    for t in (2.0, 4.0)
    for a in (0.5, 0.9)
}
IMAGENET_PROJECTIONS = {"labels only": LABELS | {"epochs": 25}} | {
    name: TAUGHT | {"epochs": 25} | DEFAULT | settings
    for name, settings in PROJECTIONS.items()
    if name != "labels only"
}
SHORT: Settings = {"student": "evidence:efficientnet_lite0", "epochs": 8, "batch_size": 32}
SHORT |= {"train_images": 1600}
PRETRAINED = {
    "labels only": SHORT | LABELS,
    **{
        f"{projection}, lite2 at 160 px": SHORT | TAUGHT | DEFAULT | {"projection": projection}
        for projection in ("probe", "head", "probe+head")
    },
    "lite2 fine-tuned first, none": SHORT | TAUGHT | DEFAULT | {"teacher": "lite2-160-tuned"},
}
ALL_LABELS = {
    "labels only": LABELS | {"epochs": 8},
    "distilled, 1 view": DEFAULT | {"epochs": 8},
}
FEATURES: dict[str, Settings] = {
    "labels only": LABELS | {"epochs": 75},
    "distilled, 1,000 logits": TAUGHT | DEFAULT | {"epochs": 75},
    "distilled, 1,280 features": DEFAULT
    | {"epochs": 75, "views": 4, "teacher": "lite2-160-features"},
}
SEVERAL: dict[str, Settings] = {
    "labels only": LABELS | {"epochs": 75},
    **{
        name: DEFAULT | {"epochs": 75, "views": 4, "teacher": teacher}
        for name, teacher in (
            ("efficientnet_lite0 at 160 px", "lite0-160"),
            ("efficientnet_lite2 at 160 px", "lite2-160"),
            ("both", "lite2-160 lite0-160"),
        )
    },
}
IMAGENET_RECIPES: dict[str, Settings] = {
    "labels only": LABELS | {"epochs": 75},
    "default": TAUGHT | DEFAULT | {"epochs": 75},
    **{
        recipe: TAUGHT | {"epochs": 75, "recipe": recipe}
        for recipe in ("hinton", "dkd", "logit-standardization", "dist", "function-matching")
    },
}
# an epoch of 400 images has 4 steps, one of 4,000 has 32
UNLABELLED: dict[str, Settings] = {
    "labels only, 75 epochs (300 steps)": LABELS | {"epochs": 75},
    "labels only, 600 epochs (2,400 steps)": LABELS | {"epochs": 600},
    "distilled on the labelled images, 600 epochs (2,400 steps)": DEFAULT | {"epochs": 600},
    "distilled, and 3,600 unlabelled images, 75 epochs (2,400 steps)": DEFAULT
    | {"epochs": 75, "teacher": "lite2-160-unlabelled"},
}
TABLES: dict[str, tuple[str, dict[str, Settings]]] = {
    "views": ("cifar10", VIEWS),
    "temperatures": ("cifar10", TEMPERATURES),
    "losses": ("cifar10", LOSSES),
    "few-labels": ("cifar10", FEW_LABELS),
    "patience": ("imagenet", PATIENCE),
    "schedules": ("lite0-96", SCHEDULES),
    "teachers": ("lite0-96", TEACHERS),
    "imagenet-temperatures": ("lite0-96", IMAGENET_TEMPERATURES),
    "imagenet-projections": ("lite0-96", IMAGENET_PROJECTIONS),
    "imagenet-pretrained": ("lite0-96", PRETRAINED),
    "imagenet-all-labels": ("lite2-160-all", ALL_LABELS),
    "features": ("lite2-160", FEATURES),
    "several-teachers": ("lite2-160", SEVERAL),
    "imagenet-recipes": ("lite2-160", IMAGENET_RECIPES),
    "unlabelled": ("lite2-160-labelled", UNLABELLED),
    "shapes-views": ("shapes", VIEWS),
    "shapes-projections": ("shapes", PROJECTIONS),
    "cifar10-projections": ("cifar10-1000", PROJECTIONS),
}

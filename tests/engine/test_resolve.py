"""Options resolved: the defaults that follow from cache, weights and device, and what does not go
together.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.cache import Cache, Manifest
from kdcache.config import TrainOptions
from kdcache.data import ImageData
from kdcache.engine.batches import check_processes
from kdcache.engine.resolve import (
    recorded_options,
    resolve_config,
)
from kdcache.engine.training_data import describe_teaching
from kdcache.errors import KdcacheWarning, OptionError
from kdcache.runs import RunSummary, TeacherScores
from kdcache.runtime import Processes

CPU = torch.device("cpu")
Images = Callable[..., ImageData]


def cache(views: int = 4, teacher_names: list[str] | None = None) -> Cache:
    """A cache's manifest; its arrays do not matter here."""
    document = {
        "dataset": {
            "name": "indexed",
            "class_names": [f"class {number}" for number in range(10)],
            "image_shape": [16, 16],
            "limit": None,
            "store_size": None,
            "split_seed": 0,
        },
        "splits": {
            split: {"rows": 10, "views": views if split == "train" else 1, "digest": "0" * 64}
            for split in ("train", "validation", "test")
        },
        "teacher": {
            "name": "vit_b_16",
            "weights": "IMAGENET1K_V1",
            "digest": "1" * 64,
            "classes": len(teacher_names or range(1000)),
            "class_names": teacher_names,
        },
        "input": {
            "image_size": 96,
            "interpolation": "bilinear, antialiased",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "views": {"augment": "crop-flip", "seed": 0},
        "precision": "fp32",
        "software": {"torch": "2", "torchvision": "0", "device": "cpu", "compile": "none"},
    }
    manifest = Manifest.from_json(document)
    return Cache(Path("t.h5"), manifest, manifest.fingerprint, "c" * 64, {})


TINY = {"student": "tiny_models:tiny_cnn", "cache": Path("t.h5")}


class TestDefaults:
    @pytest.mark.parametrize(
        ("optimizer", "pretrained", "lr", "decay"),
        [
            ("sgd", False, 0.1, 5e-4),
            ("sgd", True, 0.02, 5e-4),
            ("adamw", False, 1e-3, 0.05),
            ("adamw", True, 1e-4, 0.05),
        ],
    )
    def test_recipe(
        self, optimizer: str, pretrained: bool, lr: float, decay: float, indexed_images: Images
    ) -> None:
        weights = "IMAGENET1K_V1" if pretrained else "none"  # nothing is loaded to resolve them
        given = TrainOptions(optimizer=optimizer, student="resnet18", student_weights=weights)
        found = resolve_config(given, indexed_images(train=128), cache(), CPU)
        assert (found.lr, found.weight_decay, found.pretrained) == (lr, decay, pretrained)

    @pytest.mark.parametrize(("student", "lr"), [("learned", 0.02), ("tiny_cnn", 0.1)])
    def test_a_callable_that_says_that_it_is_pretrained(
        self, student: str, lr: float, indexed_images: Images
    ) -> None:
        given = TrainOptions(student=f"tiny_models:{student}", cache=Path("t.h5"))
        found = resolve_config(given, indexed_images(train=128), cache(), CPU)
        assert (found.lr, found.pretrained) == (lr, lr == 0.02)

    def test_the_students_interpolation_is_its_own(self, indexed_images: Images) -> None:
        for student, interpolation in (("timm/test_vit", "bicubic"), ("resnet18", "bilinear")):
            given = TrainOptions(student=student, student_weights="none", precision="fp32")
            found = resolve_config(given, indexed_images(), None, CPU)
            assert found.preprocessing.interpolation == interpolation

    def test_the_learning_rate_follows_the_batch(self, indexed_images: Images) -> None:
        images = indexed_images(train=128)
        small_batch = TrainOptions(**TINY, batch_size=32)
        assert resolve_config(small_batch, images, cache(), CPU).lr == pytest.approx(0.1 * 32 / 128)
        given = small_batch.replace(lr=0.1)
        assert resolve_config(given, images, cache(), CPU).lr == 0.1

    def test_a_batch_is_no_larger_than_what_is_learned_from(self, indexed_images: Images) -> None:
        images, given = indexed_images(train=64), TrainOptions(**TINY, batch_size=256)
        assert resolve_config(given, images, cache(), CPU).lr == pytest.approx(0.1 * 64 / 128)
        few = given.replace(train_images=16)
        assert resolve_config(few, images, cache(), CPU).lr == pytest.approx(0.1 * 16 / 128)

    @pytest.mark.parametrize(
        ("changes", "shown"),
        [
            ({"mean": (123.0, 117.0, 104.0)}, "--mean 123,117,104"),
            ({"std": (58.0, 57.0, 57.0)}, "--std 58,57,57"),
        ],
    )
    def test_a_scale_of_255_is_a_warning(
        self, changes: dict[str, Any], shown: str, indexed_images: Images
    ) -> None:
        with pytest.warns(KdcacheWarning) as warned:
            resolve_config(TrainOptions(**TINY, **changes), indexed_images(), cache(), CPU)
        assert [str(one.message) for one in warned] == [
            f"{shown} is not on the scale 0 to 1, which pixels are brought to before it is applied;"
            " divide by 255 what is on the scale 0 to 255"
        ]

    @pytest.mark.parametrize(
        ("views", "epochs", "alpha", "augment"),
        [
            (1, 5, 0.9, "crop-flip"),
            (4, 32, 0.9, "cached"),
            (4, 33, 0.9, "crop-flip"),  # each view would be shown more than 8 times
            (4, 5, 0.0, "crop-flip"),
            (1, 5, 0.0, "crop-flip"),
        ],
    )
    def test_augmentation(
        self, views: int, epochs: int, alpha: float, augment: str, indexed_images: Images
    ) -> None:
        given = TrainOptions(**TINY, alpha=alpha, epochs=epochs)
        found = resolve_config(given, indexed_images(), cache(views), CPU)
        assert found.augment == augment
        assert found.matching == ("matched" if augment == "cached" else "unmatched")

    def test_what_is_given_stays(self, indexed_images: Images) -> None:
        given = TrainOptions(
            **TINY,
            lr=0.5,
            weight_decay=0.0,
            augment="flip",
            precision="bf16",
            image_size=24,
            projection="head",
        )
        config = resolve_config(given, indexed_images(), cache(8), CPU)
        assert recorded_options(given, config) == given

    def test_the_input_is_the_teachers_size_and_the_students_own_normalisation(
        self, indexed_images: Images
    ) -> None:
        images = indexed_images()
        found = resolve_config(TrainOptions(**TINY), images, cache(), CPU).preprocessing
        assert (found.image_size, found.class_names) == (96, images.class_names)
        assert found.mean == (0.485, 0.456, 0.406)
        alone = TrainOptions(student="resnet18", alpha=0.0)
        assert resolve_config(alone, images, None, CPU).preprocessing.image_size == 224

    def test_the_projection_follows_the_classes(self, indexed_images: Images) -> None:
        images, given = indexed_images(), TrainOptions(**TINY)
        found = resolve_config(given, images, cache(), CPU)
        assert (found.projection, found.heads, found.teacher_classes) == ("probe", ("student",), 0)
        same = cache(teacher_names=list(images.class_names))
        assert resolve_config(given, images, same, CPU).projection == "none"
        both = resolve_config(given.replace(projection="probe+head"), images, cache(), CPU)
        assert (both.heads, both.teacher_classes) == (("student", "teacher"), 1000)

    def test_auto_precision_asks_for_the_students_operations(
        self, indexed_images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """224-pixel ResNet-50: 8.2 GFLOP an image; a tiny one far below the bound of 1 GFLOP."""
        monkeypatch.setattr("kdcache.runtime.precision.cpu_has_bf16", lambda: True)
        images, large = indexed_images(), TrainOptions(alpha=0.0, image_size=224)
        assert resolve_config(large, images, None, CPU).precision == "bf16"
        tiny = TrainOptions(**TINY | {"cache": None}, alpha=0.0, image_size=32)
        assert resolve_config(tiny, images, None, CPU).precision == "fp32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 5}, "expected --views 1 to 4, as many as the cache has; found 5"),
        ({"labels": "teacher", "projection": "probe"}, "expected --projection none for --labels"),
        ({"teacher_weights": "w.pt"}, "expected --teacher-weights w.pt only with --live-teacher"),
        (
            {"loss": "dkd", "projection": "head"},
            "expected --projection probe or none for --loss dkd",
        ),
        (
            {"projection": "nothing:here"},
            "expected an importable package.module:name; found nothing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], message: str, indexed_images: Images
) -> None:
    with pytest.raises(OptionError) as error:
        resolve_config(TrainOptions(**TINY, **changes), indexed_images(), cache(), CPU)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("changes", [{"augment": "cached"}, {"live_teacher": True}, {"views": 1}])
def test_what_needs_a_cache_is_refused_without_one(
    changes: dict[str, Any], indexed_images: Images
) -> None:
    with pytest.raises(OptionError, match="only with --cache; found no cache; omit --"):
        resolve_config(TrainOptions(alpha=0.0, **changes), indexed_images(), None, CPU)


def test_too_many_processes_are_refused(indexed_images: Images) -> None:
    config = resolve_config(TrainOptions(**TINY, batch_size=8), indexed_images(), cache(), CPU)
    check_processes(config, 24, Processes(0, 8))
    with pytest.raises(OptionError, match="at least an image a step for each of 9 processes"):
        check_processes(config, 24, Processes(0, 9))


class TestPlan:
    def plan(self, images: ImageData, best: float | None = None, **changes: Any) -> list[str]:
        config = resolve_config(TrainOptions(**TINY, **changes), images, cache(), CPU)
        baseline = RunSummary("runs/labels", "tiny", 0.0, best) if best is not None else None
        return describe_teaching(config, TeacherScores("vit_b_16", 0.8, 0.79), baseline)

    def test_words_say_how_often_a_view_is_shown(self, indexed_images: Images) -> None:
        assert self.plan(indexed_images(), epochs=10) == [
            "the teacher, through the probe: 80.0% validation accuracy",
            "10 epochs share 4 cached views: each is shown about 2.5 times",
        ]

    def test_words_say_what_is_known_of_the_students_own_views(
        self, indexed_images: Images
    ) -> None:
        assert self.plan(indexed_images(), epochs=33)[1:] == [
            "the student sees its own crop-flip of each image; the soft targets are the mean over"
            " its 4 cached views (unmatched views)"
        ]

    def test_of_its_own_labels_a_teacher_is_not_called_accurate(
        self, indexed_images: Images
    ) -> None:
        given = TrainOptions(**TINY, labels="teacher", projection="none", epochs=4)
        config = resolve_config(given, indexed_images(), cache(), CPU)
        baseline = RunSummary("runs/labels", "tiny", 0.0, 0.9)
        assert describe_teaching(config, TeacherScores("vit_b_16", None, None), baseline) == [
            "the labels are the teacher's own predictions, so its accuracy says nothing"
        ]

    def test_a_better_baseline_is_said_and_with_a_large_alpha_warned_of(
        self, indexed_images: Images
    ) -> None:
        said = self.plan(indexed_images(), best=0.85, epochs=4)[1]
        assert said.startswith("runs/labels, trained on labels only, reaches 85.0%, more than this")
        warned = self.plan(indexed_images(), best=0.85, epochs=4, alpha=0.6)[1]
        assert warned.startswith("warning: runs/labels, trained on labels only, reaches 85.0%")
        assert "--alpha 0.5" in warned
        assert len(self.plan(indexed_images(), best=0.75, epochs=4)) == 1

    def test_views_that_are_shown_too_often_are_warned_of(self, indexed_images: Images) -> None:
        """4 cached views: 32 epochs show each 8 times, 33 more than that."""
        chosen: dict[str, Any] = {"augment": "cached"}
        assert "warning" not in self.plan(indexed_images(), epochs=32, **chosen)[1]
        warned = self.plan(indexed_images(), epochs=33, **chosen)[1]
        assert warned.startswith("warning: 33 epochs share 4 cached views: each is shown about 8.2")
        assert "omit --augment" in warned

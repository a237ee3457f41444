"""The trainer: schedule, order, views, losses and state, each against what can be worked out by
hand.
"""

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcache.data import ImageData, draw_views
from kdcache.distill import Head, TeacherTargets
from kdcache.distill.projections import IdentityProjection
from kdcache.engine.optimization import learning_rate
from kdcache.engine.resolve import TrainConfig
from kdcache.engine.student import build_student
from kdcache.engine.trainer import Trainer
from kdcache.errors import DivergedError
from kdcache.models.build import Model, build_model
from kdcache.models.heads import student_state_dict
from kdcache.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

CPU = torch.device("cpu")
TEACHER_CLASSES = 20
Images = Callable[..., ImageData]


def config(**changes: Any) -> TrainConfig:
    """What a tiny student's training depends on, with a projection's probe or head and three
    views.
    """
    heads = changes.pop("heads", ("student",))
    names = tuple(f"class {number}" for number in range(10))
    plain: dict[str, Any] = {
        "student": "tiny_models:tiny_cnn",
        "student_weights": "none",
        "small_stem": False,
        "pretrained": False,
        "preprocessing": Preprocessing(16, IMAGENET_MEAN, IMAGENET_STD, names),
        "teacher_classes": TEACHER_CLASSES if "teacher" in heads else 0,
        "heads": heads,
        "projection": "probe",
        "views": 3,
        "augment": "cached",
        "live_teacher": False,
        "mix": "none",
        "combine": "probabilities",
        "teacher_weights": None,
        "loss": "kl",
        "temperature": 4.0,
        "alpha": 0.9,
        "label_smoothing": 0.0,
        "epochs": 4,
        "batch_size": 7,
        "optimizer": "sgd",
        "lr": 0.1,
        "layer_decay": 1.0,
        "weight_decay": 5e-4,
        "warmup": 0.25,
        "precision": "fp32",
        "compile": "none",
        "seed": 0,
    }
    plain |= changes
    weights = {"label_weight": 1 - plain["alpha"], "distill_weight": plain["alpha"]}
    return TrainConfig(**weights | {"distill_warmup": 0.0} | plain)


def teacher_logits(count: int, views: int, classes: int) -> Tensor:
    """float16 (count, views, classes).

    Sin of the number's own index, so that a misaligned row cannot pass.
    """
    return (
        (3 * torch.sin(torch.arange(count * views * classes).float()))
        .reshape(count, views, classes)
        .half()
    )


class AnyProjection(IdentityProjection):
    """Only the logits of the targets matter here."""

    def __init__(self) -> None:
        pass


def trainer(images: ImageData, recipe: TrainConfig, device: torch.device = CPU) -> Trainer:
    """Taught with made-up logits, in one head of the student or in both."""
    count = len(images.splits["train"])
    classes: dict[Head, int] = {"student": 10, "teacher": TEACHER_CLASSES}
    train = {head: teacher_logits(count, 3, classes[head]) for head in recipe.heads}
    targets = TeacherTargets(AnyProjection(), train, {})
    table = draw_views("crop-flip", count, *images.image_shape, views=3, seed=0, stream="train")
    return Trainer(recipe, build_student(recipe), images, targets, table, device)


class Watch:
    """Remembers what each step was shown."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[int], list[int], Tensor]] = []

    def __call__(self, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor) -> None:
        self.steps.append((step, image_index.tolist(), view_index.tolist(), inputs.clone()))

    @property
    def images(self) -> list[int]:
        return [row for _, rows, _, _ in self.steps for row in rows]

    @property
    def views(self) -> dict[int, int]:
        return dict(
            zip(self.images, (view for _, _, views, _ in self.steps for view in views), strict=True)
        )


def watched_epoch(one: Trainer, epoch: int) -> tuple[Watch, dict[str, float]]:
    watch = Watch()
    return watch, one.train_epoch(epoch, watch)


class TestSchedule:
    def test_learning_rate_by_hand(self, indexed_images: Images) -> None:
        # 24 images in batches of 7 are 4 steps an epoch, 16 in all; a quarter of them rises: 0.1 *
        # (1, 2, 3, 4) / 4. Then 0.1 * (1 + cos(pi * t / 12)) / 2 for t = 0..11.
        one = trainer(indexed_images(), config())
        rates = [learning_rate(one.config, step, 16) for step in range(16)]
        assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
        assert rates[10] == pytest.approx(0.05)  # t = 6: cos(pi / 2) = 0
        assert rates[12] == pytest.approx(0.1 * (1 - 0.5) / 2)  # t = 8: cos(2 pi / 3) = -1/2
        assert rates[15] == pytest.approx(0.1 * (1 - math.cos(math.pi / 12)) / 2)
        assert learning_rate(one.config, 16, 16) == pytest.approx(0)

    def test_without_warm_up_it_begins_at_its_peak(self, indexed_images: Images) -> None:
        assert learning_rate(config(warmup=0), 0, 16) == 0.1

    def test_a_broken_number_of_rising_steps_is_rounded_up(self, indexed_images: Images) -> None:
        # 0.15 * 16 = 2.4 steps: three rise to the peak, and the cosine begins at 2.4
        one = trainer(indexed_images(), config(warmup=0.15))
        expected = [0.1 / 3, 0.2 / 3, 0.1, 0.1 * (1 + math.cos(math.pi * 0.6 / 13.6)) / 2]
        assert [learning_rate(one.config, step, 16) for step in range(4)] == pytest.approx(expected)

    def test_all_of_it_may_rise(self, indexed_images: Images) -> None:
        one = trainer(indexed_images(), config(warmup=1))
        assert [learning_rate(one.config, step, 16) for step in (0, 15)] == pytest.approx(
            [0.1 / 16, 0.1]
        )

    def test_the_rate_of_the_last_step_is_reported(self, indexed_images: Images) -> None:
        assert watched_epoch(trainer(indexed_images(), config()), 0)[1]["lr"] == pytest.approx(0.1)


class TestEpochs:
    def test_each_image_is_shown_once_in_batches_that_differ_by_at_most_one(
        self, indexed_images: Images
    ) -> None:
        watch, _ = watched_epoch(trainer(indexed_images(), config()), 0)
        assert sorted(watch.images) == list(range(24)) and [step for step, *_ in watch.steps] == [
            0,
            1,
            2,
            3,
        ]
        assert [len(rows) for _, rows, _, _ in watch.steps] == [6, 6, 6, 6]
        sizes = [
            len(rows)
            for _, rows, _, _ in watched_epoch(trainer(indexed_images(22), config()), 0)[0].steps
        ]
        assert sizes == [6, 6, 5, 5]

    def test_the_order_follows_epoch_and_seed(self, indexed_images: Images) -> None:
        images = indexed_images()
        one, again, other = (trainer(images, config(seed=seed)) for seed in (0, 0, 1))
        orders = [watched_epoch(one, epoch)[0].images for epoch in (0, 1)]
        assert orders[0] != orders[1]
        assert [watched_epoch(again, epoch)[0].images for epoch in (0, 1)] == orders
        assert watched_epoch(other, 0)[0].images != orders[0]

    def test_cached_views_take_turns(self, indexed_images: Images) -> None:
        one = trainer(indexed_images(), config(augment="cached"))
        shown = [watched_epoch(one, epoch)[0].views for epoch in range(6)]
        for image in range(24):
            turns = [views[image] for views in shown]
            assert sorted(turns[:3]) == [0, 1, 2] and turns[3:] == turns[:3]
        assert set(Counter(shown[0].values())) == {
            0,
            1,
            2,
        }  # not all images begin with the same one

    def test_the_student_sees_the_cached_view(self, indexed_images: Images) -> None:
        images = indexed_images()
        table = torch.from_numpy(
            draw_views("crop-flip", 24, 16, 16, views=3, seed=0, stream="train")
        )
        one = trainer(images, config(augment="cached"))
        for _, rows, views, inputs in watched_epoch(one, 0)[0].steps:
            assert torch.equal(
                inputs, one.student.render(images.splits["train"].images[rows], table[rows, views])
            )

    def test_views_of_its_own_go_with_the_whole_images_targets_and_change_with_the_epoch(
        self, indexed_images: Images
    ) -> None:
        one = trainer(indexed_images(), config(augment="crop-flip"))
        watches = [watched_epoch(one, epoch)[0] for epoch in (0, 1)]
        assert all(set(watch.views.values()) == {0} for watch in watches)
        first, second = (
            torch.cat([inputs for *_, inputs in watch.steps])[np.argsort(watch.images)]
            for watch in watches
        )
        assert (first != second).flatten(1).any(1).float().mean() > 0.8

    def test_without_augmentation_the_whole_image_is_shown(self, indexed_images: Images) -> None:
        images = indexed_images()
        one = trainer(images, config(augment="none"))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        for _, rows, _, inputs in watched_epoch(one, 0)[0].steps:
            expected = (images.splits["train"].images[rows] / 255 - mean) / std
            torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("head", ["student", "teacher"])
    def test_what_is_read_ahead_teaches_the_same_bit_for_bit(
        self, head: str, indexed_images: Images
    ) -> None:
        images, recipe = indexed_images(), config(heads=(head,))
        (watch, expected), (ahead, found) = (
            watched_epoch(trainer(dataclasses.replace(images, streamed=streamed), recipe), 1)
            for streamed in (False, True)
        )
        assert found == expected and ahead.views == watch.views
        assert all(
            torch.equal(one[3], other[3])
            for one, other in zip(watch.steps, ahead.steps, strict=True)
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize(
        "changes",
        [{}, {"mix": "cutmix"}, {"loss": "dkd"}, {"optimizer": "adamw", "precision": "bf16"}],
    )
    def test_no_step_waits_for_the_gpu(
        self, changes: dict[str, Any], indexed_images: Images
    ) -> None:
        one = trainer(indexed_images(train=700), config(**changes), torch.device("cuda"))

        def forbid(
            step: int, *batch: Tensor
        ) -> None:  # after the first step, which allocates; to before the last
            torch.cuda.set_sync_debug_mode("error" if step < 98 else "default")

        try:
            one.train_epoch(0, forbid)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_a_loss_that_explodes_in_the_first_steps_stops_the_run(
        self, indexed_images: Images
    ) -> None:
        """Finite, and larger than a thousand times the first step's."""
        one = trainer(indexed_images(), config(lr=1e5, warmup=0, alpha=0.0))
        with pytest.raises(
            DivergedError, match=r"found \d.* by step 4 \(epoch 1\), at learning rate"
        ):
            one.train_epoch(0, Watch())

    def test_a_loss_that_is_not_finite_stops_the_run(self, indexed_images: Images) -> None:
        one = trainer(indexed_images(), config(lr=1e30, warmup=0))
        with pytest.raises(DivergedError) as error:
            for epoch in range(3):
                one.train_epoch(epoch, Watch())
        assert str(error.value).startswith("expected a finite loss that does not explode; found ")
        assert str(error.value).endswith(
            "; try a smaller --lr, a longer --warmup or --precision fp32"
        )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


class TestLoss:
    @pytest.mark.parametrize("head", ["student", "teacher"])
    @pytest.mark.parametrize(
        ("alpha", "smoothing"), [(0.9, 0.0), (0.3, 0.1), (0.0, 0.0), (1.0, 0.0)]
    )
    def test_one_step_is_the_mixture_worked_out_from_the_modules_own_logits(
        self, head: str, alpha: float, smoothing: float, indexed_images: Images
    ) -> None:
        recipe = config(
            heads=(head,),
            alpha=alpha,
            label_smoothing=smoothing,
            batch_size=24,
            temperature=3.0,
            augment="cached",
        )
        images = indexed_images()
        one = trainer(images, recipe)
        before = copy.deepcopy(one.student.module).train()
        watch, record = watched_epoch(one, 0)
        ((_, rows, views, inputs),) = watch.steps
        logits = before(inputs).detach().double().numpy()
        assert logits.shape == (24, 30 if head == "teacher" else 10)

        labels = images.splits["train"].labels[rows].numpy()
        own = log_softmax(logits[:, :10])
        label_loss = -(
            (1 - smoothing) * own[np.arange(24), labels] + smoothing * own.mean(1)
        ).mean()
        taught = logits[:, 10:] if head == "teacher" else logits
        teacher = teacher_logits(24, 3, taught.shape[1])[rows, views].double().numpy()
        log_p, log_q = log_softmax(teacher / 3), log_softmax(taught / 3)
        distillation_loss = 9 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean() if alpha else 0
        assert record["label_loss"] == pytest.approx(label_loss, rel=1e-5)
        assert record["distillation_loss"] == pytest.approx(distillation_loss, rel=1e-4)
        assert record["train_loss"] == pytest.approx(
            (1 - alpha) * label_loss + alpha * distillation_loss, rel=1e-4
        )
        assert record["train_accuracy"] == pytest.approx((own.argmax(1) == labels).mean())

    def test_the_terms_have_their_weights(self, indexed_images: Images) -> None:
        one = trainer(indexed_images(), config(label_weight=0.1, distill_weight=9.0))
        record = watched_epoch(one, 0)[1]
        assert record["train_loss"] == pytest.approx(
            0.1 * record["label_loss"] + 9 * record["distillation_loss"], rel=1e-6
        )

    def test_the_weight_of_the_distillation_term_rises(self, indexed_images: Images) -> None:
        # half of 4 epochs: half of the weight in the first, all of it from the second on
        weighted = config(label_weight=1.0, distill_weight=3.0, distill_warmup=0.5)
        one = trainer(indexed_images(), weighted)
        for epoch, weight in enumerate((1.5, 3.0, 3.0)):
            record = watched_epoch(one, epoch)[1]
            assert record["train_loss"] == pytest.approx(
                record["label_loss"] + weight * record["distillation_loss"], rel=1e-6
            )

    def test_means_are_over_images_not_over_batches(self, indexed_images: Images) -> None:
        # with a learning rate of almost 0 the batches of 6, 6, 5 and 5 images see one and the same
        # student in eval mode
        images = indexed_images(22)
        one = trainer(images, config(lr=1e-30, alpha=0.0, augment="none"))
        frozen = one.student.module.eval()
        frozen.train = lambda mode=True: frozen
        _, record = watched_epoch(one, 0)
        assert record["label_loss"] == pytest.approx(
            one.student.evaluate(images.splits["train"]).loss, rel=1e-6
        )

    def test_the_first_step_is_nesterovs_with_decay_on_weights_only(
        self, indexed_images: Images
    ) -> None:
        # v = 0.9 * 0 + g, so the step is g + 0.9 g; g holds the decay 0.1 w for matrices but not
        # for biases and norms
        recipe = config(batch_size=24, alpha=0.0, weight_decay=0.1, warmup=0, augment="none")
        images = indexed_images()
        one = trainer(images, recipe)
        before = copy.deepcopy(one.student.module).train()
        ((_, rows, _, inputs),) = watched_epoch(one, 0)[0].steps
        nn.functional.cross_entropy(before(inputs), images.splits["train"].labels[rows]).backward()
        for old, new in zip(before.parameters(), one.student.module.parameters(), strict=True):
            gradient = old.grad + (0.1 * old.detach() if old.ndim > 1 else 0)
            torch.testing.assert_close(
                new.detach(), old.detach() - 0.1 * 1.9 * gradient, atol=1e-6, rtol=1e-4
            )

    def test_alpha_0_needs_no_cache(self, indexed_images: Images) -> None:
        images, recipe = indexed_images(), config(alpha=0.0, augment="crop-flip")
        alone = Trainer(recipe, build_student(recipe), images, None, None, CPU)
        with_cache = trainer(images, recipe)
        assert watched_epoch(alone, 0)[1] == watched_epoch(with_cache, 0)[1]

    def test_the_student_learns(self, indexed_images: Images) -> None:
        images = indexed_images()
        one = trainer(images, config(epochs=30, alpha=0.0, augment="none", lr=0.05))
        losses = [watched_epoch(one, epoch)[1]["train_loss"] for epoch in range(30)]
        assert losses[-1] < losses[0] / 2
        assert one.student.evaluate(images.splits["train"]).accuracy > 0.7


class TestState:
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_saved_and_restored_it_goes_on_bit_for_bit(
        self, optimizer: str, indexed_images: Images, tmp_path: Any
    ) -> None:
        images, recipe = indexed_images(), config(optimizer=optimizer, lr=0.01)
        one = trainer(images, recipe)
        one.student.module.insert(5, nn.Dropout(0.5))  # draws from torch's global generator
        one.train_epoch(0, Watch())
        torch.save(one.state_dict(), tmp_path / "last.pt")
        undisturbed = one.train_epoch(1, Watch())

        other = trainer(images, recipe)
        other.student.module.insert(5, nn.Dropout(0.5))
        torch.rand(100)
        other.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
        assert other.train_epoch(1, Watch()) == undisturbed
        for key, value in one.student.module.state_dict().items():
            assert torch.equal(other.student.module.state_dict()[key], value), key

    def test_the_callers_random_numbers_are_left_alone(self, indexed_images: Images) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        one = trainer(indexed_images(), config())
        one.student.module.insert(5, nn.Dropout(0.5))
        one.train_epoch(0, Watch())
        assert torch.equal(torch.rand(3), expected)

    def test_evaluation_changes_nothing(self, indexed_images: Images) -> None:
        images = indexed_images()
        one, other = trainer(images, config()), trainer(images, config())
        one.train_epoch(0, Watch())
        one.student.evaluate(images.splits["validation"])
        other.train_epoch(0, Watch())
        assert one.train_epoch(1, Watch()) == other.train_epoch(1, Watch())

    def test_evaluation_by_hand(self, indexed_images: Images) -> None:
        images = indexed_images()
        one = trainer(images, config(batch_size=1))  # parts of 4 images
        split = images.splits["test"]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.no_grad():
            logits = copy.deepcopy(one.student.module).eval()((split.images / 255 - mean) / std)
        assert one.student.module.training
        found = one.student.evaluate(split)
        assert found.predictions.tolist() == logits.argmax(1).tolist()
        assert found.accuracy == pytest.approx(
            (logits.argmax(1) == split.labels).float().mean().item()
        )
        assert found.loss == pytest.approx(
            nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-5
        )


class TestSecondHead:
    def test_it_is_there_where_a_projection_teaches_it(self) -> None:
        for heads, outputs in (
            (("teacher",), 30),
            (("student", "teacher"), 30),
            (("student",), 10),
        ):
            assert build_student(config(heads=heads)).module[5].out_features == outputs

    def test_it_begins_as_the_students_own_classifier_of_the_same_classes(
        self, tmp_path: Any
    ) -> None:
        weights = build_model("tiny_models:tiny_teacher", None, seed=8).module.state_dict()
        torch.save(weights, tmp_path / "w.pt")
        recipe = config(
            student="tiny_models:tiny_teacher",
            student_weights=str(tmp_path / "w.pt"),
            pretrained=True,
            heads=("teacher",),
        )
        student = build_student(recipe).module
        assert torch.equal(student[5].weight[10:], weights["5.weight"]) and torch.equal(
            student[5].bias[10:], weights["5.bias"]
        )
        assert torch.equal(student[0].weight, weights["0.weight"])

    @pytest.mark.parametrize("head", ["teacher", "student"])
    def test_stripped_the_student_loads_into_the_plain_module_and_answers_the_same(
        self, head: str, indexed_images: Images
    ) -> None:
        images = indexed_images()
        one = trainer(images, config(heads=(head,)))
        one.train_epoch(0, Watch())
        state = student_state_dict(one.student.module, 10)
        assert state["5.weight"].shape == (10, 128) and state["5.bias"].shape == (10,)
        module = build_model("tiny_models:tiny_cnn", None, seed=77).module
        plain = Model(
            module, "tiny", "none", Preprocessing(16, IMAGENET_MEAN, IMAGENET_STD), pretrained=False
        )
        plain.module.load_state_dict(state)
        stripped = Trainer(config(alpha=0.0), plain, images, None, None, CPU)
        test = images.splits["test"]
        assert stripped.student.evaluate(test).loss == pytest.approx(
            one.student.evaluate(test).loss, rel=1e-5
        )

    def test_strip_copies(self) -> None:
        module = build_model("tiny_models:tiny_cnn", None, seed=0).module
        state = student_state_dict(module, 10)
        with torch.no_grad():
            module[5].weight.zero_()
        assert state["5.weight"].abs().sum() > 0 and not state["5.weight"].requires_grad

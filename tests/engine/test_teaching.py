"""What a student is taught with.

The teacher's views, its logits cached or live, its projections, its labels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import as_older, refused, run
from PIL import Image
from torch import Tensor

import precompute_teacher
import train_student
from kdcache.cache.reader import open_cache
from kdcache.config import TrainOptions
from kdcache.data.datasets import load_images
from kdcache.engine.student_run import StudentRun, TrainingCallbacks
from kdcache.engine.teacher import Teacher
from kdcache.engine.training_data import load_training_data
from kdcache.errors import KdcacheError
from kdcache.runtime.distributed import Processes

SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", "2", "--batch-size", "32"]
TRAINING, VIEWS = 80, 3


def fill(folder: Path, teacher: str, *more: object) -> Path:
    arguments = [*SHAPES, "--teacher", f"tiny_models:{teacher}", "--cache", folder / "teacher.h5"]
    assert run(precompute_teacher.main, *arguments, *more) == 0
    return folder / "teacher.h5"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three views and a teacher of 20 other classes."""
    return fill(
        tmp_path_factory.mktemp("other"), "tiny_teacher", "--views", VIEWS, "--augment", "crop-flip"
    )


@pytest.fixture(scope="module")
def same_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three views and a teacher of as many classes as the student has."""
    return fill(
        tmp_path_factory.mktemp("same"), "tiny_cnn", "--views", VIEWS, "--augment", "crop-flip"
    )


@pytest.fixture
def teacher_inputs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Everything that a teacher is shown, batch by batch."""
    seen: list[Tensor] = []
    logits = Teacher.logits

    def recorded(self: Teacher, inputs: Tensor) -> Tensor:
        seen.append(inputs.clone())
        return logits(self, inputs)

    monkeypatch.setattr(Teacher, "logits", recorded)
    return seen


def train(
    out: Path, cache: Path, *more: object
) -> tuple[list[dict[str, float]], dict[str, Any], dict[str, Tensor]]:
    """History, summary and student of a run."""
    assert run(train_student.main, "--cache", cache, *STUDENT, "--out", out, *more) == 0
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (
        history,
        json.loads((out / "summary.json").read_text()),
        torch.load(out / "student.pt", weights_only=True),
    )


def losses(history: list[dict[str, float]]) -> list[float]:
    return [
        entry[key]
        for entry in history
        for key in ("train_loss", "distillation_loss", "label_loss", "validation_loss")
    ]


def shown_to_student(cache: Path, out: Path, **more: Any) -> dict[tuple[int, int], Tensor]:
    """The student's input for each (image, view) of some epochs."""
    options = TrainOptions(
        cache=cache, student="tiny_models:tiny_cnn", batch_size=32, out=out, **more
    )
    seen: dict[tuple[int, int], Tensor] = {}

    class Watch(TrainingCallbacks):
        def on_batch(
            self, run: StudentRun, step: int, rows: Tensor, views: Tensor, inputs: Tensor
        ) -> None:
            seen.update(zip(zip(rows.tolist(), views.tolist(), strict=True), inputs, strict=True))

    StudentRun(options, load_training_data(options), Watch()).train()
    return seen


class TestViews:
    def test_the_students_input_equals_the_teachers_to_the_bit(
        self, tmp_path: Path, teacher_inputs: list[Tensor]
    ) -> None:
        cache = fill(
            tmp_path, "tiny_teacher", "--views", VIEWS, "--augment", "crop-flip", "--batch-size", 7
        )
        shown = torch.cat(
            teacher_inputs[1:]
        )  # the first batch only asked for the number of classes
        assert shown.shape == (TRAINING * VIEWS + 20 + 100, 3, 16, 16)
        seen = shown_to_student(cache, tmp_path / "run", epochs=VIEWS)
        assert len(seen) == TRAINING * VIEWS, "in as many epochs as views, each view is shown once"
        assert all(
            torch.equal(inputs, shown[row * VIEWS + view]) for (row, view), inputs in seen.items()
        )

    def test_a_student_of_another_size_sees_the_same_part_of_the_image(
        self, cache: Path, tmp_path: Path
    ) -> None:
        small = shown_to_student(cache, tmp_path / "small", epochs=1)
        large = shown_to_student(cache, tmp_path / "large", epochs=1, image_size=64)
        for key, inputs in small.items():
            again = torch.nn.functional.interpolate(
                large[key][None], 16, mode="bilinear", antialias=True
            )[0]
            assert (again - inputs).abs().mean() < 0.05

    def test_some_views_of_a_cache_are_a_cache_with_fewer_views(
        self, same_classes: Path, tmp_path: Path
    ) -> None:
        fewer = fill(tmp_path, "tiny_cnn", "--views", 2, "--augment", "crop-flip")
        one = train(tmp_path / "a", fewer, "--projection", "none")
        other = train(tmp_path / "b", same_classes, "--projection", "none", "--views", 2)
        # the teacher ran in other batches, which may change the last bit of a logit
        assert losses(one[0]) == pytest.approx(losses(other[0]), abs=1e-4)

    def test_more_epochs_than_views_are_announced(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(tmp_path / "run", cache, "--views", 1, "--augment", "cached")
        assert (
            "2 epochs share 1 cached views: each is shown about 2.0 times"
            in capsys.readouterr().out
        )


class TestLiveTeacher:
    @pytest.mark.parametrize("projection", ["probe", "head", "probe+head", "none"])
    @pytest.mark.parametrize("more", [[], ["--train-images", 40]])
    def test_it_trains_the_same_student(
        self,
        projection: str,
        more: list[object],
        cache: Path,
        same_classes: Path,
        tmp_path: Path,
        teacher_inputs: list[Tensor],
    ) -> None:
        """float16 storage is all that differs.

        Another seed moves the curve more than ten times as far.
        """
        path = same_classes if projection == "none" else cache
        arguments = [path, "--projection", projection, *more]
        cached, _, _ = train(tmp_path / "cached", *arguments)
        assert not teacher_inputs
        live, summary, _ = train(tmp_path / "live", *arguments, "--live-teacher")
        images = 40 if more else TRAINING
        assert sum(map(len, teacher_inputs)) == 2 + 2 * images and summary["views"] == "live"
        assert losses(live) == pytest.approx(losses(cached), abs=5e-4)
        assert losses(train(tmp_path / "seed", *arguments, "--seed", 1)[0]) != pytest.approx(
            losses(cached), abs=5e-3
        )

    def test_it_sees_the_students_own_views(
        self, cache: Path, tmp_path: Path, teacher_inputs: list[Tensor]
    ) -> None:
        options = {"epochs": 1, "augment": "crop-flip", "live_teacher": True}
        seen = shown_to_student(cache, tmp_path / "run", **options)
        shown = torch.cat(teacher_inputs[1:])
        assert len(shown) == TRAINING
        assert torch.equal(shown.sort(0).values, torch.stack(list(seen.values())).sort(0).values)

    def test_it_sees_mixed_images(
        self, cache: Path, tmp_path: Path, teacher_inputs: list[Tensor]
    ) -> None:
        seen = shown_to_student(cache, tmp_path / "run", epochs=1, mix="cutmix", live_teacher=True)
        assert torch.equal(torch.cat(teacher_inputs[1:]), torch.stack(list(seen.values())))

    def test_it_must_be_the_caches_teacher(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from tiny_models import tiny_teacher

        other = tiny_teacher()
        torch.nn.init.constant_(other[-1].bias, 7.0)
        torch.save(other.state_dict(), tmp_path / "other.pt")
        arguments = [
            "--cache",
            cache,
            *STUDENT,
            "--live-teacher",
            "--teacher-weights",
            tmp_path / "other.pt",
        ]
        assert "expected the teacher's weights (state dict" in refused(
            train_student.main, capsys, *arguments, "--out", tmp_path / "run"
        )


class TestMix:
    @pytest.mark.parametrize("mix", ["mixup", "cutmix"])
    @pytest.mark.parametrize(
        "more", [["--alpha", 0], ["--projection", "probe+head"], ["--loss", "dkd"]]
    )
    def test_it_trains(self, mix: str, more: list[object], cache: Path, tmp_path: Path) -> None:
        plain = train(tmp_path / "plain", cache, *more)[0]
        mixed = train(tmp_path / "mixed", cache, *more, "--mix", mix)[0]
        assert losses(mixed) != pytest.approx(losses(plain), abs=1e-3)


class TestProjections:
    @pytest.mark.parametrize("projection", ["head", "probe+head"])
    def test_the_second_head_is_gone_in_the_end(
        self, projection: str, cache: Path, tmp_path: Path
    ) -> None:
        _, summary, student = train(tmp_path / "run", cache, "--projection", projection)
        assert student["5.weight"].shape == (10, 128) and summary["projection"] == projection
        assert torch.load(tmp_path / "run" / "best.pt", weights_only=True)["model"][
            "5.weight"
        ].shape == (30, 128)

    def test_probe_and_head_weigh_the_same(self, cache: Path, tmp_path: Path) -> None:
        """Before the first step both heads stand still.

        The distillation loss of the pair is the mean of the two.
        """
        first = ["--epochs", 1, "--lr", 1e-9, "--batch-size", TRAINING, "--temperature", 2]
        both, head = (
            train(tmp_path / name, cache, "--projection", name, *first)[0][0]
            for name in ("probe+head", "head")
        )
        options = TrainOptions(
            cache=cache, student="tiny_models:tiny_cnn", projection="probe+head", out=tmp_path / "x"
        )
        from kdcache.distill.losses import kl

        student = StudentRun(options, load_training_data(options))
        view_index, views = student.trainer._batches._views(0)
        logits = student.trainer.student.module.train()(
            student.trainer.student.render(student.images.splits["train"].images, views)
        )
        rows = torch.arange(TRAINING)
        labels = student.images.splits["train"].labels
        probe_term = kl(
            logits[:, :10], student.targets.train["student"][rows, view_index], labels, 2.0
        ).item()
        assert both["distillation_loss"] == pytest.approx(
            (probe_term + head["distillation_loss"]) / 2, rel=1e-4
        )


class TestLabels:
    def test_the_teachers_classes_need_no_labels(self, cache: Path, tmp_path: Path) -> None:
        history, summary, student = train(
            tmp_path / "run", cache, "--labels", "teacher", "--alpha", 1
        )
        assert student["5.weight"].shape == (20, 128) and summary["labels"] == "teacher"
        # the labels are its own predictions: 100 % would say nothing of how good it is
        assert summary["teacher"]["test_accuracy"] is None
        assert history[-1]["agreement"] == pytest.approx(history[-1]["validation_accuracy"])

    def test_labels_play_no_part(self, cache: Path) -> None:
        images = load_training_data(TrainOptions(cache=cache, labels="teacher")).images
        expected = (
            torch.from_numpy(open_cache(cache).splits["test"].logits[:, 0].copy()).float().argmax(1)
        )
        assert torch.equal(images.splits["test"].labels, expected)
        assert torch.equal(
            images.splits["test"].images,
            load_images("shapes", Path(), limit=100).splits["test"].images,
        )


class TestTrainImages:
    def test_every_class_has_its_share(self, cache: Path, tmp_path: Path) -> None:
        options = TrainOptions(
            cache=cache, student="tiny_models:tiny_cnn", train_images=20, out=tmp_path / "run"
        )
        part = StudentRun(options, load_training_data(options)).images.splits["train"]
        assert part.labels.bincount().tolist() == [2] * 10

    def test_validation_and_test_stay_whole(self, cache: Path, tmp_path: Path) -> None:
        _, few, _ = train(tmp_path / "few", cache, "--train-images", 20)
        _, all_of_them, _ = train(tmp_path / "all", cache)
        assert (few["test_digest"], few["validation_digest"]) == (
            all_of_them["test_digest"],
            all_of_them["validation_digest"],
        )


def test_a_teacher_that_is_worse_than_labels_only_is_named(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "labels", cache, "--alpha", 0)
    summary = as_older(tmp_path / "labels" / "summary.json")
    (tmp_path / "foreign").mkdir()  # beside --out may lie what is no run's
    (tmp_path / "foreign" / "summary.json").write_text('{"name": "of something else"}')
    for accuracy, warned in ((1.0, True), (0.0, False)):
        changed = json.dumps(summary | {"validation_accuracy": accuracy})
        (tmp_path / "labels" / "summary.json").write_text(changed)
        capsys.readouterr()
        train(tmp_path / f"distilled-{accuracy}", cache)
        assert ("trained on labels only, reaches" in capsys.readouterr().out) is warned
    (tmp_path / "labels" / "summary.json").write_text(
        json.dumps(summary | {"validation_accuracy": 1.0, "validation_digest": "x"})
    )
    train(tmp_path / "other-images", cache)
    assert "trained on labels only, reaches" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", 4], "expected --views 1 to 3, as many as the cache has; found 4"),
        (
            ["--loss", "dkd", "--projection", "head"],
            "expected --projection probe or none for --loss dkd",
        ),
        (
            ["--loss", "dkd", "--projection", "probe+head"],
            "expected --projection probe or none for --loss dkd",
        ),
        (
            ["--labels", "teacher", "--projection", "probe"],
            "expected --projection none for --labels teacher; found probe",
        ),
        (["--teacher-weights", "x.pt"], "expected --teacher-weights x.pt only with --live-teacher"),
        (
            ["--projection", "none"],
            "expected as many teacher classes as student classes (10) for --projection none;"
            " found 20",
        ),
        (["--train-images", 0], "expected --train-images to be at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[object],
    message: str,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(
        train_student.main,
        capsys,
        "--cache",
        cache,
        *STUDENT,
        *arguments,
        "--out",
        tmp_path / "run",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--live-teacher"], ["--labels", "teacher"], ["--views", 2], ["--augment", "cached"]],
)
def test_what_needs_a_cache_is_refused_without(
    arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(
        train_student.main,
        capsys,
        *SHAPES,
        *STUDENT,
        "--alpha",
        0,
        *arguments,
        "--out",
        tmp_path / "run",
    )
    assert f"{arguments[0]}" in message and "only with --cache; found no cache" in message


def test_photos_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/teaching.md, way (b): one folder for all images."""
    for split, count in (("train", 20), ("test", 5)):
        (tmp_path / "photos" / split / "all").mkdir(parents=True)
        for number in range(count):
            pixels = np.full((16, 16, 3), (10 * number, 255 - 10 * number, 7 * number), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / "all" / f"{number}.png")
    folder = ["--dataset", "folder", "--data", tmp_path / "photos"]
    teacher = [
        "--teacher",
        "tiny_models:tiny_teacher",
        "--image-size",
        16,
        "--augment",
        "resized-crop",
        "--views",
        2,
    ]
    assert run(precompute_teacher.main, *folder, *teacher, "--cache", tmp_path / "photos.h5") == 0
    more = [*folder, "--labels", "teacher", "--alpha", 1]
    _, summary, student = train(tmp_path / "run", tmp_path / "photos.h5", *more)
    assert student["5.weight"].shape == (20, 128) and summary["labels"] == "teacher"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mix": "mixup"}, "expected --mix none with several processes; found --mix mixup"),
        ({"batch_size": 2}, "expected at least an image a step for each of 3 processes; found 2"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(
    more: dict[str, Any], message: str, cache: Path, tmp_path: Path
) -> None:
    options = TrainOptions(
        cache=cache, student="tiny_models:tiny_cnn", out=tmp_path / "run", **more
    )
    with pytest.raises(KdcacheError, match=message):
        StudentRun(options, load_training_data(options), processes=Processes(0, 3))


class TestOwnViews:
    """The student's own crops, which the teacher has not seen."""

    def taught_with(self, cache: Path, out: Path, **options: Any) -> Tensor:
        given = TrainOptions(
            cache=cache,
            student="tiny_models:tiny_cnn",
            projection="none",
            out=out,
            **options,
        )
        run = StudentRun(given, load_training_data(given))
        assert run.targets is not None
        return run.targets.train["student"]

    def test_are_taught_with_the_mean_over_the_cached_views(
        self, same_classes: Path, tmp_path: Path
    ) -> None:
        logits = np.asarray(open_cache(same_classes).splits["train"].logits, np.float64)
        found = self.taught_with(same_classes, tmp_path / "all", augment="crop-flip")
        assert found.shape == (TRAINING, 1, logits.shape[2])
        assert found[:, 0].numpy() == pytest.approx(logits.mean(1), abs=2e-3)  # stored as float16
        first_two = self.taught_with(same_classes, tmp_path / "two", augment="crop-flip", views=2)
        assert first_two[:, 0].numpy() == pytest.approx(logits[:, :2].mean(1), abs=2e-3)

    def test_labels_only_averages_nothing(self, same_classes: Path, tmp_path: Path) -> None:
        found = self.taught_with(same_classes, tmp_path, augment="crop-flip", alpha=0.0)
        assert found.shape[:2] == (TRAINING, VIEWS)

    def test_cached_and_whole_images_keep_their_own(
        self, same_classes: Path, tmp_path: Path
    ) -> None:
        logits = np.asarray(open_cache(same_classes).splits["train"].logits)
        for augment in ("cached", "none"):
            found = self.taught_with(same_classes, tmp_path / augment, augment=augment)
            assert np.array_equal(found.numpy(), logits)

"""Images without labels: soft targets are learned of them, and nothing else changes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coded_images import save_png
from commands import run

import precompute_teacher
from kdcache.bench.setup import noise_images
from kdcache.cache.reader import open_cache
from kdcache.cli.main import main
from kdcache.config import TrainOptions
from kdcache.distill import CachedViews, load_images_of
from kdcache.engine.batches import Batches
from kdcache.engine.student_run import StudentRun
from kdcache.engine.student_run import train_student as train_one
from kdcache.engine.trainer import TrainingCallbacks
from kdcache.engine.training_data import load_training_data
from kdcache.errors import OptionError
from kdcache.runs import RunSummary
from kdcache.runtime import Processes

CPU = torch.device("cpu")
STUDENT: dict[str, Any] = {"student": "tiny_models:tiny_cnn", "epochs": 1, "batch_size": 8}
LABELLED, UNLABELLED = 24, 9


def write(root: Path, unlabelled: int) -> Path:
    """Random images of two classes in three splits, and `unlabelled` in folders of folders."""
    generator = np.random.default_rng(0)
    for split, count in (("train", LABELLED // 2), ("validation", 5), ("test", 5)):
        for name in ("a", "b"):
            for number in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3))
                save_png(root / split / name / f"{number}.png", pixels)
    for number in range(unlabelled):
        pixels = generator.integers(0, 256, (8, 8, 3))
        save_png(root / "unlabelled" / f"day {number % 2}" / f"{number}.png", pixels)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with unlabelled images and the same one without them, each with its cache."""
    root = tmp_path_factory.mktemp("unlabelled")
    for name, count in (("with", UNLABELLED), ("without", 0)):
        folder = write(root / name, count)
        teacher = ["--teacher", "tiny_models:tiny_teacher", "--image-size", 8]
        views = ["--views", 2, "--augment", "crop-flip", "--cache", folder / "t.h5"]
        arguments = ["--dataset", "folder", "--data", folder, *teacher, *views]
        assert run(precompute_teacher.main, *arguments) == 0
    return {"with": root / "with", "without": root / "without"}


class Messages(TrainingCallbacks):
    def __init__(self) -> None:
        self.said = ""

    def on_message(self, text: str) -> None:
        self.said += text


def train(folder: Path, out: Path, **more: Any) -> tuple[RunSummary, str]:
    """The summary, and what was said."""
    messages = Messages()
    own = {"cache": folder / "t.h5", "data": folder, "out": out} | STUDENT
    return train_one(TrainOptions(**own | more), callbacks=messages), messages.said


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "student.pt", weights_only=True)


def test_a_cache_has_them_as_the_last_rows(folders: dict[str, Path]) -> None:
    with_them, without = (open_cache(folders[name] / "t.h5") for name in ("with", "without"))
    train, plain = with_them.splits["train"], without.splits["train"]
    assert train.labels.tolist() == [0] * 12 + [1] * 12 + [-1] * 9
    for name in ("labels", "views", "image_crc32", "logits"):
        found, expected = getattr(train, name)[:LABELLED], getattr(plain, name)
        assert (np.asarray(found) == np.asarray(expected)).all()
    for split in ("validation", "test"):
        crc32 = with_them.splits[split].image_crc32
        assert (crc32 == without.splits[split].image_crc32).all()


def test_a_dataset_of_a_cache_gives_them_too(folders: dict[str, Path]) -> None:
    cache = open_cache(folders["with"] / "t.h5")
    views = CachedViews(cache, load_images_of(cache, folders["with"]))
    assert len(views) == 2 * (LABELLED + UNLABELLED)
    assert (views[2 * LABELLED - 1]["label"], views[2 * LABELLED]["label"]) == (1, -1)
    assert views[len(views) - 1]["soft_targets"].sum() == pytest.approx(1)


@pytest.mark.parametrize("how", [{"alpha": 0.0}, {"alpha": 0.0, "cache": None}], ids=str)
def test_labels_only_is_as_if_they_were_not_there(
    how: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    if "cache" in how:
        how = how | {"dataset": "folder"}
    for name, folder in folders.items():
        summary, said = train(folder, tmp_path / name, **how)
        assert ("(9 unlabelled ones are used in distillation only)" in said) == (name == "with")
        assert summary.unlabelled is None
    one, other = (weights(tmp_path / name) for name in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("more", [{}, {"projection": "head"}, {"mix": "mixup"}], ids=str)
def test_distillation_uses_them(
    more: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    used, said = train(folders["with"], tmp_path / "with", train_images=4, **more)
    assert (used.unlabelled, used.test_images) == (UNLABELLED, 10)
    assert "on folder: 4 training, 10 validation images, 9 unlabelled ones, 2 classes" in said
    train(folders["without"], tmp_path / "without", train_images=4, **more)
    one, other = (weights(tmp_path / name) for name in folders)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_teacher_in_the_loop_says_the_same_of_them(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    cached, live = tmp_path / "cached", tmp_path / "live"
    train(folders["with"], cached, augment="cached")
    train(folders["with"], live, augment="cached", live_teacher=True)
    one, other = weights(cached), weights(live)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-3, rtol=1e-3)


def test_a_loss_that_needs_labels_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        train(folders["with"], tmp_path, loss="dkd")
    assert str(error.value) == (
        "expected a label for each image for --loss dkd; found training images without"
        " labels; use another --loss or --data"
    )


def test_the_teacher_can_label_them(folders: dict[str, Path], tmp_path: Path) -> None:
    found, said = train(folders["with"], tmp_path, labels="teacher", loss="dkd")
    assert found.unlabelled is None and "33 training" in said


def test_info_counts_them_and_draws_them(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = ["--data", folders["with"], "--picture", tmp_path / "p.png"]
    assert run(main, "info", folders["with"] / "t.h5", *picture) == 0
    assert "33 x 2 train (9 images without labels), 10 x 1 validation" in capsys.readouterr().out
    assert (tmp_path / "p.png").exists()


def test_a_step_by_hand(folders: dict[str, Path], tmp_path: Path) -> None:
    """One batch of everything: the label term is the mean over the 24 labelled images, the
    distillation term that over all 33."""
    folder = folders["with"]
    options = TrainOptions(
        cache=folder / "t.h5", data=folder, student="tiny_models:without_batch_norm", epochs=1,
        batch_size=33, augment="cached", warmup=0.0, weight_decay=0.0, lr=0.1, out=tmp_path,
    )  # fmt: skip
    student = StudentRun(options, load_training_data(options))
    module, images = student.trainer.student.module, student.images.splits["train"]
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    shown: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    means = student.trainer.train_epoch(
        0, lambda step, rows, views, inputs: shown.append((rows, views, inputs))
    )
    [(rows, views, inputs)] = shown
    after = {name: value.detach().clone() for name, value in module.named_parameters()}
    module.load_state_dict(before)
    logits = module(inputs)
    labelled = rows < LABELLED
    own_label = F.cross_entropy(logits[labelled], images.labels[rows][labelled])
    assert student.targets is not None
    soft = torch.softmax(student.targets.train["student"][rows, views].float() / 2, 1)
    distillation = 4 * (soft * (soft.log() - torch.log_softmax(logits / 2, 1))).sum(1).mean()
    loss = (own_label + distillation) / 2
    right = (logits.argmax(1) == images.labels[rows]).sum().item()
    assert means["label_loss"] == pytest.approx(own_label.item(), rel=1e-5)
    assert means["distillation_loss"] == pytest.approx(distillation.item(), rel=1e-5)
    assert means["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert means["train_accuracy"] == pytest.approx(right / LABELLED)
    module.zero_grad()
    loss.backward()
    for name, value in module.named_parameters():
        # Nesterov's first step is (1 + 0.9) times the gradient
        expected = before[name] - 0.1 * 1.9 * value.grad
        torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-4)


def test_the_parts_of_two_processes_make_up_the_mean_over_all_labelled_rows() -> None:
    """Label term of the batch: sum of each process's mean * label_weight * fraction."""
    data = noise_images(12)
    train = data.splits["train"]
    train.labels[5:] = -1
    config = SimpleNamespace(batch_size=6, seed=0, augment="crop-flip")
    losses = torch.arange(12.0)
    parts = [
        list(Batches(config, data, {}, None, CPU, Processes(rank, 2)).of(0)) for rank in (0, 1)
    ]
    for pair in zip(*parts, strict=True):
        rows = torch.cat([batch.rows for batch in pair])
        of_all = losses[rows][train.labels[rows] >= 0]
        found = 0.0
        for batch in pair:
            own = losses[batch.rows][batch.labels >= 0]
            assert batch.labelled == len(own)
            if len(own):
                found += own.mean().item() * batch.label_weight * batch.fraction
        assert found == pytest.approx(of_all.mean().item() if len(of_all) else 0.0)

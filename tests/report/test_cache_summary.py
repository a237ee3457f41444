"""info and verify, and the Dataset, against what is known to be in a small cache."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from torch.utils.data import DataLoader

import precompute_teacher
from kdcache.cache.reader import open_cache
from kdcache.cache.seal import read_layout, write_seal
from kdcache.cli import main as tools
from kdcache.data.datasets import load_images
from kdcache.data.splits import ImageData
from kdcache.data.views import Renderer
from kdcache.distill import teacher_targets as targets
from kdcache.distill.cached_dataset import CachedViews
from kdcache.distill.probe import QUALITY
from kdcache.distill.teacher_targets import make_targets
from kdcache.errors import CacheDamagedError, KdcacheError
from kdcache.report import cache_summary as inspection
from kdcache.report import run_pictures as pictures

ARGUMENTS = [
    "--dataset",
    "shapes",
    "--limit",
    "100",
    "--image-size",
    "16",
    "--teacher",
    "tiny_models:tiny_teacher",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "teacher.h5"
    assert (
        run(
            precompute_teacher.main,
            *ARGUMENTS,
            "--views",
            3,
            "--augment",
            "crop-flip",
            "--cache",
            path,
        )
        == 0
    )
    return path


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_images("shapes", Path(), limit=100)


@pytest.fixture
def damaged(cache: Path, tmp_path: Path) -> Path:
    """A copy with one bit of the validation part's logits turned over: block 1."""
    raw = bytearray(cache.read_bytes())
    fd = os.open(cache, os.O_RDONLY)
    raw[read_layout(fd, "").logits[1].offset + 5] ^= 4
    os.close(fd)
    (tmp_path / "damaged.h5").write_bytes(raw)
    return tmp_path / "damaged.h5"


class TestInfo:
    def test_json_says_what_is_in_it(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert run(tools.main, "info", cache, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        opened = open_cache(cache)
        assert facts["fingerprint"] == opened.fingerprint
        assert facts["bytes"] == cache.stat().st_size
        assert facts["splits"]["train"] == {"rows": 80, "views": 3}
        predictions = make_targets(opened, "probe").predictions["validation"].argmax(1).numpy()
        labels = opened.splits["validation"].labels
        assert facts["teacher_validation_accuracy"] == pytest.approx((predictions == labels).mean())
        by_class = facts["teacher_validation_accuracy_by_class"]
        assert by_class["circle"] == pytest.approx((predictions == labels)[labels == 0].mean())
        assert np.mean(list(by_class.values())) == pytest.approx(
            facts["teacher_validation_accuracy"]
        )  # 2 images a class
        means = [facts["soft_target_entropy"][f"T={t}"]["mean"] for t in (1, 2, 4)]
        assert means[0] < means[1] < means[2] <= np.log(10)

    def test_a_table_and_a_picture(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tools.main, "info", cache, "--soft-targets", tmp_path / "targets.png") == 0
        printed = capsys.readouterr().out
        assert "80 x 3 train, 20 x 1 validation, 100 x 1 test" in printed
        assert "every byte in" in printed and "GB/s" in printed
        assert (tmp_path / "targets.png").stat().st_size > 10_000

    def test_the_picture_shows_views_and_top_answers(
        self, cache: Path, images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: dict[str, object] = {}
        sheet = pictures.report.prediction_sheet

        def recorded(
            tiles: np.ndarray,
            labels: list[str],
            predictions: list,
            own: object,
            path: Path,
            *,
            columns: int,
        ) -> None:
            drawn.update(
                tiles=tiles, labels=labels, predictions=predictions, own=own, columns=columns
            )
            sheet(tiles, labels, predictions, own, path, columns=columns)

        monkeypatch.setattr(pictures.report, "prediction_sheet", recorded)
        assert run(tools.main, "info", cache, "--picture", tmp_path / "predictions.png") == 0
        assert (tmp_path / "predictions.png").stat().st_size > 10_000
        # the first tiles are image 0 in views 0, 1 and 2; view 0 is the image as it is
        train, names = images.splits["train"], images.class_names
        np.testing.assert_array_equal(drawn["tiles"][0], train.images[0].numpy())
        assert drawn["labels"][:3] == [names[train.labels[0]]] * 3 and drawn["columns"] == 6
        expected = torch.softmax(
            make_targets(open_cache(cache), "probe").train["student"][0, 1], 0
        ).topk(3)
        assert [name for name, _ in drawn["predictions"][1]] == [
            names[label] for label in expected.indices
        ]
        assert [share for _, share in drawn["predictions"][1]] == pytest.approx(
            expected.values.tolist()
        )

    def test_checksums_can_be_skipped(
        self, damaged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "block 1 of the logits" in refused(tools.main, capsys, "info", damaged)
        assert run(tools.main, "info", damaged, "--skip-checksums") == 0
        assert "all but the logits" in capsys.readouterr().out

    def test_entropy_by_hand(self) -> None:
        logits = torch.tensor([[0.0, 0.0], [np.log(3), 0.0]])  # 1/2 1/2; 3/4 1/4
        expected = [np.log(2), -0.75 * np.log(0.75) - 0.25 * np.log(0.25)]
        np.testing.assert_allclose(inspection.entropy(logits, 1.0), expected, rtol=1e-6)
        # at T = 2 the second is sqrt(3) : 1
        p = np.sqrt(3) / (1 + np.sqrt(3))
        np.testing.assert_allclose(
            inspection.entropy(logits, 2.0)[1], -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-6
        )


class TestVerify:
    def test_an_intact_cache(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(tools.main, "verify", cache) == 0
        assert "every byte is the one that was written" in capsys.readouterr().out

    def test_the_first_bad_block_is_named_with_exit_code_1(
        self, damaged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "damaged.h5 damaged in block 1 of the logits" in refused(
            tools.main, capsys, "verify", damaged, code=1
        )

    def test_the_live_teacher_says_the_same(
        self, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tools.main, "verify", cache, "--live", 50) == 0
        assert "within                  True" in capsys.readouterr().out

    def test_the_live_teacher_finds_logits_of_other_images(
        self, cache: Path, images: ImageData
    ) -> None:
        """Rows shifted by one, and sealed again.

        Every checksum holds, but the teacher disagrees.
        """
        shifted = cache.with_name("shifted.h5")
        shutil.copy(cache, shifted)
        _reseal(shifted, lambda logits: np.roll(logits, 1, axis=0))
        result = inspection.rerun_teacher(
            open_cache(shifted), images, 60, weights=None, device="cpu", seed=0
        )
        assert not result["within"]
        assert result["agreement"] < 1
        assert run(tools.main, "verify", shifted, "--live", 60) == 1

    def test_another_teacher_is_named(
        self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from tiny_models import tiny_teacher

        other = tiny_teacher()
        torch.nn.init.constant_(other[-1].bias, 7.0)
        torch.save(other.state_dict(), tmp_path / "other.pt")
        arguments = ["verify", cache, "--live", 5, "--teacher-weights", tmp_path / "other.pt"]
        message = refused(tools.main, capsys, *arguments)
        assert (
            "expected the teacher's weights (state dict" in message
            and "as --teacher-weights" in message
        )

    def test_in_a_child_process(
        self, cache: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tools.main, "verify", cache, "--untrusted") == 0
        capsys.readouterr()
        assert run(tools.main, "verify", damaged, "--untrusted") == 1
        assert "block 1 of the logits" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("script", "fault"),
        [
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
                "killed the reading process (signal 11)",
            ),
            ("while True: pass", "took more than 1 s"),
            ("x = bytearray(1 << 40)", "MemoryError"),
        ],
    )
    def test_what_a_forged_file_does_to_the_child_is_told(
        self, script: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "python").write_text(
            f"#!/bin/sh\nexec {inspection.sys.executable} -c '{script}'\n"
        )
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(inspection.sys, "executable", str(tmp_path / "python"))
        monkeypatch.setattr(inspection, "_CHILD_SECONDS", 1)
        assert fault in inspection.verify_in_child(tmp_path / "forged.h5")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["verify", "none.h5"],
                "expected a finished cache; found none.h5: No such file or directory",
            ),
            (
                ["info", "none.h5"],
                "expected a finished cache; found none.h5: No such file or directory",
            ),
            (["info"], "the following arguments are required: CACHE"),
            (["verify"], "the following arguments are required: CACHE"),
            (["inform"], "invalid choice: 'inform'"),
            (["verify", "x.h5", "--live", "many"], "invalid int value: 'many'"),
            (["verify", "/"], "expected a cache file; found /, which is not a file"),
            (["info", __file__], "which is something else; give another file"),
            (["verify", "/dev/null"], "which is not a file"),
        ],
    )
    def test_bad_input(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert message in refused(tools.main, capsys, *arguments)

    def test_other_images_are_refused(self, cache: Path, tmp_path: Path) -> None:
        with pytest.raises(KdcacheError, match="other images or labels, the first in train row"):
            turned = load_images("shapes", tmp_path, limit=100, split_seed=1)
            inspection.rerun_teacher(
                open_cache(cache), turned, 5, weights=None, device="cpu", seed=0
            )


class TestDataset:
    def test_every_item_is_the_view_and_soft_target_of_its_row(
        self, cache: Path, images: ImageData
    ) -> None:
        opened = open_cache(cache)
        dataset = CachedViews(opened, images, temperature=2.0)
        assert len(dataset) == 240
        targets = make_targets(opened, "probe")
        render = Renderer(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (32, 32))
        for item in (0, 1, 2, 100, 239, -1):
            sample = dataset[item]
            row, view = divmod(item % 240, 3)
            assert (sample["image_index"], sample["view_index"]) == (row, view)
            assert sample["label"] == opened.splits["train"].labels[row]
            stored = torch.from_numpy(opened.splits["train"].views[row, view])[None]
            assert torch.equal(
                sample["image"], render(images.splits["train"].images[row, None], stored)[0]
            )
            assert torch.equal(
                sample["soft_targets"], torch.softmax(targets.train["student"][row, view] / 2.0, 0)
            )

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_dataloader_reads_it(self, workers: int, cache: Path, images: ImageData) -> None:
        dataset = CachedViews(
            open_cache(cache, in_memory=False), images, "validation", image_size=8
        )
        batches = list(DataLoader(dataset, batch_size=8, num_workers=workers))
        assert [len(batch["label"]) for batch in batches] == [8, 8, 4]
        assert batches[0]["image"].shape == (8, 3, 8, 8)
        assert torch.equal(torch.cat([batch["image_index"] for batch in batches]), torch.arange(20))

    def test_it_survives_pickling(self, cache: Path, images: ImageData) -> None:
        dataset = CachedViews(open_cache(cache), images)
        assert torch.equal(
            pickle.loads(pickle.dumps(dataset))[7]["soft_targets"], dataset[7]["soft_targets"]
        )

    def test_past_the_end(self, cache: Path, images: ImageData) -> None:
        with pytest.raises(IndexError):
            CachedViews(open_cache(cache), images)[240]


def _reseal(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the logits of each split and forge all checksums."""
    import zlib

    opened = open_cache(path)
    fd = os.open(path, os.O_RDWR)
    layout = read_layout(fd, str(path))
    for extent, split in zip(layout.logits, opened.splits.values(), strict=True):
        os.pwrite(fd, change(split.logits).tobytes(), extent.offset)
    crcs = [zlib.crc32(os.pread(fd, block.size, block.offset)) for block in layout.blocks()]
    os.pwrite(fd, np.array(crcs, "<u4").tobytes(), layout.block_crc32.offset)
    write_seal(fd, layout)
    os.close(fd)


def test_damage_is_an_error_of_its_own_kind(damaged: Path) -> None:
    with pytest.raises(CacheDamagedError):
        inspection.verify(damaged)


class TestTheProbeBesideTheCache:
    @pytest.fixture
    def kept(self, cache: Path, tmp_path: Path) -> Path:
        """A sound sidecar, beside copy.h5."""
        copy = tmp_path / "copy.h5"
        shutil.copyfile(cache, copy)
        targets.load_or_fit_probe(open_cache(copy))
        return targets.probe_path(open_cache(copy))

    @staticmethod
    def fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
        """How often the probe is fitted when the cache of this sidecar is asked for it.

        What comes must be sound.
        """
        calls = []
        real = targets.fit_probe
        monkeypatch.setattr(
            targets,
            "fit_probe",
            lambda *arguments, **seed: calls.append(1) or real(*arguments, **seed),
        )
        probe = targets.load_or_fit_probe(open_cache(path.parent / "copy.h5"))
        assert probe.weight.isfinite().all() and probe.validation["nll"] > 0
        return len(calls)

    def test_a_sound_one_is_read_back_as_it_was(
        self, kept: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.fits(kept, monkeypatch) == 0
        fitted, read = (
            targets.load_or_fit_probe(open_cache(cache)),
            targets.load_or_fit_probe(open_cache(kept.parent / "copy.h5")),
        )
        for name in ("mean", "scale", "weight", "fold"):
            assert torch.equal(getattr(read, name), getattr(fitted, name)), name
        assert (read.temperature, read.penalty, read.validation) == (
            fitted.temperature,
            fitted.penalty,
            fitted.validation,
        )

    @pytest.mark.parametrize(
        "name",
        ["fingerprint", "mean", "scale", "weight", "fold", "temperature", "penalty", *QUALITY],
    )
    @pytest.mark.parametrize(
        "forge",
        [
            lambda tensor: None,
            lambda tensor: tensor[..., None],
            lambda tensor: tensor.flatten()[:0],
            lambda tensor: tensor.to(torch.int16),
            lambda tensor: tensor.clone().to_sparse(),
            lambda tensor: torch.full_like(
                tensor, float("nan") if tensor.is_floating_point() else 255
            ),
        ],
        ids=["missing", "another dimension", "empty", "another type", "sparse", "absurd"],
    )
    def test_a_forged_one_is_replaced(
        self,
        kept: Path,
        name: str,
        forge: Callable[[torch.Tensor], torch.Tensor | None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        state = torch.load(kept)
        state[name] = forge(state[name])
        torch.save({key: value for key, value in state.items() if value is not None}, kept)
        assert self.fits(kept, monkeypatch) == 1
        assert self.fits(kept, monkeypatch) == 0

    @pytest.mark.parametrize(
        "content", [b"", b"PK\x03\x04", b"no archive", pickle.dumps({"mean": 1})]
    )
    def test_a_damaged_one_is_replaced(
        self, kept: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept.write_bytes(content)
        assert self.fits(kept, monkeypatch) == 1
        assert self.fits(kept, monkeypatch) == 0

    def test_a_tensor_too_many_is_no_probe(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save(torch.load(kept) | {"more": torch.zeros(1)}, kept)
        assert self.fits(kept, monkeypatch) == 1

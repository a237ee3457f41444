"""Which files of a folder are images of which class, and what is said about odd ones."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from coded_images import coded, numbers, save_png, write_folder
from commands import refused, run

import precompute_teacher
from kdcache.cli.main import main
from kdcache.data import ImageData, image_files, load_images
from kdcache.errors import DataError, KdcacheWarning

Capture = pytest.CaptureFixture[str]


def load(root: Path, **arguments: int) -> ImageData:
    return load_images("folder", root, **arguments)


class TestNestedFolders:
    def test_all_below_a_class_is_of_the_class(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        for number, name in ((50, "more/0.png"), (51, "more/deep/0.png"), (52, "zoo.png")):
            save_png(tmp_path / "test" / "dog" / name, coded(1, number))
        found = numbers(load(tmp_path).splits["test"])
        assert found == [(0, 100), (0, 101), (1, 100), (1, 101), (1, 50), (1, 51), (1, 52)]

    def test_as_torchvision_finds_them(self, tmp_path: Path) -> None:
        from torchvision.datasets import ImageFolder

        write_folder(tmp_path, {"cat": 2, "dog": 2})
        save_png(tmp_path / "test" / "dog" / "more" / "0.png", coded(1, 50))
        (tmp_path / "elsewhere").mkdir()
        save_png(tmp_path / "elsewhere" / "0.png", coded(0, 60))
        (tmp_path / "test" / "cat" / "link").symlink_to(tmp_path / "elsewhere")
        ours = load(tmp_path).splits["test"]
        theirs = ImageFolder(str(tmp_path / "test")).samples
        assert sorted(zip(ours.files, ours.labels.tolist(), strict=True)) == sorted(theirs)

    def test_a_link_back_is_not_followed(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "test" / "dog" / "again").symlink_to(tmp_path / "test" / "dog")
        assert len(load(tmp_path).splits["test"]) == 4
        assert len(image_files([tmp_path / "test"])) == 4

    def test_a_link_to_nothing_is_named(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "test" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(DataError, match=r"found .*/test/dog/gone\.png"):
            load(tmp_path)


JUNK = ["Thumbs.db", "desktop.ini", ".DS_Store", "._000.png", "__MACOSX/x.png", "@eaDir/x.jpg"]


class TestJunk:
    @pytest.mark.parametrize("name", JUNK)
    def test_what_a_file_manager_leaves_does_not_count(self, name: str, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        before = image_files([tmp_path])
        for folder in (tmp_path / "train" / "cat", tmp_path / "train"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"junk")
        data = load(tmp_path)
        assert (data.class_names, len(data.splits["test"])) == (("cat", "dog"), 4)
        assert len(data.splits["train"]) + len(data.splits["validation"]) == 4
        assert image_files([tmp_path]) == before

    def test_another_file_that_is_no_image_is_named(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "train" / "cat" / "notes.txt").write_text("words")
        with pytest.raises(DataError, match=r"found .*/train/cat/notes\.txt"):
            load(tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_that_may_not_be_read_is_named(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "train" / "cat").chmod(0)
        with pytest.raises(DataError, match=r"found .*/train/cat: Permission denied"):
            load(tmp_path)


class TestSizes:
    """20 training and 20 test images of 6 x 6; `odd` of them are of 7 x 8."""

    def folder(self, tmp_path: Path, odd: int) -> Path:
        write_folder(tmp_path, {"a": 10, "b": 10})
        for number in range(odd):
            save_png(tmp_path / "train" / "b" / f"{number:03}.png", coded(1, number, 8, 7))
        return tmp_path

    def test_an_odd_one_is_named_and_cropped_to_the_size_of_the_others(
        self, tmp_path: Path
    ) -> None:
        with pytest.warns(KdcacheWarning) as warned:
            data = load(self.folder(tmp_path, 1))
        assert data.image_shape == (6, 6)
        assert len(numbers(data.splits["train"])) == 16  # each still tells its label
        assert [str(one.message) for one in warned] == [
            "1 of 40 images are not of 6 x 6 pixels, as the most are, the first"
            f" {tmp_path}/train/b/000.png (7 x 8): these are resized and cropped to 6 x 6;"
            " --store-size N brings all to squares of N"
        ]

    @pytest.mark.parametrize(("odd", "shape"), [(4, (6, 6)), (5, (256, 256))])
    def test_nine_in_ten_decide(self, odd: int, shape: tuple[int, int], tmp_path: Path) -> None:
        with pytest.warns(KdcacheWarning, match=f"{odd} of 40 images are not of 6 x 6 pixels"):
            assert load(self.folder(tmp_path, odd)).image_shape == shape

    def test_whoever_gives_a_size_gets_it_without_a_word(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load(self.folder(tmp_path, 1), store_size=4).image_shape == (4, 4)

    def test_a_recorded_size_is_kept_without_a_word(self, tmp_path: Path) -> None:
        root = self.folder(tmp_path, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for shape in ((6, 6), (256, 256), (5, 3)):
                assert load_images("folder", root, image_shape=shape).image_shape == shape


class TestSingleImages:
    def test_a_class_of_one_is_named(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"ant": 1, "bee": 5, "cat": 1})
        with pytest.warns(KdcacheWarning) as warned:
            data = load(tmp_path)
        assert [str(one.message) for one in warned] == [
            "2 of 3 classes have a single training image, so the validation split has none of"
            " them: ant, cat"
        ]
        assert np.bincount(data.splits["validation"].labels, minlength=3).tolist() == [0, 1, 0]

    def test_two_are_enough(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(write_folder(tmp_path, {"ant": 2, "bee": 2}))


def test_the_first_image_that_differs_is_named(tmp_path: Path, capsys: Capture) -> None:
    """`refused` wants one line, and exit code 2."""
    root = write_folder(tmp_path / "images", {"a": 5, "b": 5})
    teacher = ["--teacher", "tiny_models:tiny_teacher", "--image-size", 8]
    cache = tmp_path / "t.h5"
    phase_one = ["--dataset", "folder", "--data", root, *teacher, "--cache", cache]
    assert run(precompute_teacher.main, *phase_one) == 0
    save_png(root / "test" / "b" / "002.png", coded(1, 99))
    message = refused(main, capsys, "verify", cache, "--live", 5, "--data", root)
    changed = root / "test" / "b" / "002.png"
    assert f"1 other images or labels, the first in test row 7 ({changed})" in message

"""Reading, splitting and digesting the images, on files that the tests write themselves."""

import hashlib
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from coded_images import coded, numbers, save_png, write_folder
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets

from kdcache.config import PrecomputeOptions
from kdcache.data.datasets import load_images, load_selected_images
from kdcache.data.splits import ImageData, Split, evenly_spread_rows, validation_rows
from kdcache.errors import DataError, OptionError

LABELS = st.lists(st.integers(0, 4), max_size=60).map(np.array)


def load_folder(root: Path, **arguments: int) -> ImageData:
    return load_images("folder", root, **arguments)


class TestFolder:
    def test_rows_come_in_the_order_of_class_and_file_names(self, tmp_path: Path) -> None:
        data = load_folder(write_folder(tmp_path, {"cat": 10, "ant": 5, "bee": 5}))
        assert (data.name, data.class_names, data.image_shape) == (
            "folder",
            ("ant", "bee", "cat"),
            (6, 6),
        )
        held_back = numbers(data.splits["validation"])
        every = [
            (label, number) for label, count in enumerate((5, 5, 10)) for number in range(count)
        ]
        assert Counter(label for label, _ in held_back) == {0: 1, 1: 1, 2: 2}
        assert numbers(data.splits["train"]) == [row for row in every if row not in held_back]
        assert held_back == sorted(held_back)
        assert numbers(data.splits["test"]) == [(label, number + 100) for label, number in every]

    def test_pixels_and_types_are_those_of_the_file(self, tmp_path: Path) -> None:
        data = load_folder(write_folder(tmp_path, {"a": 2, "b": 2}))
        test = data.splits["test"]
        assert test.images.dtype == torch.uint8 and test.labels.dtype == torch.int64
        assert torch.equal(
            test.images[3], torch.from_numpy(coded(1, 101).transpose(2, 0, 1).copy())
        )

    def test_files_are_sorted_by_name_not_by_number(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 2, "b": 2}, ("train",))
        for name, number in (("img10", 10), ("img2", 2), ("img1", 1)):
            save_png(tmp_path / "test" / "a" / f"{name}.png", coded(0, number))
        save_png(tmp_path / "test" / "b" / "x.png", coded(1, 0))
        assert numbers(load_folder(tmp_path).splits["test"]) == [(0, 1), (0, 10), (0, 2), (1, 0)]

    def test_hidden_files_and_folders_are_passed_over(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 3, "b": 3})
        (tmp_path / "train" / ".cache").mkdir()
        (tmp_path / "train" / "a" / ".DS_Store").write_text("x")
        (tmp_path / "train" / "README").write_text("no class")
        assert load_folder(tmp_path).class_names == ("a", "b")

    def test_val_stands_in_for_test(self, tmp_path: Path) -> None:
        data = load_folder(write_folder(tmp_path, {"a": 3, "b": 2}, ("train", "val")))
        assert numbers(data.splits["test"]) == [(0, 100), (0, 101), (0, 102), (1, 100), (1, 101)]

    @pytest.mark.parametrize("name", ["validation", "val"])
    def test_a_validation_split_that_is_given_is_taken(self, name: str, tmp_path: Path) -> None:
        data = load_folder(write_folder(tmp_path, {"a": 2, "b": 1}, ("train", "test", name)))
        found = {split: numbers(part) for split, part in data.splits.items()}
        assert found == {
            "train": [(0, 0), (0, 1), (1, 0)],
            "validation": [(0, 200), (0, 201), (1, 200)],
            "test": [(0, 100), (0, 101), (1, 100)],
        }
        assert list(found) == ["train", "validation", "test"] and data.split_seed is None
        for split, part in data.splits.items():
            where = tmp_path / (name if split == "validation" else split)
            assert part.files == [
                str(where / path) for path in ("a/000.png", "a/001.png", "b/000.png")
            ]
        limited = load_folder(tmp_path, limit=2).splits
        assert {split: numbers(part) for split, part in limited.items()} == {
            split: [(0, first), (1, first)]
            for split, first in (("train", 0), ("validation", 200), ("test", 100))
        }

    def test_images_without_a_label_are_the_last_of_the_training_split(
        self, tmp_path: Path
    ) -> None:
        write_folder(tmp_path, {"a": 5, "b": 5})
        names = ["deep/er/y.png", "v.png", "w.png", "x.png", "z.png"]
        for number, name in enumerate(names):
            save_png(tmp_path / "unlabelled" / name, coded(0, 250 + number))
        (tmp_path / "unlabelled" / "notes.txt").write_text("no image")
        data = load_folder(tmp_path)
        train = data.splits["train"]
        assert train.labels.tolist() == [0] * 4 + [1] * 4 + [-1] * 5
        assert (train.labelled, train.unlabelled) == (8, 5)
        assert train.images[8:, 1, 0, 0].tolist() == [250, 251, 252, 253, 254]
        assert train.files[8:] == [str(tmp_path / "unlabelled" / name) for name in names]
        assert [data.splits[split].unlabelled for split in ("validation", "test")] == [0, 0]
        assert train.spread(3).tolist() == [0, 1, 4, 8, 9, 10, 11, 12]
        assert train.spread(None).tolist() == list(range(13))
        limited = load_folder(tmp_path, limit=4).splits["train"]
        assert limited.labels.tolist() == [0, 1, -1, -1, -1, -1]
        assert limited.images[2:, 1, 0, 0].tolist() == [250, 251, 252, 253]

    def test_a_folder_of_them_without_any_is_refused(self, tmp_path: Path) -> None:
        (write_folder(tmp_path, {"a": 2}) / "unlabelled").mkdir()
        with pytest.raises(DataError, match=f"found no image in {tmp_path}/unlabelled; give"):
            load_folder(tmp_path)

    def test_a_validation_split_that_is_given_has_no_seed(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 2}, ("train", "test", "val"))
        with pytest.raises(OptionError) as error:
            load_folder(tmp_path, split_seed=3)
        assert str(error.value) == (
            f"expected no --split-seed, because the validation images in {tmp_path} are given;"
            " found --split-seed 3; omit it, or remove them"
        )

    def test_limit_is_spread_evenly_over_the_classes(self, tmp_path: Path) -> None:
        data = load_folder(write_folder(tmp_path, {"a": 9, "b": 2, "c": 5}), limit=8)
        first_in_turn = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
        assert numbers(data.splits["test"]) == [
            (label, number + 100) for label, number in first_in_turn
        ]
        assert (
            sorted(numbers(data.splits["train"]) + numbers(data.splits["validation"]))
            == first_in_turn
        )

    def test_grey_images_become_rgb(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 2, "b": 2})
        save_png(tmp_path / "test" / "a" / "000.png", np.full((6, 6), 9))
        assert load_folder(tmp_path).splits["test"].images[0].unique().tolist() == [9]

    def test_mixed_sizes_are_resized_and_cropped_as_by_hand(self, tmp_path: Path) -> None:
        # Wide: 4 x 10 at store size 4 is not resized; the centre square begins in column (10 - 4)
        # // 2 = 3. Tall: 12 x 4 stays as it is too and begins in row 4. Double: 8 x 8 halves to 4 x
        # 4; its columns of one colour stay so, and blue 0..7 falls to the mean under the triangle
        # of radius 2: at 0.5, 2.5, 4.5 and 6.5 in the middle, but at the border the triangle lacks
        # its outer part: (0 * 3/4 + 1 * 3/4 + 2 * 1/4) / (7/4) = 5/7, which rounds to 1, and
        # mirrored 7 - 5/7, which rounds to 6.
        write_folder(tmp_path, {"a": 2, "b": 2}, ("train",))
        tall = np.zeros((12, 4, 3), np.uint8)
        tall[..., 1] = np.arange(12)[:, None]
        for name, pixels in (
            ("wide", coded(0, 5, 4, 10)),
            ("tall", tall),
            ("double", coded(0, 7, 8, 8)),
        ):
            save_png(tmp_path / "test" / "a" / f"{name}.png", pixels)
        save_png(tmp_path / "test" / "b" / "x.png", coded(1, 0, 4, 4))
        data = load_folder(tmp_path, store_size=4)
        double, tall_image, wide, as_it_is = data.splits["test"].images
        assert data.image_shape == (4, 4)
        assert wide[2].tolist() == [[3, 4, 5, 6]] * 4
        assert tall_image[1].tolist() == [[row] * 4 for row in (4, 5, 6, 7)]
        assert double[1].unique().tolist() == [7]
        assert (
            double[2, 0, 0] == 1
            and double[2, 0, 3] == 6
            and double[2, 0, 1] in (2, 3)
            and double[2, 0, 2] in (4, 5)
        )
        assert as_it_is[2].tolist() == [[0, 1, 2, 3]] * 4

    def test_the_splits_are_slices_of_one_array(self, tmp_path: Path) -> None:
        splits = load_folder(write_folder(tmp_path, {"a": 6, "b": 6})).splits
        first = splits["train"].images.untyped_storage().data_ptr()
        places = [
            (part.images.untyped_storage().data_ptr() - first, part.images.storage_offset())
            for part in splits.values()
        ]
        assert places == [(0, 0), (0, 10 * 108), (0, 12 * 108)]  # an image has 3 * 6 * 6 bytes
        assert all(part.images.is_contiguous() for part in splits.values())
        assert splits["train"].images.untyped_storage().nbytes() == 24 * 108
        assert (
            splits["test"].labels.untyped_storage().nbytes() == 12 * 8
        )  # and a run that keeps them keeps only those

    def test_one_size_is_kept_whatever_the_store_size(self, tmp_path: Path) -> None:
        assert load_folder(write_folder(tmp_path, {"a": 2, "b": 2}), store_size=3).image_shape == (
            6,
            6,
        )


def remove(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for file in sorted((root / path).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (root / path).rmdir()

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            remove("train"),
            "expected a folder {root}/train with one folder a class; found no such folder;"
            " correct --data",
        ),
        (
            remove("test"),
            "expected a folder {root}/test with one folder a class; found no such folder;"
            " correct --data",
        ),
        (
            lambda root: (root / "train" / "c").mkdir(),
            "expected images in {root}/train/c; found none; add images or remove the folder",
        ),
        (
            lambda root: [shutil.rmtree(root / "train" / name) for name in "ab"],
            "expected a class folder in {root}/train; found none; correct --data,"
            " or put the images into a folder in it",
        ),
        (
            remove("test/a"),
            "expected the same class folders in {root}/train and {root}/test;"
            " found only in one of them: a;"
            " add or remove the class folders",
        ),
        (
            lambda root: save_png(root / "validation" / "a" / "0.png", coded(0, 0)),
            "expected the same class folders in {root}/train and {root}/validation;"
            " found only in one of them: b;"
            " add or remove the class folders",
        ),
        (
            lambda root: [(root / name).mkdir() for name in ("validation", "val")],
            "expected one folder of validation images; found {root}/validation and {root}/val;"
            " remove one of them",
        ),
    ],
    ids=[
        "no training folder",
        "no test folder",
        "empty class",
        "no class",
        "class in one split",
        "class in no validation split",
        "two validation splits",
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, {"a": 2, "b": 2})
    if message.endswith("one of them: a; add or remove the class folders"):
        write_folder(tmp_path, {"a": 2, "b": 2, "c": 2})
    spoil(tmp_path)
    with pytest.raises(DataError) as error:
        load_folder(tmp_path)
    assert str(error.value) == message.format(root=tmp_path)


def truncated_png(root: Path) -> bytes:
    return (root / "train" / "a" / "000.png").read_bytes()[
        :45
    ]  # signature 8, header 25, and 12 bytes of the pixels


@pytest.mark.parametrize(
    "content",
    [lambda root: b"", lambda root: b"not an image", truncated_png],
    ids=["empty", "text", "torn"],
)
def test_a_file_that_is_no_image_is_named(content: Callable[[Path], bytes], tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3})
    bad = tmp_path / "train" / "b" / "001.png"
    bad.write_bytes(content(tmp_path))
    with pytest.raises(DataError) as error:
        load_folder(tmp_path)
    assert str(error.value).startswith(f"expected an image that Pillow reads; found {bad} (")
    assert str(error.value).endswith("; replace or remove the file")


def test_too_few_images_are_refused_before_any_pixel_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "train" / "b" / "000.png").write_bytes(truncated_png(tmp_path))
    with pytest.raises(DataError, match="at least two training images of some class"):
        load_folder(tmp_path)


@pytest.mark.parametrize(("counts", "limit"), [({"a": 1, "b": 1}, None), ({"a": 5, "b": 5}, 2)])
def test_too_few_images_to_split(counts: dict[str, int], limit: int | None, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_images("folder", write_folder(tmp_path, counts), limit=limit)
    assert str(error.value) == (
        "expected at least two training images of some class and one test image;"
        " found 2 training and 2 test images in 2 classes; give more images or a larger --limit"
    )


class TestSplitting:
    def test_evenly_spread_rows_by_hand(self) -> None:
        labels = np.array([2, 0, 0, 1, 0, 2, 1, 0])
        # first of each class: rows 1, 3, 0; second: 2, 6, 5; then only class 0 is left: 4, 7
        assert evenly_spread_rows(labels, 3).tolist() == [0, 1, 3]
        assert evenly_spread_rows(labels, 5).tolist() == [0, 1, 2, 3, 6]
        assert evenly_spread_rows(labels, 7).tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert evenly_spread_rows(labels, None).tolist() == list(range(8))

    @given(LABELS, st.integers(1, 80))
    def test_evenly_spread_rows_take_the_first_of_each_class(
        self, labels: np.ndarray, limit: int
    ) -> None:
        rows = evenly_spread_rows(labels, limit)
        assert len(rows) == min(limit, len(labels)) and (np.diff(rows) > 0).all()
        taken, there = Counter(labels[rows].tolist()), Counter(labels.tolist())
        for label, count in there.items():
            assert (
                rows[labels[rows] == label].tolist()
                == np.flatnonzero(labels == label)[: taken[label]].tolist()
            )
            # a class has fewer than another by more than one only where it has no more
            assert taken[label] >= min(count, max(taken.values()) - 1)

    @given(LABELS, st.integers(0, 1000))
    def test_a_fifth_of_each_class_is_held_back(self, labels: np.ndarray, seed: int) -> None:
        rows = validation_rows(labels, seed)
        assert len(set(rows.tolist())) == len(rows) and (np.diff(rows) > 0).all()
        held, there = Counter(labels[rows].tolist()), Counter(labels.tolist())
        for label, count in there.items():
            assert held[label] == (0 if count < 2 else max(1, round(count / 5)))

    def test_the_validation_split_depends_on_its_seed_only(self) -> None:
        labels = np.repeat(np.arange(4), 25)
        one, again, other = (
            validation_rows(labels, 0),
            validation_rows(labels, 0),
            validation_rows(labels, 1),
        )
        assert (one == again).all() and (one != other).any()

    def test_splits_are_disjoint_and_split_seed_moves_them(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path, {"a": 10, "b": 20})
        parts = [load_folder(root, split_seed=seed).splits for seed in (0, 1)]
        for splits in parts:
            train, held = numbers(splits["train"]), numbers(splits["validation"])
            assert Counter(label for label, _ in held) == {0: 2, 1: 4}
            assert sorted(train + held) == [(0, n) for n in range(10)] + [(1, n) for n in range(20)]
        assert numbers(parts[0]["validation"]) != numbers(parts[1]["validation"])
        assert numbers(parts[0]["test"]) == numbers(parts[1]["test"])


def python2_pickle(entry: dict[str, object]) -> bytes:
    """As Python 2 and its NumPy pickled the originals: protocol 2, byte strings, `numpy.core`."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def packed(value: object) -> bytes:
        if isinstance(value, str):
            return text(value.encode())
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(packed(item) for item in value) + b"e"
        new = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
            + text(b"b")
            + b"\x87R"
        )
        unset = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        byte = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + unset
        shape = b"".join(packed(side) for side in value.shape) + b"\x86"
        return new + b"(K\x01" + shape + byte + b"\x89" + text(value.tobytes()) + b"tb"

    return (
        b"\x80\x02}("
        + b"".join(packed(key) + packed(value) for key, value in entry.items())
        + b"u."
    )


def cifar_rows(count: int, first: int) -> np.ndarray:
    """Rows of 3072 bytes, all red, then green, then blue; a pixel depends on its row and place."""
    row, place = np.arange(first, first + count)[:, None], np.arange(3072)
    return ((row * 37 + place * 3 + place // 1024) % 256).astype(np.uint8)


def write_cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's files, a few images each, and their checksums in the place of torchvision's."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)

    def write(file: str, entry: dict[str, object]) -> list[str]:
        (folder / file).write_bytes(python2_pickle(entry))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    lists = {"train_list": [], "test_list": []}
    first = 0
    for which, checksums in lists.items():
        for file, _ in getattr(kind, which):
            rows = range(first, first + 20)
            labels = {"labels": [row % 10 for row in rows]}
            if name == "cifar100":
                labels = {
                    "fine_labels": [90 + row % 10 for row in rows],
                    "coarse_labels": [row % 20 for row in rows],
                }
            files = {"filenames": [f"{row}.png" for row in rows], "batch_label": file}
            checksums.append(write(file, {"data": cifar_rows(20, first)} | labels | files))
            first += 20
    names = [f"name {number}" for number in range(10 if name == "cifar10" else 100)]
    meta = {kind.meta["key"]: names} | (
        {"coarse_label_names": ["x"]} if name == "cifar100" else {"num_vis": 3072}
    )
    _, md5 = write(kind.meta["filename"], meta)
    for which, checksums in lists.items():
        monkeypatch.setattr(kind, which, checksums)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


@pytest.mark.usefixtures("no_network")
class TestCifar:
    @pytest.mark.parametrize(
        ("name", "classes", "train_count", "first"),
        [("cifar10", 10, 100, 0), ("cifar100", 100, 20, 90)],
    )
    def test_original_files_are_read(
        self,
        name: str,
        classes: int,
        train_count: int,
        first: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write_cifar(tmp_path, name, monkeypatch)
        data = load_images(name, tmp_path)
        assert data.class_names == tuple(f"name {number}" for number in range(classes))
        assert data.image_shape == (32, 32)
        test = data.splits["test"]
        assert test.labels.tolist() == [first + row % 10 for row in range(20)]
        assert (test.images.numpy() == cifar_rows(20, train_count).reshape(20, 3, 32, 32)).all()

    def test_training_rows_keep_their_order_and_labels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_cifar(tmp_path, "cifar10", monkeypatch)
        splits = load_images("cifar10", tmp_path).splits
        held = validation_rows(np.arange(100) % 10, 0)
        for part, rows in (("validation", held), ("train", np.setdiff1d(np.arange(100), held))):
            assert splits[part].labels.tolist() == (rows % 10).tolist()
            assert (
                splits[part].images.numpy() == cifar_rows(100, 0).reshape(100, 3, 32, 32)[rows]
            ).all()

    def test_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_cifar(tmp_path, "cifar10", monkeypatch)
        splits = load_images("cifar10", tmp_path, limit=20).splits
        assert Counter(splits["train"].labels.tolist()) == dict.fromkeys(range(10), 1)
        assert Counter(splits["validation"].labels.tolist()) == dict.fromkeys(range(10), 1)
        assert len(splits["test"]) == 20

    @pytest.mark.parametrize("damage", ["missing", "checksum", "meta"])
    def test_files_that_are_missing_or_damaged_need_a_network(
        self, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if damage != "missing":
            write_cifar(tmp_path, "cifar10", monkeypatch)
            file = (
                tmp_path
                / "cifar-10-batches-py"
                / ("batches.meta" if damage == "meta" else "data_batch_3")
            )
            file.write_bytes(file.read_bytes() + b" ")
        with pytest.raises(DataError) as error:
            load_images("cifar10", tmp_path)
        assert str(error.value).startswith(
            f"expected cifar10's original files in {tmp_path}, or a network to download them;"
            " found neither ("
        )
        assert str(error.value).endswith(
            f"; unpack cifar-10-python.tar.gz into {tmp_path} or give another --data"
        )


class TestDigest:
    SPLIT = Split(
        torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2), torch.tensor([4, 300])
    )

    def test_row_checksums_are_zlibs_over_pixels_and_label(self) -> None:
        first, second = (
            bytes(range(12)) + struct.pack("<q", 4),
            bytes(range(12, 24)) + struct.pack("<q", 300),
        )
        assert self.SPLIT.row_checksums().tolist() == [zlib.crc32(first), zlib.crc32(second)]
        assert self.SPLIT.row_checksums().dtype == np.uint32

    def test_row_checksums_follow_a_selection(self) -> None:
        assert (
            self.SPLIT.select(np.array([1, 0])).row_checksums() == self.SPLIT.row_checksums()[::-1]
        ).all()

    def test_digest_is_the_sha256_of_shape_pixels_and_labels(self) -> None:
        raw = b"(2, 3, 2, 2)" + bytes(range(24)) + struct.pack("<qq", 4, 300)
        assert self.SPLIT.digest() == hashlib.sha256(raw).hexdigest()

    @given(st.integers(0, 23), st.integers(1, 255))
    def test_any_pixel_changes_the_digest_and_its_rows_checksum(
        self, place: int, change: int
    ) -> None:
        images = self.SPLIT.images.clone()
        images.view(-1)[place] ^= change
        changed = Split(images, self.SPLIT.labels)
        assert changed.digest() != self.SPLIT.digest()
        assert (changed.row_checksums() != self.SPLIT.row_checksums()).tolist() == [
            place < 12,
            place >= 12,
        ]

    def test_labels_order_and_shape_change_the_digest(self) -> None:
        images, labels = self.SPLIT.images, self.SPLIT.labels
        others = [
            Split(images, torch.tensor([4, 301])),
            Split(images.flip(0), labels),
            Split(images, labels.flip(0)),
            Split(images.reshape(2, 3, 4, 1), labels),
        ]
        assert len({split.digest() for split in (self.SPLIT, *others)}) == 5

    def test_a_transposed_view_has_the_digest_of_its_pixels(self) -> None:
        images = self.SPLIT.images.transpose(2, 3)
        assert (
            Split(images, self.SPLIT.labels).digest()
            == Split(images.contiguous(), self.SPLIT.labels).digest()
        )


@pytest.mark.parametrize(("name", "classes"), [("shapes", 10), ("shapes-fine", 1000)])
def test_shapes_are_drawn_up_to_the_limit(name: str, classes: int, tmp_path: Path) -> None:
    data = load_images(name, tmp_path / "never read", limit=2 * classes if classes < 100 else 1100)
    count = 20 if classes == 10 else 1100
    assert len(data.class_names) == classes and data.image_shape == (32, 32)
    assert (
        len(data.splits["train"]) + len(data.splits["validation"])
        == len(data.splits["test"])
        == count
    )
    assert not set(data.splits["train"].row_checksums()) & set(data.splits["test"].row_checksums())


class TestADatasetOfTheUsersOwn:
    def test_it_is_named_by_where_it_is_defined(self, tmp_path: Path) -> None:
        data = load_images("tiny_datasets:STRIPES", tmp_path / "none", split_seed=1)
        assert (data.name, data.class_names) == ("tiny_datasets:STRIPES", ("across", "down"))
        assert (data.image_shape, data.streamed) == ((16, 16), False)
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 32,
            "validation": 8,
            "test": 10,
        }
        for split in data.splits.values():
            across = split.labels == 0
            assert (split.images[across, :, 1] == 0).all()
            assert (split.images[across, :, 0] == 200).all()
            assert (split.images[~across, :, :, 1] == 0).all()
            assert (split.images[~across, :, :, 0] == 200).all()

    def test_the_options_take_it(self, tmp_path: Path) -> None:
        options = PrecomputeOptions(dataset="tiny_datasets:STRIPES", data=tmp_path, limit=6)
        data = load_selected_images(options)
        assert [len(split) for split in data.splits.values()] == [4, 2, 6]

    def test_rows_are_those_of_the_split_whatever_the_order(self, tmp_path: Path) -> None:
        """Image i of this dataset is of the one value i; test images count on from 100."""
        data = load_images("tiny_datasets:COUNTED", tmp_path, limit=12)
        seen = []
        for name in ("train", "validation"):
            split = data.splits[name]
            seen += split.images[:, 0, 0, 0].tolist()
            assert (split.images[:, 0, 0, 0] % 3 == split.labels).all()
        assert sorted(seen) == list(range(12))
        assert data.splits["test"].images[:, 0, 0, 0].tolist() == list(range(100, 112))

    def test_it_may_have_a_validation_split(self, tmp_path: Path) -> None:
        splits = load_images("tiny_datasets:WITH_VALIDATION", tmp_path).splits
        values = {name: split.images[:, 0, 0, 0].tolist() for name, split in splits.items()}
        assert values == {"train": [0, 1, 2], "validation": [4, 5], "test": [3]}
        assert splits["validation"].labels.tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("LABELS_OF_ANOTHER_TYPE", "int32 (40,) with [0 1]"),
            ("LABELS_OUT_OF_RANGE", "int64 (40,) with [0 2]"),
        ],
    )
    def test_labels_that_cannot_be_are_refused(self, name: str, found: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            load_images(f"tiny_datasets:{name}", tmp_path)
        assert str(error.value) == (
            f"expected --dataset tiny_datasets:{name} to have labels int64 (N,) of 0 to 1;"
            f" found {found}; correct its reader"
        )

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("PIXELS_IN_FLOATS", "float32 (50, 3, 16, 16)"),
            ("CHANNELS_LAST", "uint8 (50, 16, 16, 3)"),
            ("TOO_FEW_PIXELS", "uint8 (40, 3, 16, 16)"),
        ],
    )
    def test_pixels_that_cannot_be_are_refused(self, name: str, found: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            load_images(f"tiny_datasets:{name}", tmp_path)
        assert str(error.value) == (
            f"expected --dataset tiny_datasets:{name} to read pixels uint8 (50, 3, height, width);"
            f" found {found}; correct its reader"
        )

    def test_a_name_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError) as error:
            load_images("tiny_models:tiny_cnn", tmp_path)
        assert str(error.value) == (
            "expected --dataset tiny_models:tiny_cnn to be a DatasetReader;"
            " found function; correct the name"
        )

    def test_an_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="found --dataset mnist; correct the name"):
            load_images("mnist", tmp_path)

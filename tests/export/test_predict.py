"""Predictions equal those of evaluation for the dataset's images; what else is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import as_older, refused, run
from PIL import Image

from kdcache.cli import main as tools
from kdcache.config import TrainOptions
from kdcache.data import image_files, read_image
from kdcache.engine.student_run import StudentRun
from kdcache.engine.training_data import load_training_data
from kdcache.errors import KdcacheError
from kdcache.export.finished_run import FinishedRun, open_run
from kdcache.export.prediction import predict

CPU = torch.device("cpu")


def write_dataset(folder: Path, size: Callable[[int], tuple[int, int]]) -> None:
    """Three classes of 10 training and 6 test images, which differ in colour and noise.

    `size` makes (width, height) from an image's number.
    """
    generator = np.random.default_rng(7)
    for split, count in (("train", 10), ("test", 6)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                width, height = size(number + label)
                pixels = generator.integers(0, 156, (height, width, 3), dtype=np.uint8)
                pixels[:, :, label] += 99
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def train(folder: Path, out: Path) -> StudentRun:
    options = TrainOptions(
        dataset="folder",
        data=folder,
        alpha=0,
        student="tiny_models:tiny_cnn",
        image_size=16,
        store_size=24,
        epochs=4,
        batch_size=8,
        out=out,
        lr=0.05,
    )
    trained = StudentRun(options, load_training_data(options))
    trained.train()
    trained.finish()
    return trained


SIZES = {
    "mixed, so resized and cropped to --store-size": lambda number: (
        20 + 3 * (number % 4),
        31 - 2 * (number % 5),
    ),
    "all square": lambda number: (20, 20),
    "all alike and not square": lambda number: (26, 18),
}


@pytest.fixture(scope="module", params=SIZES, ids=str)
def evaluated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> StudentRun:
    folder = tmp_path_factory.mktemp("predict")
    write_dataset(folder / "images", SIZES[request.param])
    return train(folder / "images", folder / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 20 x 20 pixels, with the images beside it."""
    folder = tmp_path_factory.mktemp("finished")
    write_dataset(folder / "images", SIZES["all square"])
    train(folder / "images", folder / "run")
    return folder / "run"


def predictions(found: FinishedRun, paths: list[Path], top: int = 3) -> list[dict[str, float]]:
    def fail(error: KdcacheError) -> None:
        raise error

    return [
        dict(entry.predictions)
        for entry in predict(found, paths, top=top, device=CPU, on_fault=fail)
    ]


def test_an_image_of_the_dataset_is_predicted_as_in_evaluation(evaluated: StudentRun) -> None:
    out, images = evaluated.options.out, evaluated.options.data / "test"
    found = predictions(open_run(out), image_files([images]))
    names = evaluated.images.class_names
    classes = evaluated.test.predictions.tolist()
    assert [max(entry, key=entry.get) for entry in found] == [names[k] for k in classes]
    assert len(set(classes)) > 1  # else anything would pass

    probabilities = torch.tensor([[entry[name] for name in names] for entry in found])
    expected = evaluated.test.logits.softmax(1)
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)


def test_the_command_prints_predictions_in_order(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = finished.parent / "images" / "test"
    capsys.readouterr()
    assert (
        run(tools.main, "predict", finished, images / "cat" / "5.png", images / "ant", "--top", 2)
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        str(images / "cat" / "5.png"),
        *(str(images / "ant" / f"{number}.png") for number in range(6)),
    ]
    assert all(line.count("%") == 2 for line in lines)
    assert (
        run(tools.main, "predict", finished, images / "cat" / "5.png", "--json", "--top", 99) == 0
    )
    entry = json.loads(capsys.readouterr().out)
    shares = [one["probability"] for one in entry["predictions"]]
    assert (
        len(shares) == 3
        and sum(shares) == pytest.approx(1)
        and shares == sorted(shares, reverse=True)
    )
    assert f"{entry['predictions'][0]['class']} {shares[0]:.1%}" in lines[0]


def test_batches_do_not_matter(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = image_files([finished.parent / "images" / "test"])
    together = predictions(open_run(finished), paths)
    monkeypatch.setattr("kdcache.export.prediction._BATCH", 4)
    apart = predictions(open_run(finished), paths)
    assert apart == [pytest.approx(entry, rel=1e-5) for entry in together]


def test_a_broken_file_is_named_and_the_others_are_predicted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (finished.parent / "images" / "test" / "bee" / "0.png").read_bytes()
    contents = {
        "a.png": whole,
        "b.png": b"",
        "c.png": whole[:300],
        "d.jpg": b"nonsense",
        "e.png": whole,
        "f.txt": b"words",
    }
    for name, raw in contents.items():
        (tmp_path / name).write_bytes(raw)
    capsys.readouterr()
    assert run(tools.main, "predict", finished, tmp_path) == 1
    captured = capsys.readouterr()
    assert [Path(line.split(":")[0]).name for line in captured.out.splitlines()] == [
        "a.png",
        "e.png",
    ]
    faults = captured.err.splitlines()
    assert len(faults) == 3 and all(
        line.startswith("error: expected an image that Pillow reads") for line in faults
    )
    assert [name for name in contents if any(name in line for line in faults)] == [
        "b.png",
        "c.png",
        "d.jpg",
    ]
    assert "Traceback" not in captured.err


def test_a_decoder_may_raise_anything(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("Failed to decode image")  # as Pillow's AVIF does

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(KdcacheError, match="Failed to decode image"):
        read_image(finished.parent / "images" / "test" / "bee" / "0.png", (20, 20))


def test_only_broken_files(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"nonsense")
    assert "a.png" in refused(tools.main, capsys, "predict", finished, tmp_path, code=1)


def test_an_older_run_is_taken_at_its_input_size_and_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    card = as_older(old / "student.json")
    del card["image_shape"]
    (old / "student.json").write_text(json.dumps(card))
    paths = image_files([finished.parent / "images" / "test" / "cat"])
    found = predictions(open_run(old), paths)
    assert all(sum(entry.values()) == pytest.approx(1) for entry in found)
    assert run(tools.main, "predict", old, paths[0]) == 0
    assert "does not record its images' size" in capsys.readouterr().err


def test_a_name_that_no_terminal_should_see(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"new\nline \x1b[31m\xff.png")
    (tmp_path / name).write_bytes(
        (finished.parent / "images" / "test" / "bee" / "0.png").read_bytes()
    )
    capsys.readouterr()
    assert run(tools.main, "predict", finished, tmp_path) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert run(tools.main, "predict", finished, tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["image"] == str(tmp_path / name)


class TestFiles:
    def test_folders_in_order_without_what_is_hidden(self, tmp_path: Path) -> None:
        names = [
            "b/2.PNG",
            "b/10.png",
            "a/c/x.webp",
            "a/x.jpeg",
            ".hidden/x.png",
            "b/.x.png",
            "b/notes.txt",
            "z.bmp",
        ]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        found = [str(path.relative_to(tmp_path)) for path in image_files([tmp_path])]
        assert found == ["a/c/x.webp", "a/x.jpeg", "b/10.png", "b/2.PNG", "z.bmp"]
        assert image_files([tmp_path / "b" / "notes.txt"]) == [
            tmp_path / "b" / "notes.txt"
        ]  # named, so meant

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
    def test_modes_of_colour(self, mode: str, tmp_path: Path) -> None:
        Image.new(mode, (9, 7)).save(tmp_path / "image.tiff")
        assert read_image(tmp_path / "image.tiff", (7, 9)).shape == (3, 7, 9)

    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (12, 8), (8, 12), (13, 29)])
    def test_any_size_becomes_the_datasets(self, size: tuple[int, int], tmp_path: Path) -> None:
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "image.png")
        image = read_image(tmp_path / "image.png", (8, 12))
        assert image.shape == (3, 8, 12) and image.dtype == torch.uint8
        assert all((image[channel] == value).all() for channel, value in enumerate((10, 200, 30)))

    def test_the_centre_is_kept(self, tmp_path: Path) -> None:
        pixels = np.zeros((10, 30, 3), np.uint8)
        pixels[:, 10:20] = 255
        Image.fromarray(pixels).save(tmp_path / "image.png")
        assert (read_image(tmp_path / "image.png", (10, 10)) == 255).all()


class TestBadInput:
    """Each: one line, exit code 2."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{run}", "{run}/nowhere"], "nowhere, which is neither; correct the path"),
            (["{run}", "{empty}"], "expected image files or folders of them; found no image in"),
            (["{run}"], "the following arguments are required: IMAGE_OR_FOLDER"),
            (["{empty}", "{image}"], "expected the folder of a finished run; found"),
            (["{image}", "{image}"], "expected the folder of a finished run; found"),
            (["{run}", "{image}", "--top", "0"], "expected --top to be at least 1; found --top 0"),
            (["{run}", "{image}", "--top", "x"], "argument --top: invalid int value: 'x'"),
            (["{run}", "{image}", "--device", "gpu9"], "expected a device that torch can use here"),
        ],
    )
    def test_arguments(
        self,
        arguments: list[str],
        message: str,
        finished: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        places = {
            "run": finished,
            "empty": tmp_path,
            "image": finished.parent / "images" / "test" / "ant" / "0.png",
        }
        given = [argument.format_map(places) for argument in arguments]
        assert message in refused(tools.main, capsys, "predict", *given)

"""A student leaves: every format against the student, the facts beside it, what is refused."""

import copy
import dataclasses
import errno
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import as_older, refused, run
from PIL import Image
from torch import Tensor, nn

import train_student
from kdcache.cli import main as tools
from kdcache.config import TrainOptions
from kdcache.errors import KdcacheError
from kdcache.export.exporter import DisagreementError, export_student
from kdcache.export.finished_run import open_run
from kdcache.export.format_writers import PT2
from kdcache.export.formats import FORMATS, Format
from kdcache.export.model_card import model_card
from kdcache.models import Preprocessing, StudentCard
from kdcache.runs.records import RunConfig, RunSummary, TeacherScores

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
SHAPES = ["--dataset", "shapes", "--limit", 100, "--alpha", 0]
PACKAGES = {name: FORMATS.load(name).packages for name in FORMATS}
HERE = [
    name
    for name, packages in PACKAGES.items()
    if all(importlib.util.find_spec(package) for package in packages)
]
each_format = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(name not in HERE, reason=f"needs {', '.join(PACKAGES[name])}"),
        )
        for name in FORMATS
    ],
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student is a callable with another number of outputs than classes."""
    out = tmp_path_factory.mktemp("trained") / "my run"
    student = [
        "--student",
        "tiny_models:tiny_teacher",
        "--image-size",
        16,
        "--epochs",
        1,
        "--batch-size",
        32,
    ]
    assert run(train_student.main, *SHAPES, *student, "--out", out) == 0
    return out


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_code_block_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands export and predict; then the documented code says the same without kdcache."""
    monkeypatch.chdir(tmp_path)
    student = [
        "--student",
        "squeezenet1_1",
        "--student-weights",
        "none",
        "--image-size",
        32,
        "--epochs",
        1,
        "--lr",
        0.01,
    ]
    assert run(train_student.main, *SHAPES, *student, "--out", "runs/student") == 0
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((90, 61)).save("photo.png")
    os.rename("photo.png", "photo.jpg")  # no matter what it is called, nothing is lost
    (commands,) = (text for kind, text in BLOCKS if kind == "sh")
    lines = commands.splitlines()
    assert {line.split()[-1] for line in lines if " export " in line} == set(FORMATS)
    capsys.readouterr()
    for line in lines:
        if " export " not in line or line.split()[-1] in HERE:
            assert run(tools.main, *shlex.split(line)[1:]) == 0
    said = capsys.readouterr().out
    assert said.count("checked on 64 images of the test split in batches of 1 and 63") == len(HERE)
    assert run(tools.main, "predict", "runs/student", "photo.jpg", "--top", 1, "--json") == 0
    (best,) = json.loads(capsys.readouterr().out)["predictions"]

    documented = [text for kind, text in BLOCKS if kind == "python"]
    wanted = [
        text
        for text in documented
        if all(f"student.{name}" not in text for name in set(FORMATS) - set(HERE))
    ]
    program = "\n".join([*wanted, "import sys", "assert 'kdcache' not in sys.modules"])
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=clean
    )
    assert finished.returncode == 0, finished.stderr
    predictions = [line.rsplit(" ", 1) for line in finished.stdout.splitlines()]
    assert [name for name, _ in predictions] == [best["class"]] * len(HERE)
    assert [float(share) for _, share in predictions] == pytest.approx(
        [best["probability"]] * len(HERE), rel=1e-3
    )


@each_format
def test_a_callable_leaves_in_every_format_and_the_facts_travel_beside_it(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "left here.bin"
    assert run(tools.main, "export", trained, "--format", name, "--to", to) == 0
    assert "checked on 64 images of the test split" in capsys.readouterr().out
    assert held(tmp_path) == {"left here.bin", "left here.bin.json", "MODEL_CARD.md"}
    facts = json.loads((tmp_path / "left here.bin.json").read_text())
    described = json.loads((trained / "student.json").read_text())
    assert facts["check"]["real_images"] and facts["check"]["agreement"] == 1
    assert [facts[key] for key in ("class_names", "image_size", "mean", "std", "image_shape")] == [
        described[key] for key in ("class_names", "image_size", "mean", "std", "image_shape")
    ]


def test_pt2_predicts_as_weights_computed_by_hand(trained: Path, tmp_path: Path) -> None:
    """The student's layers, written out with torch.nn.functional from student.pt."""
    assert run(tools.main, "export", trained, "--format", "pt2", "--to", tmp_path / "s.pt2") == 0
    state = torch.load(trained / "student.pt", weights_only=True)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    functional = nn.functional
    with torch.no_grad():
        hidden = functional.conv2d(images, state["0.weight"], state["0.bias"], stride=2, padding=1)
        normal = (
            state["1.running_mean"],
            state["1.running_var"],
            state["1.weight"],
            state["1.bias"],
        )
        hidden = functional.adaptive_avg_pool2d(
            functional.batch_norm(hidden, *normal).relu(), 4
        ).flatten(1)
        expected = functional.linear(hidden, state["5.weight"], state["5.bias"])
        found = torch.export.load(tmp_path / "s.pt2").module()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_no_image_of_the_dataset_leaves_with_the_student(trained: Path, tmp_path: Path) -> None:
    assert run(tools.main, "export", trained, "--format", "pt2", "--to", tmp_path / "s.pt2") == 0
    largest = 4 * 2 * 3 * 16 * 16  # an example of two inputs
    assert (tmp_path / "s.pt2").stat().st_size < (
        trained / "student.pt"
    ).stat().st_size + 4 * largest + 40_000
    assert str(ROOT).encode() not in (tmp_path / "s.pt2").read_bytes()


def test_images_that_are_not_at_hand_are_not_pretended(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "summary.json"):  # as in an older run, where edits are not noticed
        document = as_older(folder / name)
        document.pop("config_digest", None)
        text = json.dumps(document)
        (folder / name).write_text(text.replace('"shapes"', '"cifar10"'))
    assert run(tools.main, "export", folder, "--format", "pt2") == 0
    assert "64 random inputs only, no real images" in capsys.readouterr().out
    assert json.loads((folder / "student.pt2.json").read_text())["check"]["real_images"] is False
    arguments = ["export", folder, "--format", "pt2", "--overwrite", "--data", folder]
    assert "expected the images of cifar10 in" in refused(tools.main, capsys, *arguments)


def write_other_weights(student: nn.Module, example: Tensor, facts: str) -> bytes:
    other = copy.deepcopy(student)
    with torch.no_grad():
        other[5].bias[3] += 0.01
    return PT2.write(other, example, facts)


def read_single_images_only(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    """Predicts otherwise for a batch of more than one."""
    exported = PT2.read(raw, student)
    return lambda images: exported(images) + (1 if len(images) > 1 else 0)


def read_one_size(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    def fail(images: Tensor) -> Tensor:
        raise RuntimeError("only batches of 2\nand a long explanation")

    return fail


def read_half_the_classes(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    exported = PT2.read(raw, student)
    return lambda images: exported(images)[:, :5]


# formats of one's own, named test_export:OTHER_WEIGHTS and so on
OTHER_WEIGHTS = Format("other", (), write_other_weights, PT2.read)
SINGLE_IMAGES = Format("single", (), PT2.write, read_single_images_only)
ONE_SIZE = Format("one", (), PT2.write, read_one_size)
AGAIN = Format("again", (), PT2.write, PT2.read)
HALF = Format("half", (), PT2.write, read_half_the_classes)


class TestDisagreement:
    """What does not predict as the student does gets no name."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, folder: Path) -> Iterator[None]:
        before = held(folder)
        yield
        assert held(folder) == before

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("OTHER_WEIGHTS", "predicts as the student does; found checked on 64 images"),
            ("OTHER_WEIGHTS", "largest difference of logits 0.01 "),
            ("SINGLE_IMAGES", "largest difference of logits 1 "),
            ("ONE_SIZE", "that runs in batches of 1 and 63; found only batches of 2; nothing was"),
            ("HALF", "that returns logits (64, 10); found (64, 5); nothing was written"),
        ],
    )
    def test_a_format_that_changes_the_student(
        self, name: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["export", folder, "--format", f"test_export:{name}"]
        assert message in refused(tools.main, capsys, *arguments, code=1)

    def test_it_is_an_error_like_all_others(self, folder: Path) -> None:
        with pytest.raises(KdcacheError) as caught:
            export_student(open_run(folder), "test_export:HALF")
        assert isinstance(caught.value, DisagreementError)
        assert caught.value.expected and caught.value.found and caught.value.remedy

    def test_a_model_that_knows_one_size_of_batch(
        self, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        student = dataclasses.replace(open_run(folder), module=Branching().eval())
        message = "expected a student that exports as pt2 with batches of any size; found Constr"
        with pytest.raises(KdcacheError, match=message):
            export_student(student, "pt2")
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")  # the exporter's own words are not shown

    def test_a_full_disk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        said = refused(tools.main, capsys, "export", folder, "--format", "pt2")
        assert "No space left on device" in said


class Branching(nn.Module):
    """Predicts otherwise for a batch of two, which is the size that exporters are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3))) + (1 if len(images) == 2 else 0)


SUMMARY = RunSummary(name="run", student="resnet18", alpha=0, validation_accuracy=0.75)
STUDENT = StudentCard(Preprocessing(8, (0, 0, 0), (1, 1, 1), ("a", "b")), "resnet18")


class TestModelCard:
    def test_it_repeats_what_the_run_recorded(self, trained: Path, tmp_path: Path) -> None:
        assert run(tools.main, "export", trained, "--format", "pt2", "--to", tmp_path / "s") == 0
        card, summary = (
            (tmp_path / "MODEL_CARD.md").read_text(),
            json.loads((trained / "summary.json").read_text()),
        )
        command = json.loads((trained / "config.json").read_text())["command"]
        recorded = [
            "tiny_models:tiny_teacher for shapes",
            "circle, ring, square",
            command,
            summary["test_digest"],
        ]
        recorded += [
            f"| student | {100 * summary['validation_accuracy']:.2f}"
            f" | {100 * summary['test_accuracy']:.2f} |"
        ]
        assert [text for text in recorded if text not in card] == []
        assert (
            "trained on labels only" in card
            and "on a part of the dataset" in card
            and "Licences" in card
        )

    def test_a_second_format_keeps_it_and_another_students_card_stays(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("pt2", "test_export:AGAIN"):
            assert (
                run(tools.main, "export", trained, "--format", name, "--to", tmp_path / name[:4])
                == 0
            )
        (tmp_path / "MODEL_CARD.md").write_text("my own words")
        arguments = ["export", trained, "--format", "pt2", "--to", tmp_path / "third"]
        assert "no model card of something else" in refused(tools.main, capsys, *arguments)
        assert run(tools.main, *arguments, "--overwrite") == 0
        assert "my own words" not in (tmp_path / "MODEL_CARD.md").read_text()

    def test_what_stood_in_for_labels_is_said(self) -> None:
        config = RunConfig(TrainOptions(alpha=0, train_images=4000))
        card = model_card(dataclasses.replace(SUMMARY, labels="teacher"), config, STUDENT, 7)
        assert "every accuracy here is agreement with the teacher" in card
        assert "trained on 4,000 images" in card
        config = RunConfig(TrainOptions(alpha=0))
        card = model_card(dataclasses.replace(SUMMARY, labels="dataset"), config, STUDENT, 7)
        assert "agreement with the teacher" not in card

    def test_a_distilled_student_names_its_teacher(self) -> None:
        summary = dataclasses.replace(
            SUMMARY,
            alpha=0.9,
            temperature=4.0,
            teacher=TeacherScores("vit_b_16", validation_accuracy=0.5, test_accuracy=0.25),
            fingerprint="abc123",
            views="unmatched",
            test_accuracy=0.5,
            test_images=100,
        )
        card = model_card(summary, RunConfig(TrainOptions(cache=Path("t.h5"))), STUDENT, 7)
        lines = [
            "- Teacher: vit_b_16",
            "- Cache's fingerprint: abc123",
            "- In the loss: alpha 0.9, temperature 4.0",
            "| teacher, in the student's classes | 50.00 | 25.00 |",
            "| student | 75.00 | 50.00 |",
        ]
        assert [line for line in lines if line not in card.splitlines()] == []
        assert "±9.8 points" in card  # 1.96 * sqrt(0.5 * 0.5 / 100)
        assert "The command was not recorded" in card
        assert "soft targets were the mean over the views" in card
        assert "python train_student.py --cache t.h5" in card

    def test_what_others_wrote_is_no_markup(self) -> None:
        hostile = "<img src=x onerror=alert(1)> [a](http://b) `c` *d* &lt; \x1b[31m\n# e"
        student = StudentCard(Preprocessing(32, (0, 0, 0), (1, 1, 1), (hostile, "cat|dog")), "m")
        summary = RunSummary(
            "run", hostile, 0.9, 0.5, dataset=hostile, teacher=TeacherScores(hostile, 0.5, 0.5)
        )
        options = TrainOptions(cache=Path(hostile), alpha=0.9)
        command = f"python train.py '```\n{hostile}\n````'"
        card = model_card(summary, RunConfig(options, command=command), student, 1)
        text, block, rest = re.split("\n`````(?:sh)?\n", card)
        assert hostile.split()[0] in block and "```" in block and "\n" not in block
        for part in (text, rest):
            plain = r"\<img src=x onerror=alert(1)\> \[a\](http://b) \`c\` \*d\* \&lt; \[31m # e"
            assert plain in part and not re.search(r"(?<!\\)[<`\[]", part)
        assert "\x1b" not in card and r"cat\|dog" in card

    def test_what_was_not_recorded_is_said(self) -> None:
        card = model_card(SUMMARY, RunConfig(TrainOptions(alpha=0)), STUDENT, 7)
        lines = [
            "# resnet18 for not recorded",
            "| student | 75.00 | not recorded |",
            "- Test images: not recorded",
            "- Dataset's images: not recorded",
            "- Seconds: not recorded",
            "- Epochs: not recorded, best on validation: not recorded",
        ]
        assert [line for line in lines if line not in card.splitlines()] == []
        assert "leaves in the test accuracy: not recorded." in card


def test_a_run_records_its_command(trained: Path) -> None:
    words = shlex.split(json.loads((trained / "config.json").read_text())["command"])
    assert words[:2] == ["python", "train_student.py"]
    options = TrainOptions.from_dict(json.loads((trained / "config.json").read_text())["options"])
    assert words[words.index("--out") + 1] == str(options.out)
    assert (
        "--lr" not in words and "--device" not in words
    )  # as given: the recipe's defaults are not in it


class TestBadInput:
    """Each: one line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--format", "tflite"],
                "expected --format to be one of pt2, onnx, safetensors, or package.module:name;"
                " found --format tflite",
            ),
            (["--format", "torchscript"], "one of pt2, onnx, safetensors"),
            (["--format", "test_export:NONE"], "expected an importable package.module:name"),
            ([], "the following arguments are required: --format"),
            (["--format", "pt2", "--to", "{run}"], "expected the name of a file to write"),
            (
                ["--format", "pt2", "--to", "{run}/student.pt"],
                "expected a name that no file of the run has",
            ),
            (
                ["--format", "pt2", "--to", "{run}/student"],
                "expected a name that no file of the run has",
            ),  # beside it: student.json
            (
                ["--format", "pt2", "--to", "{run}/MODEL_CARD.md"],
                "expected the name of a file to write",
            ),
            (["--format", "pt2", "--to", "{run}/none/s.pt2"], "expected a folder that is there"),
            (["--format", "pt2", "--to", "/dev/null/s.pt2"], "expected a folder that is there"),
            (
                ["--format", "pt2", "--to", "/proc/s.pt2"],
                "room and the right to write /proc/s.pt2.json",
            ),
            (["--format", "pt2", "--to", "{run}/" + 300 * "x"], "a name that can be written"),
            (
                ["--format", "pt2", "--to", "{run}/curves.png"],
                "a destination that is not there yet",
            ),
        ],
    )
    def test_arguments(
        self, arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = held(folder)
        given = [argument.replace("{run}", str(folder)) for argument in arguments]
        assert message in refused(tools.main, capsys, "export", folder, *given)
        assert held(folder) == before

    @pytest.mark.parametrize("name", ["config.json", "student.pt", "student.json", "summary.json"])
    def test_a_file_is_missing(
        self, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / name).unlink()
        said = refused(tools.main, capsys, "export", folder, "--format", "pt2")
        assert f"expected the folder of a finished run; found {folder} without {name}" in said

    @pytest.mark.parametrize(
        "raw", [b"", b"nonsense", b"[]", b"{}", b'{"image_size": "x"}', b"\xff", 9000 * b"["]
    )
    @pytest.mark.parametrize("name", ["config.json", "student.pt", "student.json", "summary.json"])
    def test_a_file_is_damaged(
        self, name: str, raw: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / name).write_bytes(raw)
        assert "error: expected" in refused(tools.main, capsys, "export", folder, "--format", "pt2")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("image_size", 0),
            ("image_size", True),
            ("mean", [0.5]),
            ("std", ["x", "y", "z"]),
            ("std", [1, 0, 1]),
            ("class_names", ["one"]),
            ("class_names", [str(number) for number in range(7)]),
            ("class_names", 3),
            ("image_shape", [32]),
            ("model", "nowhere:model"),
            ("model", "resnet18"),
            ("model", None),
        ],
    )
    def test_a_description_that_cannot_be(
        self, key: str, value: object, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        description = as_older(folder / "student.json") | {key: value}
        (folder / "student.json").write_text(json.dumps(description))
        assert "error: expected" in refused(tools.main, capsys, "export", folder, "--format", "pt2")

    def test_a_destination_is_replaced_only_when_told(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "student.pt2").write_text("mine")
        arguments = ["export", folder, "--format", "pt2"]
        assert "found" in refused(tools.main, capsys, *arguments)
        assert (folder / "student.pt2").read_text() == "mine"
        assert run(tools.main, *arguments, "--overwrite") == 0

    @pytest.mark.parametrize(
        ("name", "package"), [("onnx", "onnxscript"), ("safetensors", "safetensors")]
    )
    def test_a_package_is_missing(
        self,
        name: str,
        package: str,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for other in PACKAGES[name]:
            monkeypatch.setitem(sys.modules, other, None if other == package else sys)
        said = refused(tools.main, capsys, "export", folder, "--format", name)
        assert (
            f"expected the package {package} for --format {name}; found none" in said
            and "pip install" in said
        )

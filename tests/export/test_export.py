"""A student leaves: each format against the run's own predictions without kdcache, what stands beside it, what is refused."""

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
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from PIL import Image
from torch import Tensor, nn

import train_student
from kdcache.cli import main as tools
from kdcache.config import TrainOptions
from kdcache.export.export import DisagreementError, export
from kdcache.export.formats import FORMATS
from kdcache.export.model_card import model_card
from kdcache.export.student import open_run

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
SHAPES = ["--dataset", "shapes", "--limit", 100, "--alpha", 0]
HERE = [
    name
    for name in FORMATS
    if all(importlib.util.find_spec(package) for package in FORMATS[name].packages)
]
each_format = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in HERE, reason=f"needs {', '.join(FORMATS[name].packages)}"
            ),
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
    """The commands export and predict; then the documented code, in a process that never imports kdcache, says the same."""
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
            assert run(tools.main, *shlex.split(line)[3:]) == 0
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
    assert facts["check"]["real_images"] and facts["check"]["same_top_answer"] == 1
    assert [facts[key] for key in ("class_names", "image_size", "mean", "std", "image_shape")] == [
        described[key] for key in ("class_names", "image_size", "mean", "std", "image_shape")
    ]


def test_torchscript_answers_as_weights_computed_by_hand(trained: Path, tmp_path: Path) -> None:
    """The student's layers, written out with torch.nn.functional from student.pt."""
    assert (
        run(tools.main, "export", trained, "--format", "torchscript", "--to", tmp_path / "s") == 0
    )
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of torch call torch.jit deprecated
            found = torch.jit.load(tmp_path / "s")(images)
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
    for name in ("config.json", "summary.json"):
        (folder / name).write_text((folder / name).read_text().replace('"shapes"', '"cifar10"'))
    assert run(tools.main, "export", folder, "--format", "torchscript") == 0
    assert "64 random inputs only, no real images" in capsys.readouterr().out
    assert (
        json.loads((folder / "student.torchscript.json").read_text())["check"]["real_images"]
        is False
    )
    arguments = ["export", folder, "--format", "torchscript", "--overwrite", "--data", folder]
    assert "expected the images of cifar10 in" in refused(tools.main, capsys, *arguments)


class TestDisagreement:
    """What does not answer as the student does gets no name."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, folder: Path) -> Iterator[None]:
        before = held(folder)
        yield
        assert held(folder) == before

    def test_other_weights(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        honest = FORMATS["torchscript"]

        def write(student: nn.Module, example: Tensor, facts: str) -> bytes:
            with torch.no_grad():
                student[5].bias[3] += 0.01
            raw = honest.write(student, example, facts)
            with torch.no_grad():
                student[5].bias[3] -= 0.01
            return raw

        monkeypatch.setitem(FORMATS, "torchscript", dataclasses.replace(honest, write=write))
        said = refused(tools.main, capsys, "export", folder, "--format", "torchscript", code=1)
        assert (
            "does not answer as the student does" in said
            and "largest difference of logits 0.01 " in said
        )

    def test_a_trace_that_knows_one_size_of_batch(self, folder: Path) -> None:
        student = dataclasses.replace(open_run(folder), module=Branching().eval())
        with pytest.raises(DisagreementError, match="largest difference of logits 1 "):
            export(student, "torchscript", None, data=None, overwrite=False)

    def test_a_program_that_knows_one_size_of_batch(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = dataclasses.replace(open_run(folder), module=Branching().eval())
        monkeypatch.setattr(tools, "open_run", lambda path: found)
        said = refused(tools.main, capsys, "export", folder, "--format", "pt2")
        assert (
            "expected a student that exports as pt2 with batches of any size; found Constraints violated"
            in said
        )

    def test_a_full_disk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(
            tools.main, capsys, "export", folder, "--format", "torchscript"
        )


class Branching(nn.Module):
    """Answers otherwise for a batch of two, which is the size that exporters are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3))) + (1 if len(images) == 2 else 0)


class TestModelCard:
    def test_it_repeats_what_the_run_recorded(self, trained: Path, tmp_path: Path) -> None:
        assert (
            run(tools.main, "export", trained, "--format", "torchscript", "--to", tmp_path / "s")
            == 0
        )
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
            f"| student | {100 * summary['validation_accuracy']:.2f} | {100 * summary['test_accuracy']:.2f} |"
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
        for name in ("torchscript", "pt2"):
            assert (
                run(tools.main, "export", trained, "--format", name, "--to", tmp_path / name) == 0
            )
        (tmp_path / "MODEL_CARD.md").write_text("my own words")
        arguments = ["export", trained, "--format", "pt2", "--to", tmp_path / "third"]
        assert "no model card of something else" in refused(tools.main, capsys, *arguments)
        assert run(tools.main, *arguments, "--overwrite") == 0
        assert "my own words" not in (tmp_path / "MODEL_CARD.md").read_text()

    def test_what_stood_in_for_labels_is_said(self) -> None:
        description = {
            "class_names": ["a", "b"],
            "image_size": 8,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        }
        card = model_card(
            {"labels": "teacher"}, {"options": {"train_images": 4000}}, description, 7, ""
        )
        assert (
            "every accuracy here is agreement with the teacher" in card
            and "trained on 4,000 images" in card
        )
        assert "agreement with the teacher" not in model_card(
            {"labels": "dataset"}, {"options": {}}, description, 7, ""
        )

    def test_a_distilled_student_names_its_teacher(self) -> None:
        teacher = {"name": "vit_b_16", "validation_accuracy": 0.5, "test_accuracy": 0.25}
        summary = {
            "alpha": 0.9,
            "temperature": 4.0,
            "teacher": teacher,
            "fingerprint": "abc123",
            "views": "unmatched",
        }
        summary |= {"test_accuracy": 0.5, "test_images": 100}
        description = {
            "class_names": ["a", "b"],
            "image_size": 8,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        }
        card = model_card(
            summary, {"options": {"cache": "t.h5"}}, description, 7, "python train_student.py"
        )
        lines = ["- Teacher: vit_b_16", "- Cache's fingerprint: abc123"]
        lines += ["- Part in the training: alpha 0.9, temperature 4.0"]
        lines += [
            "| teacher, in the student's classes | 50.00 | 25.00 |",
            "| student | not recorded | 50.00 |",
        ]
        assert [line for line in lines if line not in card.splitlines()] == []
        assert "±9.8 points" in card  # 1.96 * sqrt(0.5 * 0.5 / 100)
        assert (
            "The command was not recorded" in card
            and "soft targets were those of the whole image" in card
        )


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
                "expected --format to be one of torchscript, onnx, pt2, safetensors; found --format tflite",
            ),
            ([], "the following arguments are required: --format"),
            (["--format", "pt2", "--to", "{run}"], "expected the name of a file to write"),
            (["--format", "pt2", "--to", "{run}/student.pt"], "not one of the run's own files"),
            (
                ["--format", "pt2", "--to", "{run}/student"],
                "not one of the run's own files",
            ),  # beside it: student.json
            (
                ["--format", "pt2", "--to", "{run}/MODEL_CARD.md"],
                "expected the name of a file to write",
            ),
            (["--format", "pt2", "--to", "{run}/none/s.pt2"], "expected a folder that is there"),
            (["--format", "pt2", "--to", "/dev/null/s.pt2"], "expected a folder that is there"),
            (
                ["--format", "torchscript", "--to", "/proc/s.ts"],
                "room and the right to write /proc/s.ts.json",
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
        said = refused(tools.main, capsys, "export", folder, "--format", "torchscript")
        assert f"expected the folder of a finished run; found {folder} without {name}" in said

    @pytest.mark.parametrize(
        "raw", [b"", b"nonsense", b"[]", b"{}", b'{"image_size": "x"}', b"\xff", 9000 * b"["]
    )
    @pytest.mark.parametrize("name", ["config.json", "student.pt", "student.json", "summary.json"])
    def test_a_file_is_damaged(
        self, name: str, raw: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / name).write_bytes(raw)
        assert "error: expected" in refused(
            tools.main, capsys, "export", folder, "--format", "torchscript"
        )

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
        description = json.loads((folder / "student.json").read_text()) | {key: value}
        (folder / "student.json").write_text(json.dumps(description))
        assert "error: expected" in refused(
            tools.main, capsys, "export", folder, "--format", "torchscript"
        )

    def test_a_destination_is_replaced_only_when_told(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "student.torchscript").write_text("mine")
        arguments = ["export", folder, "--format", "torchscript"]
        assert "found" in refused(tools.main, capsys, *arguments)
        assert (folder / "student.torchscript").read_text() == "mine"
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
        for other in FORMATS[name].packages:
            monkeypatch.setitem(sys.modules, other, None if other == package else sys)
        said = refused(tools.main, capsys, "export", folder, "--format", name)
        assert (
            f"expected the package {package} for --format {name}; found none" in said
            and "pip install" in said
        )

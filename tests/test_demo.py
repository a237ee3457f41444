"""The demo: its commands, read from the Makefile, work at a tenth of their size.

And the teacher that comes with the package is what docs/evidence.md says of it.
"""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import Main, run

import precompute_teacher
import train_student
from kdcache.cli import main as tools
from kdcache.data.shapes import fine_class_names, render_shapes
from kdcache.data.views import Renderer, whole_image_views
from kdcache.models import build_model
from kdcache.report import compare_runs
from kdcache.runs import find_runs

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))
import halve_weights  # noqa: E402
import repeat_demo  # noqa: E402

WEIGHTS = "kdcache/models/shapes_teacher/teacher.pt"
COMMANDS: dict[str, Main] = {
    "precompute_teacher.py": precompute_teacher.main,
    "train_student.py": train_student.main,
    "kdcache": tools.main,
}


def recipe(target: str, *settings: str) -> list[tuple[str, list[str]]]:
    """What `make` would start of the package's commands: each one's name and its words."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *settings]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for line in printed.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[0].endswith("python"):
            words = words[1:]
        if Path(words[0]).name in COMMANDS:
            found.append((Path(words[0]).name, words[1:]))
    return found


def tenth(word: str, previous: str) -> str:
    """An option's value at a tenth of its size."""
    return str(max(1, int(word) // 10)) if previous == "--epochs" else word


def test_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    started = recipe("demo", f"DEMO={tmp_path}", "SEED=3", "SEEDS=2")
    names = [name for name, _ in started]
    assert names == ["precompute_teacher.py", *["train_student.py"] * 2, "kdcache", "kdcache"]
    for name, words in started:
        words = [tenth(word, before) for before, word in zip(["", *words], words, strict=False)]
        limit = ["--limit", 150] if name == "precompute_teacher.py" else []
        assert run(COMMANDS[name], *words, *limit) == 0, words
    comparison = compare_runs(find_runs([tmp_path / "students"])[0])
    assert [(row.kind, row.seeds) for row in comparison.rows] == [
        ("labels only", [3, 4]),
        ("distilled", [3, 4]),
    ]
    assert comparison.rows[1].p is not None
    assert comparison.words in capsys.readouterr().out
    pictures = ("curves.png", "confusion.png", "views.png")
    for file in ("comparison.png", "report.html", *(f"students/distilled/{p}" for p in pictures)):
        assert (tmp_path / file).stat().st_size > 5000, file


def test_the_students_are_alike_but_for_their_teacher() -> None:
    (labels, distilled) = (words for name, words in recipe("demo") if name == "train_student.py")
    at = labels.index("--alpha")
    assert labels[at + 1] == "0"
    del labels[at : at + 2]
    assert labels[:-1] == distilled[:-1]  # the last word is the folder


def test_the_teacher_that_comes_with_the_package() -> None:
    path = ROOT / WEIGHTS
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 3_000_000
    teacher = build_model("kdcache.models.small_resnets:wide_half_resnet8", str(path), seed=0)
    known = teacher.preprocessing
    assert known.image_size == 32
    assert known.class_names == fine_class_names()
    images, labels = render_shapes(1000, stream="shapes-fine/test")
    render = Renderer(32, known.mean, known.std, (32, 32))
    inputs = render(torch.from_numpy(images), whole_image_views(1000, 32, 32))
    with torch.inference_mode():
        predictions = teacher.module.eval()(inputs).argmax(1)
    # 95.9 % of 4,000: a standard deviation of 0.6 points for 1,000 of them
    assert (predictions == torch.from_numpy(labels)).float().mean() > 0.94


def result(seeds: list[int], p: float, gain: float) -> repeat_demo.Result:
    labels = {"kind": "labels only", "seeds": seeds, "test_accuracy": 0.7, "test_sd": 0.01}
    distilled = {
        "kind": "distilled",
        "test_accuracy": 0.7 + gain,
        "test_sd": 0.02,
        "difference": gain,
        "difference_low": gain - 0.03,
        "difference_high": gain + 0.03,
        "p": p,
    }
    rows = [{"kind": "teacher"}, labels, distilled]
    return {"threads": 1, "seconds": 120.4, "rows": rows}


def test_the_table_of_repetitions_by_hand() -> None:
    # gains of 4 and 6 points: mean 5, standard deviation sqrt(1 + 1) = 1.41
    results = [result([0, 1], 0.0123, 0.04), result([2, 3], 0.2, 0.06)]
    lines = repeat_demo.markdown(results).splitlines()
    assert lines[2] == (
        "| 0 to 1 | 1 | 70.00 ± 1.00 | 74.00 ± 2.00 | +4.00 (+1.00 to +7.00) | 0.012 | 120 |"
    )
    assert "p below 0.05 in 1 of 2 repetitions. Over them:" in lines
    assert "gain 5.00 ± 1.41 (4.00 to 6.00)" in lines


def test_a_repetition_that_is_done_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / repeat_demo.RESULT).write_text("{}")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was run again"))
    repeat_demo.repeat(0, tmp_path)


def test_weights_are_halved_and_their_card_goes_with_them(tmp_path: Path) -> None:
    state = {"weight": torch.tensor([0.5, -3.0]), "seen": torch.tensor(7)}
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run" / "student.pt")
    (tmp_path / "run" / "student.json").write_text("{}")
    out = tmp_path / "made" / "teacher.pt"
    assert run(halve_weights.main, tmp_path / "run", out) == 0
    halved = torch.load(out, weights_only=True)
    assert halved["weight"].dtype == torch.float16 and halved["weight"].tolist() == [0.5, -3.0]
    assert halved["seen"].dtype == torch.int64
    assert (tmp_path / "made" / "student.json").read_text() == "{}"

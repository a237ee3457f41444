"""docs/evidence.py on something tiny: its rows are what its students reached.

None of them is trained twice.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused, run

import precompute_teacher
from kdcache.cache.reader import open_cache
from kdcache.config import TrainOptions
from kdcache.data import ImageData, Split
from kdcache.distill.probe_file import load_or_fit_probe
from kdcache.engine.student_run import StudentRun
from kdcache.engine.training_data import load_training_data
from kdcache.runs import RunSummary

sys.path.append(str(Path(__file__).parent.parent / "docs"))
import evidence
import teaching_script


class TinyBench(evidence.Bench):
    def prepare(self) -> None:
        shapes = [
            "--dataset",
            "shapes",
            "--limit",
            100,
            "--image-size",
            16,
            "--teacher",
            "tiny_models:tiny_teacher",
        ]
        if not self.cache.exists():
            views = ["--views", 2, "--augment", "flip", "--cache", self.cache]
            self.work.mkdir(parents=True)
            assert run(precompute_teacher.main, *shapes, *views) == 0

    def options(self, settings: evidence.Settings, seed: int) -> TrainOptions:
        name = ",".join(f"{key}={value}" for key, value in sorted(settings.items()))
        tiny: dict[str, Any] = {"student": "tiny_models:tiny_cnn", "epochs": 1, "cache": self.cache}
        return TrainOptions(**tiny | settings, seed=seed, out=self.work / f"{name},{seed}")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "Bench", TinyBench)


@pytest.mark.parametrize("table", ["shapes-projections", "losses"])
def test_a_table_is_what_its_students_reached(
    table: str,
    tiny: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [table, "--work", tmp_path, "--seeds", 2]
    assert run(evidence.main, *arguments) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = evidence.TABLES[table][1]
    assert len(printed) == len(rows) + 2
    assert all(
        f"| {name} |" in line and line.endswith("| 2 |")
        for name, line in zip(rows, printed[2:], strict=True)
    )
    monkeypatch.setattr(
        StudentRun, "train", lambda self: pytest.fail("a finished student was trained again")
    )
    assert run(evidence.main, *arguments) == 0
    assert [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ] == printed


def test_means_and_spreads_by_hand() -> None:
    # 50 and 54 %: mean 52, standard deviation sqrt((2² + 2²) / 1) = 2.83
    # 60 and 60: 8 points more
    def runs(*accuracies: float) -> list[RunSummary]:
        return [RunSummary("", "", 0.0, accuracy, accuracy) for accuracy in accuracies]

    table = evidence.markdown(
        {"labels only": runs(0.50, 0.54), "distilled": runs(0.6, 0.6)}
    ).splitlines()
    assert table[2] == "| labels only | 52.00 ± 2.83 | 52.00 ± 2.83 | +0.00 | 2 |"
    assert table[3] == "| distilled | 60.00 ± 0.00 | 60.00 ± 0.00 | +8.00 | 2 |"


def test_the_probes_that_should_not_be_used_are_what_they_are_called(
    tiny: None, tmp_path: Path
) -> None:
    bench = TinyBench("shapes", tmp_path, Path())
    bench.prepare()
    training_data = load_training_data(TrainOptions(cache=bench.cache))
    probe, cache = load_or_fit_probe(training_data.cache), open_cache(bench.cache)
    logits = torch.from_numpy(np.asarray(cache.splits["train"].logits))
    for variant, expected in (
        ("uncalibrated", probe.project_training(logits) * probe.temperature),
        ("in-fold", probe.project(logits)),
        ("in-fold uncalibrated", probe.project(logits) * probe.temperature),
    ):
        found = evidence.other_probe(training_data, variant).targets("probe").train["student"]
        torch.testing.assert_close(found, expected)


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'everything'" in refused(evidence.main, capsys, "everything")


def test_five_shared_seeds_have_a_paired_test_by_hand() -> None:
    # differences of 1, 2, 3, 4, 5 points: mean 3, t = 3 / (sqrt(2.5) / sqrt(5)) = 4.243,
    # for which tables of Student's t with 4 degrees of freedom give p = 0.0132
    def runs(*accuracies: float) -> list[RunSummary]:
        return [
            RunSummary("", "", 0.0, accuracy, accuracy, seed=seed)
            for seed, accuracy in enumerate(accuracies)
        ]

    baseline, distilled = runs(0.5, 0.5, 0.5, 0.5, 0.5), runs(0.51, 0.52, 0.53, 0.54, 0.55)
    table = evidence.markdown({"labels only": baseline, "distilled": distilled}).splitlines()
    assert table[2] == "| labels only | 50.00 ± 0.00 | 50.00 ± 0.00 | +0.00 | 5 |"
    assert table[3] == "| distilled | 53.00 ± 1.58 | 53.00 ± 1.58 | +3.00 (p = 0.013) | 5 |"


def test_the_teaching_scripts_student_follows_labels_and_a_teacher_of_other_classes() -> None:
    # black images are of class 0 and white ones of class 1; the teacher says 700 and 800
    labels = torch.arange(16) % 2
    split = Split((255 * labels.byte())[:, None, None, None].expand(16, 3, 32, 32), labels)
    images = ImageData(
        "made up", ("black", "white"), dict.fromkeys(("train", "validation", "test"), split)
    )
    teacher = torch.full((16, 1000), -30.0)
    teacher[torch.arange(16), 700 + 100 * labels] = 30.0
    assert teaching_script.train(images, None, epochs=40, seed=0) == (100, 100, 100)
    among_all, _, among_ten = teaching_script.train(images, teacher, epochs=60, seed=0)
    assert among_all == 0, "T² times KL outweighs the labels"
    assert among_ten == 100

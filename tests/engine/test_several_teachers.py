"""Several caches of the same images and views: one ensemble."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run

import precompute_teacher
import train_student
from kdcache.cache import open_cache, open_caches
from kdcache.cli.main import main
from kdcache.distill import make_targets
from kdcache.errors import DataError, OptionError
from kdcache.report import compare_runs, summarize_cache
from kdcache.runs import read_config, read_run, read_summary

STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", 1, "--batch-size", 32]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers of the shapes' ten classes, and the first one's other views."""
    folder = tmp_path_factory.mktemp("caches")
    shapes = ["--dataset", "shapes", "--limit", 100, "--image-size", 16]
    shapes += ["--views", 2, "--augment", "flip"]
    made = []
    for name, teacher, seed in (
        ("a", "tiny_cnn", 0),
        ("b", "without_batch_norm", 0),
        ("c", "tiny_cnn", 1),
    ):
        made.append(folder / f"{name}.h5")
        words = [*shapes, "--teacher", f"tiny_models:{teacher}", "--seed", seed]
        assert run(precompute_teacher.main, *words, "--cache", made[-1]) == 0
    return made


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("weights", [None, (0.75, 0.25)])
def test_the_targets_are_the_weighted_mean(
    combine: str, weights: tuple[float, float] | None, paths: list[Path]
) -> None:
    one, other = (open_cache(path).splits for path in paths[:2])
    targets = make_targets(open_caches(paths[:2]), "none", combine=combine, teacher_weights=weights)
    first, second = weights or (0.5, 0.5)
    for split, found in (
        ("train", targets.train["student"]),
        ("test", targets.predictions["test"][:, None]),
    ):
        logits = [np.asarray(some[split].logits, np.float64) for some in (one, other)]
        if combine == "logits":
            expected = first * logits[0] + second * logits[1]
            torch.testing.assert_close(
                found.double(), torch.from_numpy(expected), atol=1e-5, rtol=0
            )
        else:
            expected = first * softmax(logits[0]) + second * softmax(logits[1])
            soft = torch.softmax(found.double(), -1)
            torch.testing.assert_close(soft, torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_one_teacher_twice_is_that_teacher(paths: list[Path]) -> None:
    alone = make_targets(open_cache(paths[0]), "probe")
    twice = make_targets(open_caches([paths[0]] * 2), "probe", combine="logits")
    torch.testing.assert_close(twice.train["student"], alone.train["student"].float())


def test_a_certain_teacher_leaves_finite_logits(paths: list[Path]) -> None:
    cache = open_caches([paths[0]] * 2)
    for member in cache.members:
        member.splits["test"].logits.setflags(write=True)
        member.splits["test"].logits[:] = [60000.0, *[-60000.0] * 9]
    assert make_targets(cache, "none").predictions["test"].isfinite().all()


def test_the_ensemble_knows_its_members(paths: list[Path]) -> None:
    one, other = open_cache(paths[0]), open_cache(paths[1])
    both = open_caches(paths[:2])
    assert both.fingerprint == f"{one.fingerprint}+{other.fingerprint}"
    assert both.content_digest == f"{one.content_digest}+{other.content_digest}"
    assert [member.path for member in both.members] == paths[:2]
    assert open_caches(paths[:1]).members == ()


def test_other_views_are_refused(paths: list[Path]) -> None:
    with pytest.raises(DataError) as error:
        open_caches([paths[0], paths[2]])
    assert str(error.value) == (
        f"expected caches of the same images and views as {paths[0]}; found {paths[2]} with other"
        " train views; give phase one the same --data, --augment, --views and --seed"
    )


@pytest.mark.parametrize("weights", [(0.7, 0.4), (1.0,), (0.2, 0.3, 0.5)])
def test_weights_that_do_not_add_up_are_refused(
    weights: tuple[float, ...], paths: list[Path]
) -> None:
    with pytest.raises(OptionError, match="2 numbers for --teacher-weight that add up to 1"):
        make_targets(open_caches(paths[:2]), "none", teacher_weights=weights)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--live-teacher", "expected --live-teacher only with one --cache; found several; omit"),
        ("--labels teacher", "expected --labels teacher only with one --cache; found several"),
        ("--projection head", "expected --projection probe or none for several caches"),
        ("--teacher-weight 0.7 0.4", "that add up to 1; found 0.7 0.4; correct them"),
    ],
)
def test_what_one_teacher_needs_is_refused(
    line: str,
    message: str,
    paths: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--cache", *paths[:2], "--out", tmp_path / "run", *STUDENT, *line.split()]
    assert message in refused(train_student.main, capsys, *words)
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_ensemble(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, both = tmp_path / "run", ["--cache", *paths[:2], "--teacher-weight", 0.75, 0.25]
    assert run(train_student.main, *both, "--out", out, *STUDENT) == 0
    config, summary = read_config(out), read_summary(out)
    assert config is not None and summary is not None and summary.teacher is not None
    fingerprint = "+".join(open_cache(path).fingerprint for path in paths[:2])
    assert config.fingerprint == summary.fingerprint == fingerprint
    assert config.options.caches == tuple(paths[:2])
    assert config.options.teacher_weight == (0.75, 0.25)
    assert summary.teacher.name == "tiny_cnn + without_batch_norm"
    assert [one.name for one in summary.teacher.members or ()] == [
        "tiny_models:tiny_cnn",
        "tiny_models:without_batch_norm",
    ]
    rows = [row.model for row in compare_runs([read_run(out)]).teachers]
    assert rows == [
        "tiny_models:tiny_cnn",
        "tiny_models:without_batch_norm",
        "tiny_cnn + without_batch_norm",
    ]

    capsys.readouterr()
    again = [*both, "--out", out, *STUDENT]
    assert run(train_student.main, *again) == 0
    assert "is finished" in capsys.readouterr().out
    code = ["--student", "tiny_models:tiny_cnn"]
    assert run(train_student.main, "--resume", out, *code) == 0
    assert "is finished" in capsys.readouterr().out
    swapped = ["--cache", *reversed(paths[:2]), "--teacher-weight", 0.75, 0.25]
    assert "fingerprint: " in refused(train_student.main, capsys, *swapped, "--out", out, *STUDENT)


def test_both_ways_to_combine_are_swept(paths: list[Path], tmp_path: Path) -> None:
    words = ["sweep", *paths[:2], "--out", tmp_path, *STUDENT]
    assert run(main, *words, "--set", "combine=probabilities,logits") == 0
    assert {path.parent.name for path in tmp_path.glob("*/summary.json")} == {
        "combine=probabilities,seed=0",
        "combine=logits,seed=0",
    }


def test_info_shows_each_teacher_and_the_ensemble(
    paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    facts = summarize_cache(paths[:2]).facts
    alone = [summarize_cache(path).facts for path in paths[:2]]
    for member, facts_alone in zip(facts["ensemble"]["teachers"], alone, strict=True):
        assert member["validation_accuracy"] == facts_alone["teacher_validation_accuracy"]
        assert member["fingerprint"] == facts_alone["fingerprint"]
    assert alone[0]["ensemble"] is None
    capsys.readouterr()
    assert run(main, "info", *paths[:2]) == 0
    shown = capsys.readouterr().out
    assert "all, mean of probabilities" in shown and "all, mean of logits" in shown
    assert run(main, "info", *paths[:2], "--json") == 0
    assert json.loads(capsys.readouterr().out)["ensemble"] == facts["ensemble"]

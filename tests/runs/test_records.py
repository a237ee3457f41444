"""The records of a run: through JSON and back, what is tolerated, and which fault is named."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from finished_runs import summary_of
from hypothesis import given
from hypothesis import strategies as st

from kdcache.config import TrainOptions
from kdcache.runs import EpochRecord, RunConfig, RunSummary, TeacherScores

Record = RunConfig | EpochRecord | RunSummary

OPTIONS = TrainOptions(
    alpha=0.5,
    mean=(0.5, 0.25, 1e-3),
    std=(1.0, 1.0, 1.0),
    cache=Path("a.h5"),
    out=Path("a b"),
    lr=0.1,
)
CONFIG = RunConfig(OPTIONS, "f" * 64, None, "torch 9", "cpu", "python train_student.py", "c" * 64)
EPOCH = EpochRecord(3, 0.5, 1.25, 0.1, 2.0, 1.0, 3.0, 0.75, 0.25, 12.5, 100.0)
SUMMARY = dataclasses.replace(
    summary_of("runs/a", 0.5, alpha=0.9, seed=3),
    labels="dataset",
    unlabelled=7,
    loss="kl",
    best_epoch=2,
    validation_digest="v" * 64,
    config_digest="c" * 64,
    history_digest="e" * 64,
    validation_class_accuracy=[0.25, None, 1.0],
    test_class_accuracy=[0.5, 0.75, None],
)
RECORDS = pytest.mark.parametrize("record", [CONFIG, EPOCH, SUMMARY])


def through_json(document: Any) -> Any:
    return json.loads(json.dumps(document))


def test_so_do_the_teachers_of_an_ensemble() -> None:
    members = (TeacherScores("a", 0.5, 0.25), TeacherScores("b", None, None))
    scores = TeacherScores("a + b", 0.75, 0.5, members)
    record = dataclasses.replace(SUMMARY, teacher=scores)
    assert RunSummary.from_json(through_json(record.to_json())).teacher == scores


@RECORDS
def test_every_field_comes_back(record: Record) -> None:
    document = through_json(record.to_json())
    unset = {key for key, value in document.items() if value is None}
    assert unset <= {"images"}, "the examples have everything"
    assert type(record).from_json(document) == record


@RECORDS
def test_fields_of_a_later_version_are_ignored(record: Record) -> None:
    document = record.to_json() | {"mood": "good", "moods": [{}]}
    assert type(record).from_json(through_json(document)) == record


def test_so_are_options_and_what_is_told_of_a_teacher() -> None:
    config, summary = CONFIG.to_json(), SUMMARY.to_json()
    config["options"]["mood"] = "good"
    summary["teacher"]["mood"] = "good"
    assert RunConfig.from_json(through_json(config)) == CONFIG
    assert RunSummary.from_json(through_json(summary)) == SUMMARY


@pytest.mark.parametrize(
    ("record", "required"),
    [
        (CONFIG, {"options"}),
        (EPOCH, {"epoch", "validation_accuracy"}),
        (SUMMARY, {"name", "student", "alpha", "validation_accuracy"}),
    ],
)
def test_older_versions_did_not_write_all_fields(record: Record, required: set[str]) -> None:
    for name in record.to_json():
        document = record.to_json()
        del document[name]
        if name in required:
            with pytest.raises(ValueError, match=f"^{name}: missing"):
                type(record).from_json(document)
            continue
        missing = type(record).from_json(document)
        (default,) = (field.default for field in dataclasses.fields(record) if field.name == name)
        assert missing == dataclasses.replace(record, **{name: default})
        assert type(record).from_json(document | {name: None}) == missing


def test_nor_all_options() -> None:
    assert RunConfig.from_json({"options": {}}) == RunConfig(TrainOptions())
    assert RunConfig.from_json({"options": {"alpha": 0.5}}).options == TrainOptions(alpha=0.5)


@RECORDS
@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}, object()])
def test_the_field_that_is_wrong_is_named(record: Record, value: object) -> None:
    for name in record.to_json():
        if name in ("options", "teacher") and isinstance(value, dict):
            continue
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            type(record).from_json(record.to_json() | {name: value})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"teacher": {}}, "teacher.name: missing"),
        ({"teacher": {"name": 3}}, "teacher.name: expected text, found 3"),
        (
            {"teacher": {"name": "a", "test_accuracy": "b"}},
            "teacher.test_accuracy: expected a number",
        ),
        ({"alpha": math.nan}, "alpha: expected a number, found nan"),
        ({"seed": -1}, "seed: expected an integer of at least 0, found -1"),
        ({"epochs": 1.5}, "epochs: expected an integer"),
    ],
)
def test_of_a_summary(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSummary.from_json(SUMMARY.to_json() | document)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 2}, "options: expected --alpha to be 0 to 1, found --alpha 2"),
        (
            {"optimizer": "lion"},
            "options: expected --optimizer to be one of .*, found --optimizer lion",
        ),
        ({"epochs": "many"}, "options: .*not supported"),
    ],
)
def test_of_the_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.from_json({"options": options})


@pytest.mark.parametrize("document", [None, 3, "text", [], [{}]])
@pytest.mark.parametrize("kind", [RunConfig, EpochRecord, RunSummary])
def test_something_else_than_an_object(kind: type[Record], document: object) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        kind.from_json(document)


def test_an_epoch_that_diverged() -> None:
    record = EpochRecord(1, 0.1, validation_loss=math.inf, train_loss=math.nan)
    read = EpochRecord.from_json(through_json(record.to_json()))
    assert read.validation_loss == math.inf
    assert read.train_loss is not None and math.isnan(read.train_loss)


def test_what_an_epoch_does_not_have_is_not_written() -> None:
    assert EpochRecord(1, 0.5, lr=0.0).to_json() == {
        "epoch": 1,
        "validation_accuracy": 0.5,
        "lr": 0.0,
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "options", "alpha", "teacher", "epoch"]), inner, max_size=4
            )
        ),
    )
)
def test_whatever_the_file_holds_a_value_error_is_all_that_is_raised(document: Any) -> None:
    for kind in (RunConfig, EpochRecord, RunSummary):
        try:
            record = kind.from_json(document)
        except ValueError:
            continue
        assert isinstance(record, kind)


def test_the_result_in_words() -> None:
    assert SUMMARY.result == "50.00% test accuracy with the weights of epoch 2 of 3"
    untested = dataclasses.replace(SUMMARY, test_accuracy=None)
    assert untested.result == "unknown test accuracy with the weights of epoch 2 of 3"


@pytest.mark.parametrize(
    ("changes", "edits"),
    [
        ({"limit": 50}, ["limit: 100 and 50"]),
        ({"lr": 0.2, "seed": 1}, ["seed: 0 and 1", "lr: 0.1 and 0.2"]),
        ({"epochs": OPTIONS.epochs + 1}, []),
        ({"epochs": OPTIONS.epochs - 1}, [f"epochs: {OPTIONS.epochs} and {OPTIONS.epochs - 1}"]),
        ({"weight_decay": 0.1, "precision": "fp16", "out": Path("c"), "batch_size": 128}, []),
    ],
)
def test_edits_are_of_what_was_said(changes: dict[str, Any], edits: list[str]) -> None:
    """What was left to its default, and where files lie, is no edit."""
    alone = OPTIONS.replace(cache=None, alpha=0.0, limit=100)
    before = dataclasses.replace(CONFIG, options=alone)
    after = dataclasses.replace(CONFIG, options=before.options.replace(**changes))
    assert sorted(before.edits(after)) == sorted(edits)


def test_a_run_is_distilled_where_the_teacher_weighs_something() -> None:
    assert SUMMARY.distilled and not dataclasses.replace(SUMMARY, alpha=0.0).distilled
    assert isinstance(SUMMARY.teacher, TeacherScores)

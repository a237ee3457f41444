"""What a folder holds decides what becomes of the run that is asked for; nothing is trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_run

from kdcache.config import TrainOptions
from kdcache.errors import DataError, OptionError
from kdcache.runs import (
    RunConfig,
    RunSummary,
    extended_options,
    finished_summary,
    read_config,
    read_summary,
    resumed_options,
)
from kdcache.runs.continuing import check_same_inputs
from kdcache.runs.folder import config_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", 0.5, alpha=0.0)


def held_by(folder: Path) -> RunConfig:
    held = read_config(folder)
    assert held is not None
    return held


def resolve(options: TrainOptions) -> TrainOptions:
    """The defaults of a machine on which the learning rate is 0.1 and the precision fp32."""
    lr = 0.1 if options.lr is None else options.lr
    precision = options.precision.replace("auto", "fp32")
    return options.used_only().replace(lr=lr, precision=precision)


def asked_for(folder: Path, device: str | None = None, **changes: Any) -> RunSummary | None:
    """What comes of the command of the folder's run, with these options changed."""
    held = held_by(folder)
    asked = held.options.replace(**changes)
    now = dataclasses.replace(held, options=resolve(asked), device_type=device)
    return finished_summary(asked, held, now, resolve)


class TestFinishedSummary:
    def test_the_same_run_is_finished(self, folder: Path) -> None:
        assert asked_for(folder) == read_summary(folder) is not None

    def test_one_without_summary_is_to_be_trained(self, folder: Path) -> None:
        (folder / "summary.json").unlink()
        assert asked_for(folder) is None

    def test_what_is_no_recipe_may_differ(self, folder: Path) -> None:
        assert asked_for(folder, data=Path("elsewhere"), vis=True) is not None

    @pytest.mark.parametrize(
        ("changes", "found", "remedy"),
        [
            ({"epochs": 4}, "--epochs 4 (the run has 3)", ", or --extend to train it further"),
            ({"epochs": 2}, "--epochs 2 (the run has 3)", ""),
            ({"epochs": 4, "seed": 1}, "--seed 1 (the run has 0), --epochs 4 (the run has 3)", ""),
            ({"lr": 0.5}, "--lr 0.5 (the run has 0.1)", ""),
            ({"limit": 7}, "--limit 7 (the run has its default)", ""),
            ({"student": "resnet50"}, "--student resnet50 (the run has resnet18)", ""),
        ],
    )
    def test_other_options_are_named(
        self, changes: dict[str, Any], found: str, remedy: str, folder: Path
    ) -> None:
        with pytest.raises(OptionError) as error:
            asked_for(folder, **changes)
        assert error.value.expected == f"the options of the run in {folder}"
        assert error.value.found == found
        asked = "give another --out, or --overwrite to replace the run"
        assert error.value.remedy == asked + remedy

    def test_what_was_given_is_compared_before_the_defaults(self, folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        document["options"]["lr"] = 0.25
        (folder / "config.json").write_text(json.dumps(document))
        with pytest.raises(OptionError) as error:
            asked_for(folder, lr=None, warmup=0.5)
        found = "--lr 0.1 (the run has 0.25), --warmup 0.5 (the run has 0.05)"
        assert error.value.found == found

    def test_the_precision_may_follow_another_device(self, folder: Path) -> None:
        with pytest.raises(OptionError, match=r"found --precision bf16 \(the run has fp32\)"):
            asked_for(folder, precision="bf16")
        assert asked_for(folder, device="cuda", precision="bf16") is not None

    def test_more_epochs_extend_it_where_that_is_asked(self, folder: Path) -> None:
        assert asked_for(folder, extend=True, epochs=4) is None
        assert asked_for(folder, extend=True, epochs=3) == read_summary(folder)
        with pytest.raises(OptionError, match=r"--epochs 2 \(the run has 3\)"):
            asked_for(folder, extend=True, epochs=2)
        with pytest.raises(OptionError, match=r"--seed 1 \(the run has 0\)"):
            asked_for(folder, extend=True, epochs=4, seed=1)

    def test_other_software_matters_only_where_there_is_something_to_train(
        self, folder: Path
    ) -> None:
        held = held_by(folder)
        now = dataclasses.replace(held, options=resolve(held.options), software="torch 10")
        assert finished_summary(held.options, held, now, resolve) is not None
        more = held.options.replace(extend=True, epochs=4)
        extended = dataclasses.replace(now, options=resolve(more))
        with pytest.raises(DataError, match="software: torch 9 and torch 10"):
            finished_summary(more, held, extended, resolve)
        (folder / "summary.json").unlink()
        with pytest.raises(DataError, match="software: torch 9 and torch 10"):
            finished_summary(held.options, held, now, resolve)

    def test_an_edited_config_is_refused(self, folder: Path) -> None:
        summary = json.loads((folder / "summary.json").read_text())
        summary["config_digest"] = config_digest(folder)
        (folder / "summary.json").write_text(json.dumps(summary))
        assert asked_for(folder) is not None
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"command": "another"}))
        for refused in (lambda: asked_for(folder), lambda: resumed_options(folder)):
            with pytest.raises(DataError) as error:
                refused()
            assert str(error.value) == (
                f"expected {folder}/config.json as it was when the run ended; found one that was"
                " edited since; undo the edit, or train anew in another --out"
            )


class TestSameInputs:
    NOW = RunConfig(TrainOptions(), "f" * 64, "i" * 64, "kdcache 1, torch 9", "cpu", None, "c" * 64)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("fingerprint", "e" * 64),
            ("images", None),
            ("software", "torch 8"),
            ("device_type", "cuda"),
        ],
    )
    def test_what_differs_is_named(self, field: str, value: Any) -> None:
        held = dataclasses.replace(self.NOW, **{field: value})
        with pytest.raises(DataError) as error:
            check_same_inputs(Path("run"), held, self.NOW, to_train=True)
        now = getattr(self.NOW, field).removeprefix("kdcache 1, ")
        assert str(error.value) == (
            "expected the cache, images, software and kind of device with which run was begun;"
            f" found {field}: {value} and {now}; give another --out, or --overwrite to train anew"
        )
        if field in ("fingerprint", "images"):
            with pytest.raises(DataError, match="the cache and images with which run was begun"):
                check_same_inputs(Path("run"), held, self.NOW, to_train=False)
        else:
            check_same_inputs(Path("run"), held, self.NOW, to_train=False)

    def test_all_of_it_is_named(self) -> None:
        held = dataclasses.replace(self.NOW, images=None, software=None)
        with pytest.raises(DataError) as error:
            check_same_inputs(Path("run"), held, self.NOW, to_train=True)
        assert error.value.found == f"images: None and {'i' * 64}; software: None and torch 9"

    def test_another_kdcache_is_no_other_software(self) -> None:
        held = dataclasses.replace(self.NOW, software="kdcache 2, torch 9")
        check_same_inputs(Path("run"), held, self.NOW, to_train=True)

    def test_other_content_of_the_same_manifest_is_named(self) -> None:
        held = dataclasses.replace(self.NOW, content_digest="d" * 64)
        with pytest.raises(DataError) as error:
            check_same_inputs(Path("run"), held, self.NOW, to_train=False)
        assert error.value.found == f"the cache's content: {'d' * 64} and {'c' * 64}"
        for known, other in ((None, self.NOW), (self.NOW, None)):
            one, now = (
                config or dataclasses.replace(self.NOW, content_digest=None)
                for config in (known, other)
            )
            check_same_inputs(Path("run"), one, now, to_train=True)


class TestResumedOptions:
    def test_they_are_its_own_in_the_folder_where_it_lies(self, tmp_path: Path) -> None:
        options = TrainOptions(alpha=0.0, out=Path("elsewhere"), overwrite=True, lr=0.5)
        (tmp_path / "config.json").write_text(json.dumps({"options": options.as_dict()}))
        expected = TrainOptions(alpha=0.0, out=tmp_path, lr=0.5)
        assert resumed_options(tmp_path) == expected

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            resumed_options(tmp_path)
        assert str(error.value) == (
            f"expected the folder of a run; found {tmp_path} without config.json;"
            " give the --out of an interrupted run"
        )

    def test_code_is_named_again(self, tmp_path: Path) -> None:
        options = TrainOptions(alpha=0.0, student="their_nets:net")
        (tmp_path / "config.json").write_text(json.dumps({"options": options.as_dict()}))
        with pytest.raises(OptionError, match="expected --student their_nets:net on the command"):
            resumed_options(tmp_path)
        with pytest.raises(OptionError, match=f"as in {tmp_path}/config.json; found --student x:y"):
            resumed_options(tmp_path, student="x:y")
        assert resumed_options(tmp_path, student="their_nets:net").student == "their_nets:net"
        with pytest.raises(OptionError, match=r"expected --projection None, as in .*config\.json"):
            resumed_options(tmp_path, student="their_nets:net", projection="x:y")


class TestExtendedOptions:
    def test_what_is_left_to_its_default_is_the_runs(self, folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        document["options"] |= {"lr": 0.25, "precision": "fp32", "seed": 4, "device": "cpu"}
        (folder / "config.json").write_text(json.dumps(document))
        asked = TrainOptions(alpha=0.0, out=folder, extend=True, epochs=9, weight_decay=0.5)
        extended = extended_options(asked)
        assert extended == asked.replace(lr=0.25, precision="fp32")
        assert extended_options(asked.replace(lr=1.0)).lr == 1.0

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError) as error:
            extended_options(TrainOptions(alpha=0.0, out=tmp_path, extend=True))
        assert str(error.value) == (
            f"expected a finished run in --out for --extend; found none in {tmp_path};"
            " omit --extend, or correct --out"
        )

    def test_code_is_named_again(self, folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        document["options"] |= {"cache": "t.h5", "alpha": 0.5, "projection": "their:projection"}
        (folder / "config.json").write_text(json.dumps(document))
        asked = TrainOptions(cache=Path("t.h5"), out=folder, extend=True)
        with pytest.raises(OptionError, match="expected --projection their:projection on the comm"):
            extended_options(asked)

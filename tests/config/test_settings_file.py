"""Options from a file: TOML, or a run's config.json; the command line overrides them."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import refused

import precompute_teacher
import train_student
from kdcache.cli.parser import parse_options
from kdcache.config import Options, PrecomputeOptions, TrainOptions, read_settings
from kdcache.errors import OptionError
from kdcache.runs import RunConfig


def written(tmp_path: Path, text: str, name: str = "options.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


class TestReading:
    def test_every_type(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            'cache = "t.h5"\nalpha = 1\nlr = 0.25\nepochs = 3\nsmall-stem = true\nbatch_size = 16\n'
            'mean = [0.5, 0.25, 1]\nstudent = "resnet18"\n',
        )
        assert read_settings(path, TrainOptions) == {
            "cache": Path("t.h5"),
            "alpha": 1.0,
            "lr": 0.25,
            "epochs": 3,
            "small_stem": True,
            "batch_size": 16,
            "mean": (0.5, 0.25, 1.0),
            "student": "resnet18",
        }

    def test_several_values(self, tmp_path: Path) -> None:
        path = written(tmp_path, 'cache = ["a.h5", "b.h5"]\nteacher-weight = [0.75, 0.25]\n')
        assert read_settings(path, TrainOptions) == {
            "cache": (Path("a.h5"), Path("b.h5")),
            "teacher_weight": (0.75, 0.25),
        }
        assert read_settings(written(tmp_path, 'cache = ["a.h5"]'), TrainOptions) == {
            "cache": Path("a.h5")
        }

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('epochs = "3"', "epochs to be a whole number in --config"),
            ("epochs = 3.0", "epochs to be a whole number"),
            ("epochs = true", "epochs to be a whole number"),
            ('alpha = "half"', "alpha to be a number"),
            ("alpha = false", "alpha to be a number"),
            (f"lr = {10**400}", "lr to be a number"),
            ("vis = 1", "vis to be true or false"),
            ("student = 18", "student to be text"),
            ("out = 3", "out to be a path"),
            ("mean = 0.5", "mean to be three numbers [R, G, B]"),
            ('mean = [0.5, "a", 1]', "mean to be three numbers [R, G, B]"),
            ("lr = [0.1]", "lr to be a number"),
            ('cache = ["a.h5", 1]', "cache to be a path"),
            ("cache = []", "cache to be a path"),
            ("[student]\nname = 1", "student to be text"),
            ("epoch = 3\nteacher = 'vit'", "options of train_student.py in --config"),
            ("batch-size = 3\nbatch_size = 4", "batch_size once"),
            ("epochs = ", "TOML in --config"),
        ],
    )
    def test_what_cannot_be_used_is_one_line(
        self, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = written(tmp_path, text)
        line = refused(train_student.main, capsys, "--config", path)
        assert f"error: expected {message}" in line
        assert line.endswith("correct options.toml")

    def test_what_was_found_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = written(tmp_path, "epoch = 3\nteachers = 'vit'")
        assert "; found epoch, teachers; " in refused(train_student.main, capsys, "--config", path)
        path = written(tmp_path, 'views = "many"')
        assert "; found 'many'; " in refused(precompute_teacher.main, capsys, "--config", path)
        missing = refused(train_student.main, capsys, "--config", tmp_path / "none.toml")
        assert f"a file that can be read in --config {tmp_path / 'none.toml'}" in missing

    def test_a_value_out_of_range(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(train_student.main, capsys, "--config", written(tmp_path, "alpha = 2"))
        assert "--alpha to be 0 to 1; found --alpha 2.0" in line

    @pytest.mark.parametrize("text", ["[1]", "3", "{", '{"options": 3}', "[" * 100_000])
    def test_json_that_is_no_configuration(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"in --config .*config\.json"):
            read_settings(written(tmp_path, text, "config.json"), TrainOptions)


class TestPrecedence:
    FILE = 'cache = "t.h5"\nepochs = 3\nseed = 1\nstream = true\n'

    def parsed(self, path: Path, *words: str) -> Any:
        return parse_options(TrainOptions, ["--config", str(path), *words], None)

    def test_the_command_line_over_the_file_over_the_defaults(self, tmp_path: Path) -> None:
        path = written(tmp_path, self.FILE)
        file = TrainOptions(cache=Path("t.h5"), epochs=3, seed=1, stream=True)
        assert self.parsed(path) == file
        assert self.parsed(path, "--epochs", "20", "--no-stream") == file.replace(
            epochs=20, stream=False
        )

    def test_what_the_command_line_makes_idle_is_left_out_with_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = written(tmp_path, self.FILE + "temperature = 4\nlive-teacher = true\nlimit = 100\n")
        options = self.parsed(path, "--alpha", "0")
        assert (options.temperature, options.live_teacher, options.limit) == (2.0, False, None)
        assert capsys.readouterr().err == (
            f"{path}: not used here: --temperature, --live-teacher, --limit\n"
        )
        with pytest.raises(OptionError, match=r"--temperature 3\.0 only with --alpha above 0"):
            self.parsed(path, "--alpha", "0", "--temperature", "3")

    def test_a_runs_configuration(self, tmp_path: Path) -> None:
        """Without what says what becomes of an earlier run, or the file would replace its run."""
        options = TrainOptions(
            cache=Path("t.h5"), lr=0.5, mean=(0.5, 0.5, 0.25), overwrite=True, out=Path("runs/a")
        )
        document = RunConfig(options).to_json()
        document["options"]["resume"] = None  # of 0.1.0
        path = written(tmp_path, json.dumps(document), "config.json")
        assert self.parsed(path) == options.replace(overwrite=False)
        assert self.parsed(path, "--seed", "3").seed == 3

    @pytest.mark.parametrize("kind", [PrecomputeOptions, TrainOptions])
    def test_both_phases_take_one(self, kind: type[Options], tmp_path: Path) -> None:
        path = written(tmp_path, 'image-size = 96\ndata = "images"\n')
        options = parse_options(kind, ["--config", str(path)], None)
        assert options == kind(image_size=96, data=Path("images"))

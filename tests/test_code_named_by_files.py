"""Code that a cache or a run's folder names runs only where the user names it, too."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_makers import read_layout_of, replace_in_manifest
from commands import refused, run
from finished_runs import write_run

import train_student
from kdcache.cli.main import main
from kdcache.config import TrainOptions, agreed, flag_of, registry
from kdcache.errors import OptionError
from kdcache.export import open_run
from kdcache.runs import resumed_options

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from tiny_models import tiny_cnn as net, tiny_teacher
"""


@pytest.fixture(autouse=True)
def nothing_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tuple(name for name in registry._OWN if name.startswith("kdcache."))
    monkeypatch.setattr(registry, "_OWN", own)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def evil(tmp_path: Path) -> Callable[[str], None]:
    """Makes a module that says when it is imported, and sees to it that it was not."""
    made = []

    def make(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(EVIL)
        made.append(name)

    yield make
    for name in made:
        assert name not in sys.modules and not (tmp_path / name / "ran").exists()


class TestTheRule:
    def test_names_without_code_are_free(self) -> None:
        for name in ("vit_b_16", "kl", "cached", "tiny_models", "kdcache.models.small_resnets:x"):
            assert agreed(name, None, "--it", "f") == agreed(name, name, "--it", "f") == name

    @pytest.mark.parametrize(
        "name", ["a:b", "a:1", ":", "a.b:c.d", "kdcache.cli:entry_point", "x.kdcache.models:y"]
    )
    def test_all_that_could_be_imported_must_be_named(self, name: str) -> None:
        assert agreed(name, name, "--it", "f") == name
        with pytest.raises(OptionError) as error:
            agreed(name, None, "--it", "f.h5")
        assert str(error.value) == (
            f"expected --it {name} on the command line, before that code is run;"
            " found only f.h5 naming it; give it if you trust the code"
        )

    @pytest.mark.parametrize("name", ["a:b", "vit_b_16"])
    def test_another_name_is_refused(self, name: str) -> None:
        with pytest.raises(OptionError) as error:
            agreed(name, "a:c", "--it", "f.h5")
        assert str(error.value) == (
            f"expected --it {name}, as in f.h5; found --it a:c; correct or omit --it"
        )


@pytest.fixture
def strange_cache(shapes_cache: Path, tmp_path: Path) -> Path:
    """The cache, whose teacher is now another module of the same length."""
    path = tmp_path / "strange.h5"
    path.write_bytes(shapes_cache.read_bytes())
    replace_in_manifest(path, b'"tiny_models:tiny_teacher"', b'"evil_models:tiny_teacher"')
    assert read_layout_of(path)
    return path


class TestTheTeacherOfACache:
    def test_verify(
        self,
        strange_cache: Path,
        evil: Callable[[str], None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        evil("evil_models")
        message = refused(main, capsys, "verify", strange_cache, "--live", 5)
        assert "expected --teacher evil_models:tiny_teacher on the command line" in message
        words = ["verify", strange_cache, "--live", 5, "--teacher", "tiny_models:tiny_teacher"]
        assert "correct or omit --teacher" in refused(main, capsys, *words)

    def test_the_teacher_in_the_loop(
        self,
        strange_cache: Path,
        evil: Callable[[str], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        evil("evil_models")
        words = ["--cache", strange_cache, "--live-teacher", "--out", tmp_path / "run"]
        student = ["--student", "tiny_models:tiny_cnn"]
        message = refused(train_student.main, capsys, *words, *student)
        assert "expected --teacher evil_models:tiny_teacher on the command line" in message

    def test_it_runs_when_it_is_named(self, shapes_cache: Path) -> None:
        named = ["--teacher", "tiny_models:tiny_teacher"]
        assert run(main, "verify", shapes_cache, "--live", 5, *named) == 0


class TestRuns:
    @pytest.mark.parametrize("name", TrainOptions.names_of_code())
    def test_resume_asks_for_all_code_of_the_run(
        self,
        name: str,
        evil: Callable[[str], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        evil("evil")
        folder = write_run(tmp_path / "run", None, finished=False)
        config = json.loads((folder / "config.json").read_text())
        used = {"cache": "t.h5", "alpha": 0.5, "live_teacher": True}  # or it is left out
        config["options"] |= used | {name: "evil:net"}
        (folder / "config.json").write_text(json.dumps(config))
        message = refused(train_student.main, capsys, "--resume", folder)
        assert f"expected {flag_of(name)} evil:net on the command line" in message
        assert f"found only {folder / 'config.json'} naming it" in message
        named = ["--resume", folder, flag_of(name), "other:net"]
        assert "correct or omit" in refused(train_student.main, capsys, *named)
        message = refused(train_student.main, capsys, "--config", folder / "config.json")
        assert f"expected {flag_of(name)} evil:net on the command line" in message
        assert getattr(resumed_options(folder, **{name: "evil:net"}), name) == "evil:net"

    def test_these_are_the_options_that_name_code(self) -> None:
        assert set(TrainOptions.names_of_code()) == {
            "dataset", "student", "projection", "loss", "augment", "teacher",
        }  # fmt: skip

    @pytest.mark.parametrize("command", [["predict", "x.png"], ["export", "--format", "pt2"]])
    def test_predict_and_export(
        self,
        command: list[str],
        evil: Callable[[str], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        evil("evil")
        folder = write_run(tmp_path / "run", 0.5)
        (folder / "student.pt").touch()
        card = json.loads((folder / "student.json").read_text()) | {"model": "evil:net"}
        (folder / "student.json").write_text(json.dumps(card))
        first, *others = command
        message = refused(main, capsys, first, folder, *others)
        assert "expected --student evil:net on the command line" in message
        assert f"found only {folder / 'student.json'} naming it" in message
        with pytest.raises(OptionError, match="correct or omit --student"):
            open_run(folder, "other:net")

    def test_compare_runs_none(
        self, evil: Callable[[str], None], tmp_path: Path, shapes_cache: Path
    ) -> None:
        evil("evil")
        folder = write_run(tmp_path / "run", 0.5, student="evil:net", dataset="evil:net")
        assert run(main, "compare", folder, "--html", tmp_path / "p.html", "--data", tmp_path) == 0

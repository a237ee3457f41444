"""Checking every byte, here and in a child with limits, whatever a forged file does to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cache_makers import block_extents, flip, make_manifest

from kdcache.cache import verify
from kdcache.errors import CacheDamagedError


@pytest.fixture
def damaged(good_path: Path) -> Path:
    flip(good_path, block_extents(good_path)[1].offset, 1)
    return good_path


def test_an_intact_cache_is_opened(good_path: Path) -> None:
    assert verify.verify_cache(good_path).fingerprint == make_manifest().fingerprint


def test_damage_is_an_error_of_its_own_kind(damaged: Path) -> None:
    with pytest.raises(CacheDamagedError, match="block 1 of the logits"):
        verify.verify_cache(damaged)


class TestTheChild:
    def test_it_says_nothing_of_an_intact_cache(
        self, good_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify.main([str(good_path)]) == 0
        assert capsys.readouterr() == ("", "")

    def test_it_names_the_damage_with_exit_code_1(
        self, damaged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify.main([str(damaged)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(
            f"error: expected a complete cache; found {damaged} damaged in block 1"
        )
        assert said.count("\n") == 1

    def test_no_cache_is_exit_code_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify.main([str(tmp_path / "none.h5")]) == 2
        assert capsys.readouterr().err.startswith("error: expected a finished cache; found ")

    def test_it_does_not_import_torch(self) -> None:
        code = "import sys, kdcache.cache.verify; print('torch' in sys.modules)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
        assert said.stdout.split() == [b"False"]


def environment() -> dict[str, str]:
    """In which a child finds the package."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


class TestInAChild:
    def test_an_intact_cache(self, good_path: Path) -> None:
        assert verify.verify_in_child(good_path) is None

    def test_the_fault_is_the_line_that_the_child_says(
        self, damaged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        verify.main([str(damaged)])
        assert f"{verify.verify_in_child(damaged)}\n" == capsys.readouterr().err

    def test_a_path_like_an_option_is_a_path(
        self, good_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good_path.rename(good_path.with_name("-x"))
        monkeypatch.chdir(good_path.parent)
        assert verify.verify_in_child(Path("-x")) is None

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with Python 3.11")
    def test_the_child_takes_this_package_whatever_lies_in_the_folder(
        self, good_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("kdcache", "h5py"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('another package')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PYTHONPATH", raising=False)
        assert verify.verify_in_child(good_path) is None

    @pytest.mark.parametrize(
        ("script", "fault"),
        [
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
                "killed the reading process (signal 11)",
            ),
            ("while True: pass", "took more than 1 s"),
            ("x = bytearray(1 << 40)", "MemoryError"),
            ("raise SystemExit(3)", "exit code 3"),
        ],
    )
    def test_what_a_forged_file_does_to_the_child_is_told(
        self, script: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{script}'\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(verify, "_CHILD_SECONDS", 1)
        said = verify.verify_in_child(tmp_path / "forged.h5")
        assert said is not None
        assert fault in said

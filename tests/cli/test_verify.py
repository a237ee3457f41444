"""`verify`: every byte of a cache and its probe, here and in a child with limits, whatever a forged
file does to it.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_makers import block_extents, craft, flip, make_manifest, write_cache
from commands import refused, run

from kdcache.cache import open_cache
from kdcache.cli.commands import verify
from kdcache.cli.main import main
from kdcache.distill.probe_file import probe_path


@pytest.fixture
def good_path(tmp_path: Path) -> Path:
    write_cache(tmp_path / "t.h5", make_manifest())
    return tmp_path / "t.h5"


@pytest.fixture(params=[(), ("--untrusted",)], ids=["here", "in a child"])
def how(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


def test_an_intact_cache(
    how: tuple[str, ...], good_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, "verify", good_path, *how) == 0
    fingerprint = make_manifest().fingerprint
    said = f"{good_path}: every byte is the one that was written (fingerprint {fingerprint})\n"
    assert capsys.readouterr() == (said, "")


def test_damage_is_exit_code_1(
    how: tuple[str, ...], good_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(good_path, block_extents(good_path)[1].offset, 1)
    assert run(main, "verify", good_path, *how) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: expected a complete cache; found {good_path} damaged in block 1"
    )
    assert said.count("\n") == 1


def test_an_edit_that_keeps_every_crc32_is_refused(
    how: tuple[str, ...], good_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(good_path, 2)
    assert run(main, "verify", good_path, *how) == 1
    assert "damaged in the logits: their SHA-256 is not the one" in capsys.readouterr().err


def test_no_cache_is_exit_code_2(
    how: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(main, capsys, "verify", tmp_path / "none.h5", *how)
    assert said.startswith("error: expected a finished cache; found ")


def test_a_probe_beside_it_is_checked(
    how: tuple[str, ...], shapes_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.h5"
    shutil.copy(shapes_cache, path)
    assert run(main, "info", path) == 0  # fits the probe
    capsys.readouterr()
    assert run(main, "verify", path, *how) == 0
    probe = probe_path(open_cache(path))
    assert f"{probe}: the probe fitted on these logits" in capsys.readouterr().out
    flip(probe, 2000, 1)
    assert run(main, "verify", path, *how) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: expected the probe of {path}; found {probe}, which is damaged")


def test_live_needs_a_file_that_is_trusted(
    good_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(main, capsys, "verify", good_path, "--untrusted", "--live", 5)
    assert said.endswith("found both; give --live once the file is trusted")


class TestTheChild:
    def test_it_does_not_import_torch_for_a_cache_alone(self, good_path: Path) -> None:
        code = "import sys; from kdcache.cli.main import main; main(['verify', sys.argv[1]])"
        command = [sys.executable, "-c", f"{code}; print('torch' in sys.modules)", good_path]
        path = os.pathsep.join(sys.path)
        said = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": path})
        assert said.stdout.split()[-1] == b"False"

    def test_a_path_like_an_option_is_a_path(
        self, good_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good_path.rename(good_path.with_name("-x"))
        monkeypatch.chdir(good_path.parent)
        assert run(main, "verify", "--untrusted", "--", "-x") == 0

    def test_it_takes_this_package_whatever_lies_in_the_folder(
        self, good_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("kdcache", "h5py"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('another package')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PYTHONPATH", raising=False)
        assert run(main, "verify", good_path, "--untrusted") == 0

    @pytest.mark.parametrize(
        ("script", "fault"),
        [
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
                "killed the reading process (signal 11)",
            ),
            ("while True: pass", "took more than 1 s"),
            ("x = bytearray(20 << 30)", "(MemoryError)"),
            ("raise SystemExit(3)", "(exit code 3)"),
            (
                "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                "open(__import__('sys').argv[-1], 'wb', 0).write(b'x')",
                "File too large",
            ),
            (
                "import resource; raise SystemExit(str(resource.getrlimit(resource.RLIMIT_CORE)))",
                "((0, 0))",
            ),
            ("raise SystemExit(input())", "EOF when reading a line"),
        ],
        ids=["crash", "time", "memory", "code", "writing", "core", "standard input"],
    )
    def test_its_limits_hold_and_what_a_forged_file_does_to_it_is_told(
        self,
        script: str,
        fault: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "script.py").write_text(script)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/script.py "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(verify, "_CHILD_SECONDS", 1)
        started = time.monotonic()
        assert run(main, "verify", tmp_path / "forged.h5", "--untrusted") in (1, 3)
        assert time.monotonic() - started < 60
        said = capsys.readouterr().err
        assert said.startswith(f"error: reading {tmp_path / 'forged.h5'} ") and fault in said
        assert said.count("\n") == 1

    def test_the_limits_are_those_that_the_documents_promise(self) -> None:
        assert (verify._CHILD_SECONDS, verify._CHILD_BYTES) == (120, 16 * 2**30)

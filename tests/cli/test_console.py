"""Printing, progress bars and platforms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from phases import ROOT

from kdcache.cli.console import Progress
from kdcache.errors import OptionError
from kdcache.runtime import try_lock

# Windows has no fcntl; importing torch would fail on this pretended one, so nothing may get there
WINDOWS = """
import sys
sys.platform = "win32"
for name in ("fcntl", "resource", "torch"):
    sys.modules[name] = None
{}
"""
STARTS = {
    "kdcache": "from kdcache.cli import entry_point; sys.exit(entry_point(['info', 'c.h5']))",
    "precompute_teacher.py": "import runpy; runpy.run_path(sys.argv[1], run_name='__main__')",
    "train_student.py": "import runpy; runpy.run_path(sys.argv[1], run_name='__main__')",
}


@pytest.mark.parametrize("name", STARTS)
def test_windows_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS.format(STARTS[name]), str(ROOT / name)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == (
        "error: expected Linux or macOS; found Windows; use it in WSL 2 or a Linux container\n"
    )


def test_without_fcntl_a_lock_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    refusal = pytest.raises(OptionError, match="expected Linux or macOS; found a system without")
    with open(tmp_path / "lock", "w") as file, refusal:
        try_lock(file.fileno())


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_kdcache_alone_lists_the_commands(words: list[str], tmp_path: Path) -> None:
    """Exit code 0, in a real process: `python -m kdcache` and what `kdcache` starts."""
    starts = (
        [sys.executable, "-m", "kdcache", *words],
        [sys.executable, "-c", f"from kdcache.cli.main import entry_point; {EXIT}", *words],
    )
    for command in starts:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert finished.returncode == 0
        assert finished.stderr == ""
        assert "\n  train       Phase two: train a student" in finished.stdout


EXIT = "raise SystemExit(entry_point())"


class TestProgress:
    def test_a_terminal_gets_no_warning(self) -> None:
        """Also where the notebook's bar cannot be had, for lack of ipywidgets."""
        program = (
            "import sys; sys.modules['ipywidgets'] = None\n"
            "from kdcache.cli.console import Progress\n"
            "with Progress('student', 'step') as bar:\n"
            "    bar(1, 4); bar.say('a line'); bar(4, 4)\n"
        )
        command = [sys.executable, "-W", "error", "-c", program]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0
        assert finished.stdout == "a line\n"
        assert "4/4" in finished.stderr and "Warning" not in finished.stderr

    def test_a_notebook_without_ipywidgets_gets_the_plain_bar(self) -> None:
        program = (
            "import sys, types\n"
            "sys.modules['ipywidgets'] = None\n"
            "shell = types.SimpleNamespace(config={'IPKernelApp': {}})\n"
            "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: shell)\n"
            "from kdcache.cli.console import Progress\n"
            "with Progress('student', 'step') as bar:\n"
            "    bar(4, 4)\n"
        )
        command = [sys.executable, "-c", program]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0, finished.stderr
        assert "4/4" in finished.stderr and "IProgress" not in finished.stderr

    def test_where_nothing_was_counted_nothing_stays(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Progress("student", "step"):
            pass
        assert capsys.readouterr().err.split("\r")[-1].strip() == ""

"""Printing, progress bars and platforms."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from phases import ROOT

from kdcache.cli.console import Progress, exit_code, fail, printable, say, warn
from kdcache.cli.parser import OneLineParser
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


BAD = "a\x1b[31mred\x07\u202egpj\ud800\u2028\r"
ESCAPED = r"a\x1b[31mred\x07\u202egpj\ud800\u2028\r"


class TestControlCharacters:
    """Class names, teachers, HDF5's links and paths are other people's; a terminal obeys them."""

    @pytest.mark.parametrize("text", ["ä ± − 猫 \N{NO-BREAK SPACE}", "two\nlines", ""])
    def test_text_stays(self, text: str) -> None:
        assert printable(text) == text

    def test_the_rest_is_escaped(self) -> None:
        assert printable(f"{BAD}\nnext\t") == f"{ESCAPED}\nnext\\t"

    def test_wherever_something_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        say(BAD)
        with Progress("student", "step") as progress:
            progress(1, 2)
            progress.say(BAD)
            progress.show(BAD)
        warn(BAD)
        fail(BAD)
        with pytest.raises(SystemExit):
            OneLineParser(prog="x").parse_args([BAD])

        def refuse() -> int:
            raise OptionError("one", BAD, "do")

        assert exit_code(refuse) == 2
        shown = capsys.readouterr()
        assert shown.out == f"{ESCAPED}\n{ESCAPED}\n"
        assert shown.err.count(ESCAPED[:-2]) == 5
        assert "\x1b[31m" not in shown.err and "\x07" not in shown.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_ctrl_c_does(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        assert exit_code(main) == 128 + number
        assert capsys.readouterr().err == "interrupted; nothing was left behind\n"
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_a_hang_up_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert exit_code(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EROFS, errno.ENOSPC])
def test_what_the_machine_forbids_is_one_line(
    code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise OSError(code, os.strerror(code), "the/file")

    assert exit_code(main) == 2
    assert capsys.readouterr().err == (
        "error: expected files that can be read and written;"
        f" found the/file: {os.strerror(code)}; correct it\n"
    )


def test_so_is_too_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise MemoryError("no room for 9 EB")

    assert exit_code(main) == 2
    assert "found too little (no room for 9 EB)" in capsys.readouterr().err


def test_other_errors_of_the_system_are_faults_of_ours() -> None:
    def main() -> int:
        raise FileNotFoundError(errno.ENOENT, "gone")

    with pytest.raises(FileNotFoundError):
        exit_code(main)


class TestUnderTorchrun:
    def test_the_main_process_speaks_and_the_summary_has_the_line_of_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
        for rank, shown in (("0", "error: no\n"), ("1", "")):
            monkeypatch.setenv("RANK", rank)
            fail("error: no")
            assert capsys.readouterr().err == shown
            assert json.loads((tmp_path / "error.json").read_text())["message"] == "error: no"

    def test_without_its_file_each_speaks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        for file in ("", str(tmp_path / "none" / "error.json")):
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)
            fail("error: no")
            assert capsys.readouterr().err == "error: no\n"

"""One pytest session, in which each mutant is tried in a process of its own.

The tests are imported once. A forked process then runs those of them that reach the mutant's
lines, the quickest first, and ends at the first failure. In it the changed function has the
mutant's code; the mutant also stands in the file, for tests that start Python anew.
"""

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from mutants.generate import Mutant

SURVIVED, KILLED, TIMED_OUT = "survived", "killed", "timed out"
NOT_PATCHED = "not patched"  # it takes a process that imports it
BROKEN = "broken"  # these scripts are, and not the mutant
_EXITS = [SURVIVED, KILLED, NOT_PATCHED, BROKEN]
Functions = dict[tuple[str, str], list[FunctionType]]
"""All functions of a process, by file and qualified name."""

_MEMORY = 16 << 30  # bytes of addresses that a mutant's process may have


@dataclass
class Reached:
    """Which tests reach a line, and what each takes, in seconds of processor time."""

    tests: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def by(self, path: str, lines: Iterable[int] | None, limit: float) -> list[str]:
        """The tests that reach any of these lines, `limit` seconds of them.

        The quickest first, but before them those of the module's own file of tests. With None,
        those that reach any line of the module.
        """
        folder, _, module = path.replace("kdcache/", "tests/", 1).rpartition("/")
        own = f"{folder}/test_{module}::"
        tests = self.tests.get(path, {})
        found = {
            name for line in (tests if lines is None else lines) for name in tests.get(line, ())
        }
        chosen, total = [], 0.0
        for name in sorted(found, key=lambda name: (not name.startswith(own), self.seconds[name])):
            total += self.seconds[name]
            if total > limit and chosen:
                break
            chosen.append(name)
        return chosen


class Trace:
    """A pytest plugin: notes in a file which lines each test reaches."""

    def __init__(self, root: Path, paths: Iterable[str], result: Path) -> None:
        self._paths = {str(root / path): path for path in paths}
        self._result = result
        self._reached: dict[str, dict[int, set[str]]] = {
            path: defaultdict(set) for path in self._paths.values()
        }
        self._seconds: dict[str, float] = {}
        self._failed: list[str] = []
        self._test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        self._test, before = item.nodeid, sum(os.times()[:4])
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = sum(os.times()[:4]) - before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append(report.nodeid)

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        tests = {
            path: {str(line): sorted(names) for line, names in lines.items()}
            for path, lines in self._reached.items()
        }
        found = {"tests": tests, "seconds": self._seconds, "failed": self._failed}
        self._result.write_text(json.dumps(found))

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        path = self._paths.get(frame.f_code.co_filename)
        if path is None:
            return None
        lines = self._reached[path]

        def local(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            if event == "line" and self._test:  # and not while the tests are imported
                lines[frame.f_lineno].add(self._test)
            return local

        return local


def read_reached(result: Path) -> tuple[Reached, list[str]]:
    """What `Trace` wrote, and the tests that failed."""
    found = json.loads(result.read_text())
    tests = {
        path: {int(line): set(names) for line, names in lines.items()}
        for path, lines in found["tests"].items()
    }
    return Reached(tests, found["seconds"]), found["failed"]


class Patched:
    """A pytest plugin: instead of running the tests, tries mutants of functions, one by one."""

    def __init__(
        self,
        mutants: list[tuple[Mutant, list[str]]],
        tree: Path,
        report: Callable[[Mutant, str, float], None],
        seconds: dict[str, float],
    ) -> None:
        self._mutants = mutants
        self._tree = tree
        self._report = report
        self._seconds = seconds

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = _functions()
        gc.freeze()  # so that the processes share what is there
        for mutant, names in self._mutants:
            started = time.monotonic()
            chosen = [items[name] for name in names]
            work = partial(_try, mutant, self._tree, functions, session, chosen)
            seconds = sum(self._seconds[name] for name in names)
            with mutant_in_file(self._tree, mutant):
                outcome = in_child(work, seconds)
            self._report(mutant, outcome, time.monotonic() - started)
        return True


def _try(
    mutant: Mutant,
    tree: Path,
    functions: Functions,
    session: pytest.Session,
    items: list[pytest.Item],
) -> int:
    if not _patch(mutant, tree, functions):
        return _EXITS.index(NOT_PATCHED)
    for place, item in enumerate(items):
        following = items[place + 1] if place + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return _EXITS.index(KILLED)
    return _EXITS.index(SURVIVED)


def _functions() -> Functions:
    found = defaultdict(list)
    for one in gc.get_objects():
        if type(one) is FunctionType:
            found[one.__code__.co_filename, one.__code__.co_qualname].append(one)
    return found


def _patch(mutant: Mutant, tree: Path, functions: Functions) -> bool:
    """Give the functions of this process the mutant's code; False where that cannot be done."""
    path = str(tree / mutant.path)
    code = _code_of(compile(mutant.source, path, "exec"), mutant.function)
    found = functions.get((path, mutant.function))
    if code is None or not found:
        return False
    try:
        for function in found:
            function.__code__ = code
    except ValueError:  # it has more or fewer free variables
        return False
    return True


def _code_of(code: CodeType, qualified_name: str) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualified_name:
                return constant
            found = _code_of(constant, qualified_name)
            if found is not None:
                return found
    return None


@contextmanager
def mutant_in_file(tree: Path, mutant: Mutant) -> Iterator[None]:
    """Have the module's file hold the mutant until the end of the block."""
    path = tree / mutant.path
    original = path.read_bytes()
    compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
    compiled.unlink(missing_ok=True)
    try:
        path.write_text(mutant.source)
        yield
    finally:
        path.write_bytes(original)
        compiled.unlink(missing_ok=True)


def in_child(work: Callable[[], int], seconds: float) -> str:
    """Do `work` in a forked process; what came of it.

    Args:
        seconds: of processor time that it should take. It is ended after some times as many, and
            after many times as many by the clock: other processes may be in its way.
    """
    pid = os.fork()
    if pid == 0:
        code = _EXITS.index(BROKEN)
        try:
            os.setsid()
            null = os.open(
                os.environ.get("MUTANTS_LOG", os.devnull), os.O_RDWR | os.O_CREAT | os.O_APPEND
            )
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (int(10 + 5 * seconds),) * 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + 90 + 60 * seconds
    delay = 0.005
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() > deadline:
            break
        time.sleep(delay)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what it has started
    if not done:
        os.waitpid(pid, 0)
        return TIMED_OUT
    return _outcome(os.waitstatus_to_exitcode(status))


def _outcome(code: int) -> str:
    # what ends a process from outside is no success
    return _EXITS[code] if 0 <= code < len(_EXITS) else KILLED

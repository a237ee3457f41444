"""Check every byte of a cache and its probe; with --live, also its teacher on some rows."""

import argparse
import glob
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdcache import cache, cli, distill, report
from kdcache.cli.console import say, warn
from kdcache.cli.parser import add_image_arguments, add_model_argument
from kdcache.errors import CacheDamagedError, DataError, OptionError

_MODULE = "kdcache.cli.commands.verify"  # this module, which the child runs
_CHILD_SECONDS = 120
_CHILD_BYTES = 16 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cache", type=Path, metavar="CACHE")
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="in a child process with limits, for a file from a stranger",
    )
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="N",
        help="also run the teacher again on N random views",
    )
    add_model_argument(parser, "teacher")
    parser.add_argument(
        "--teacher-weights",
        metavar="FILE",
        help="the teacher's weights, if phase one had them from a file",
    )
    add_image_arguments(parser, "for --live")
    parser.add_argument("--device", default="auto", help="where the teacher runs")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of that choice")


def run(arguments: argparse.Namespace) -> int:
    path = arguments.cache
    if arguments.untrusted:
        if arguments.live:
            expected, remedy = "--untrusted or --live N", "give --live once the file is trusted"
            raise OptionError(expected, "both", remedy)
        return _in_child(path)
    try:
        opened = cache.verify_cache(path)
    except CacheDamagedError as error:
        warn(f"error: {error}")
        return 1
    say(f"{path}: every byte is the one that was written (fingerprint {opened.fingerprint})")
    if any(path.parent.glob(f"{glob.escape(path.name)}.probe-*.pt")):  # or torch is not needed
        try:
            said = distill.verify_probe(opened)
        except DataError as error:
            warn(f"error: {error}")
            return 1
        if said is not None:
            say(said)
    if not arguments.live:
        return 0
    result = report.rerun_teacher(
        opened,
        distill.load_images_of(opened, arguments.data, dataset=arguments.dataset),
        arguments.live,
        teacher=arguments.teacher,
        weights=arguments.teacher_weights,
        device=arguments.device,
        seed=arguments.seed,
    )
    within, output = result.pop("within"), opened.manifest.teacher.output
    rows = [
        {"what": key.replace("_", " "), "value": _short(value)} for key, value in result.items()
    ]
    say(report.format_table(rows))
    if within:
        say(f"the teacher still gives these {output}, but for what its precision explains")
        return 0
    warn(f"error: the teacher gives other {output} than these; run phase one again with --restart")
    return 1


def _in_child(path: Path) -> int:
    """Have a process with limits on time and memory, which a forged file may kill, do the same.

    It says what that process said, and returns its exit code; 1 where it came to no end of its own.
    """
    import resource  # not at the top: Windows lacks it, and is refused in one line

    def limit() -> None:
        """In the child, before it becomes Python."""
        resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write

    # The child imports what this process would, whatever lies in the current folder.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",  # each thread of a large machine would ask for memory of its own
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", _MODULE, "--", str(path)],
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            preexec_fn=limit,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        warn(f"error: reading {path} took more than {_CHILD_SECONDS} s")
        return 1
    if child.returncode < 0:
        warn(f"error: reading {path} killed the reading process (signal {-child.returncode})")
        return 1
    if child.stdout:
        say(child.stdout.rstrip())
    if child.returncode:
        line = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        told = line.startswith("error: ")
        warn(line if told else f"error: reading {path} ended the reading process ({line})")
    return child.returncode


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":  # the child that `--untrusted` started
    sys.exit(cli.entry_point(["verify", *sys.argv[1:]]))

#!/usr/bin/env python3
"""Run `make demo` 20 times with other seeds, and print what came out as a Markdown table.

    python docs/repeat_demo.py

Half of them run with one thread, the others with two. Each has a folder of its own under --work, so
the same command goes on with what was interrupted, and several processes may share the work.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from kdcache.cli import OneLineParser, exit_code, say
from kdcache.report import compare_runs
from kdcache.runs import claim, find_runs
from kdcache.runtime import write_json

REPETITIONS = 20
SEEDS = 5  # of one repetition
RESULT = "repetition.json"
LEVEL = 0.05

Result = dict[str, Any]


def repeat(number: int, folder: Path) -> None:
    """Run the demo with the seeds and the threads of a repetition, unless that has been done."""
    with claim(folder) as mine:
        if not mine or (folder / RESULT).exists():
            return
        threads = 1 if number < REPETITIONS // 2 else 2
        settings = [f"DEMO={folder.resolve()}", f"SEED={number * SEEDS}", f"SEEDS={SEEDS}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        before = processor_seconds()
        subprocess.run(["make", "demo", *settings], cwd=ROOT, env=environment, check=True)
        seconds = processor_seconds() - before
        found, _ = find_runs([folder / "students"])
        comparison = compare_runs(found).to_json()
        write_json(folder / RESULT, {"threads": threads, "seconds": seconds, **comparison})


def processor_seconds() -> float:
    """Of all processes that this one has started and waited for, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(results: Sequence[Result]) -> str:
    """A row for each repetition, and in words what they came to.

    Accuracies are in percent, with their standard deviation over the seeds, and gains in points
    with their 95 % interval.
    """
    lines = [
        "| seeds | threads | labels only | distilled | gain | p | processor seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    columns: dict[str, list[float]] = {}
    significant = 0
    for result in results:
        labels, distilled = (row_of(result, kind) for kind in ("labels only", "distilled"))
        gain, low, high = (100 * distilled[f"difference{end}"] for end in ("", "_low", "_high"))
        significant += gain > 0 and distilled["p"] < LEVEL
        cells = [
            f"{min(labels['seeds'])} to {max(labels['seeds'])}",
            f"{result['threads']}",
            *(mean_and_spread(row["test_accuracy"], row["test_sd"]) for row in (labels, distilled)),
            f"{gain:+.2f} ({low:+.2f} to {high:+.2f})",
            f"{distilled['p']:.2g}",
            f"{result['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        columns.setdefault("labels only", []).append(100 * labels["test_accuracy"])
        columns.setdefault("distilled", []).append(100 * distilled["test_accuracy"])
        columns.setdefault("gain", []).append(gain)
        columns.setdefault("processor seconds", []).append(result["seconds"])
    lines.append(f"\np below {LEVEL} in {significant} of {len(results)} repetitions. Over them:")
    for name, values in columns.items():
        spread = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
        lines.append(f"{name} {spread} ({min(values):.2f} to {max(values):.2f})")
    return "\n".join(lines)


def row_of(result: Result, kind: str) -> dict[str, Any]:
    (row,) = (row for row in result["rows"] if row["kind"] == kind)
    return row


def mean_and_spread(accuracy: float, deviation: float) -> str:
    return f"{100 * accuracy:.2f} ± {100 * deviation:.2f}"


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/repetitions"))
    work = parser.parse_args(argv).work
    folders = [work / f"{number:02}" for number in range(REPETITIONS)]
    for number, folder in enumerate(folders):
        repeat(number, folder)
    done = [folder / RESULT for folder in folders if (folder / RESULT).exists()]
    say(markdown([json.loads(path.read_text()) for path in done]))


if __name__ == "__main__":
    sys.exit(exit_code(main))

"""Run all torture scripts one after another, print their table, and write it into docs/torture.md.

`python tests/torture/run.py` takes the counts of an ordinary test run, a minute, and writes
nothing; with `--full` it takes those of the table, an hour and a half, and writes it anew.
"""

import argparse
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = Path(__file__).parents[2] / "docs" / "torture.md"
MARK = "<!-- written by tests/torture/run.py --full -->\n"
FULL = {
    "kills": 1000,
    "torchrun": 10,
    "students": 50,
    "scripts": 300,
    "syscalls": 100_000,
    "syscalls --commands": 100_000,
    "power_loss": 10_000,
    "power_loss --commands": 2000,
    "errors": 100_000,
    "full_disk": 200,
    "corruption": 100_000,
    "damage": 100_000,
    "fuzzing": 20_000,
    "guided": 4200,
    "headers": 2000,
    "strangers": 2000,
    "races": 1000,
    "reading": 25,
    "memory": 5,
}
QUICK = {name: None for name in FULL if name != "torchrun"}


def run(name: str, count: int | None, seed: int) -> tuple[str, bool]:
    """The row of one script, and whether it found nothing wrong."""
    arguments = ["--seed", str(seed)] + ([] if count is None else ["--count", str(count)])
    command = [sys.executable, "-m", *f"torture.{name}".split(), *arguments]
    done = subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    row = (
        done.stdout.strip().splitlines()[-1]
        if done.stdout.strip()
        else f"| {name} | | **ended with {done.returncode}** |"
    )
    return row, done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="the counts of docs/torture.md, which is written anew"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only some of {', '.join(FULL)}")
    arguments = parser.parse_args()
    counts = {
        name: count
        for name, count in (FULL if arguments.full else QUICK).items()
        if not arguments.names or name.split()[0] in arguments.names
    }
    rows, right, started = (
        ["| what | how many | outcome |", "|---|--:|---|"],
        True,
        time.monotonic(),
    )
    print("\n".join(rows), flush=True)
    for name, count in counts.items():
        row, fine = run(name, count, arguments.seed)
        rows, right = [*rows, row], right and fine
        print(row, flush=True)
    if arguments.full and not arguments.names:
        facts = (
            f"`python tests/torture/run.py --full --seed {arguments.seed}`",
            f"{date.today()}",
            f"Python {platform.python_version()}",
            f"h5py {version('h5py')}",
            f"NumPy {version('numpy')}",
            platform.system(),
            f"{(time.monotonic() - started) / 60:.0f} minutes.",
        )
        text = TABLE.read_text().split(MARK)[0]
        TABLE.write_text(text + MARK + "\n" + ", ".join(facts) + "\n\n" + "\n".join(rows) + "\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

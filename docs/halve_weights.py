#!/usr/bin/env python3
"""Write a finished run's weights in half precision, and its card beside them.

    python docs/halve_weights.py runs/demo-teacher kdcache/models/shapes_teacher/teacher.pt

`make demo-teacher` makes the teacher that comes with the package in this way.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from kdcache.cli import OneLineParser, exit_code, say
from kdcache.models import CARD_FILE, read_state_dict
from kdcache.runs import STUDENT_FILE
from kdcache.runtime import save_tensors


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args(argv)
    halved = {
        key: value.half() if value.is_floating_point() else value
        for key, value in read_state_dict(arguments.run / STUDENT_FILE).items()
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(arguments.out, halved)
    shutil.copy(arguments.run / CARD_FILE, arguments.out.with_name(CARD_FILE))
    say(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(exit_code(main))

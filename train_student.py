#!/usr/bin/env python3
"""Phase two: train a student from labels and the teacher's cached logits, or from labels alone.

The recipe is in kdcache/cli/commands/train.py; `kdcache train` is the same command.
"""

import sys

from kdcache.cli import exit_code, run_command
from kdcache.cli.commands import train


def main(argv: list[str] | None = None) -> int | None:
    """Run phase two with these arguments, by default the process's own."""
    return run_command(train, argv)


if __name__ == "__main__":
    sys.exit(exit_code(main))

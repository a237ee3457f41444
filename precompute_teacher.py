#!/usr/bin/env python3
"""Phase one: run a frozen teacher once over a dataset and store its raw logits in one HDF5 file.

The recipe is in kdcache/cli/commands/precompute.py; `kdcache precompute` is the same command.
"""

import sys

from kdcache.cli import exit_code, run_command
from kdcache.cli.commands import precompute


def main(argv: list[str] | None = None) -> int | None:
    """Run phase one with these arguments, by default the process's own."""
    return run_command(precompute, argv)


if __name__ == "__main__":
    sys.exit(exit_code(main))

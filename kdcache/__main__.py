"""`python -m kdcache COMMAND ...`, the same as `kdcache COMMAND ...`."""

import sys

from kdcache.cli import entry_point

if __name__ == "__main__":
    sys.exit(entry_point())

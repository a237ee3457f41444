"""`python -m kdcache COMMAND`."""

import sys

from kdcache.cli import exit_code, main

if __name__ == "__main__":
    sys.exit(exit_code(main))

"""What a cache must live through: kills, power losses, full disks, damage and forgery.

Each script is `python -m torture.NAME [--count N] [--seed S]` in the folder `tests`, prints one row
of a table and ends with exit code 1 where anything went wrong. `python tests/torture/run.py` runs
all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the package need not be installed
